"""`make test` checks the harness itself; schedules are played by `make chaos`, the real vLLM by `make test-vllm`."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    real = collection_path.name == "test_real_vllm.py"
    if collection_path.suffix != ".py":
        return None
    return True if real != (config.getoption("--engine") == "vllm") else None
