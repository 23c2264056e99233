"""The parts of `benchmarks.overhead`, one idea a file.

answers -> backend (process), load (process); measure; processes -> gateways -> rounds -> report.
Rule of this floor: nothing here is imported by `router` or `policies`, and all traffic stays on loopback.
"""
