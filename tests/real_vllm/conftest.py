"""These tests start real vLLM servers: only where `--engine=vllm` asks for them (tests/real_vllm/run.sh)."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return True if collection_path.suffix == ".py" and config.getoption("--engine") != "vllm" else None
