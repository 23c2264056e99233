"""The parts of `benchmarks.fleet`; `benchmarks.real_vllm` shares the client and the figures. Floor: benchmarks."""
