"""The parts of `benchmarks.soak`, one idea a file.

answer -> load, kills; stack -> leaks; watch; report. Traffic, processes and measures come from `overhead_parts`.
Rule of this floor: nothing here is imported by `router` or `policies`, and all traffic stays on loopback.
"""
