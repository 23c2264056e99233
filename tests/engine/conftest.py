"""Engines on the test's own event loop, a client for them, and the captured samples."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.launch import serve_in_process

SAMPLES = Path(__file__).parent / "samples"
PATIENCE = 10.0
"""Seconds after which something that should happen at once has not happened."""

FAST = EngineConfig(prefill_tokens_per_second=1e6, decode_step_seconds=0.0002, max_model_len=8192, wake_seconds=0.001)
SLOW = EngineConfig(prefill_tokens_per_second=1e6, decode_step_seconds=0.02, max_model_len=8192)
"""One token in 20 ms: an answer of 4,000 tokens is under way for as long as any test needs."""


class EngineClient(httpx2.AsyncClient):
    """An HTTP client of one engine with what the tests ask it most."""

    async def ask(self, content: str = "hello there", **fields: Any) -> httpx2.Response:
        body = {"messages": [{"role": "user", "content": content}], **fields}
        return await self.post("/v1/chat/completions", json=body)

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.get("/debug/state")).json()
        return state

    async def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The first state for which it holds."""
        async with asyncio.timeout(PATIENCE):
            while True:
                state = await self.state()
                if holds(state):
                    return state

    async def fault(self, kind: str, **fields: Any) -> None:
        answer = await self.post("/fault", json={"kind": kind, **fields})
        assert answer.status_code == 200, answer.text


def sample(name: str) -> str:
    return (SAMPLES / f"{name}.txt").read_text()


def sample_body(name: str) -> Any:
    """The JSON of a sample that has headers before it or a status after it."""
    text = sample(name)
    line = next(line for line in text.splitlines() if line.startswith("{"))
    return json.loads(line)


def sample_status(name: str) -> int:
    return int(sample(name).strip().splitlines()[-1].strip("[]"))


def sample_headers(name: str) -> list[str]:
    head = sample(name).split("\n\n")[0].replace("\r", "").splitlines()[1:]
    return [line.split(":")[0] for line in head]


def events(text: str) -> list[Any]:
    """The data of every SSE event; [DONE] stays a string."""
    found = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in found]


def shape(value: Any) -> Any:
    """Keys in their order and the kinds of values; of a list its first item."""
    if isinstance(value, dict):
        return [(key, shape(inner)) for key, inner in value.items()]
    if isinstance(value, list):
        return ["list", *map(shape, value[:1])]
    return type(value).__name__


@pytest.fixture
async def engine() -> AsyncIterator[EngineClient]:
    async with serve_in_process(FAST) as url, EngineClient(base_url=url, timeout=PATIENCE, verify=False) as client:
        yield client


@pytest.fixture
async def slow_engine() -> AsyncIterator[EngineClient]:
    async with serve_in_process(SLOW) as url, EngineClient(base_url=url, timeout=PATIENCE, verify=False) as client:
        yield client
