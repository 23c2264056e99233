"""A simulated vLLM server: one model of the engine, used over HTTP here and on a virtual clock in replays.

Floor: `benchmarks` may import `policies` and `router`, and nothing imports `benchmarks` except tests and the demo.
"""
