"""Promptlane's waiting half: sockets, clocks, files. Decisions live in `policies`."""

__version__ = "0.1.0"
