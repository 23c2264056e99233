"""The parts of `benchmarks.real_vllm`. Floor: benchmarks."""
