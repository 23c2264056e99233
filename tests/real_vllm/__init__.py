"""Installs and starts the real vLLM on the CPU, for the same end-to-end suite that runs on simulated engines."""
