"""Tests of the simulated vLLM server, beside captures of the real one in `samples/`."""
