"""A stream that its engine breaks off goes on at another: the client sees one stream, and every token once.

Floor: tests only; simulated engines, as they break where they are told to. Their replies hang on the tokens before
alone, so that what an unbroken stream says is known.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from tests.e2e.fleet import MODEL, Fleet, prompt, running_fleet

PLATINUM = {"tenants": {"acme": {"tier": "platinum"}}}
TOKENS = 40
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with running_fleet(3) as fleet:
        yield fleet


@pytest.fixture
async def fleet(running: Fleet) -> AsyncIterator[Fleet]:
    yield running
    for engine in running.engines:
        engine.fault("none")
    await running.settled()


def question(path: str, seed: object, **fields: Any) -> dict[str, Any]:
    text = prompt(80, seed)
    asked: dict[str, Any] = (
        {"prompt": text} if path == COMPLETIONS else {"messages": [{"role": "user", "content": text}]}
    )
    return {"model": MODEL, "max_tokens": TOKENS, "stream": True, "temperature": 0, **asked, **fields}


async def stream(fleet: Fleet, path: str, body: dict[str, Any]) -> list[str]:
    """The data of each event, as the client got them."""
    async with fleet.client() as client, client.stream("POST", path, json=body) as answer:
        assert answer.status_code == 200
        return [line.removeprefix("data: ") async for line in answer.aiter_lines() if line]


def chunks(events: list[str]) -> list[dict[str, Any]]:
    assert events[-1] == "[DONE]", events[-3:]
    return [json.loads(event) for event in events[:-1]]


def text_of(parts: list[dict[str, Any]]) -> str:
    choices = [choice for part in parts for choice in part["choices"]]
    return "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in choices)


def shape(part: dict[str, Any]) -> dict[str, Any]:
    """A chunk without what differs between any two answers."""
    bare = {name: value for name, value in part.items() if name not in ("id", "created", "usage", "system_fingerprint")}
    return bare | {"usage": sorted(part.get("usage", {})) != []}


FAULTS = ["die-mid-stream", "error", "abort"]


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("usage", [{}, {"stream_options": {"include_usage": True}}], ids=["", "usage"])
async def test_a_broken_stream_is_the_unbroken_one(fleet: Fleet, path: str, fault: str, usage: dict[str, Any]) -> None:
    await fleet.serve((0, 1), **PLATINUM)
    for cut in (2, 7, 20, TOKENS):
        body = question(path, f"{path} {fault} {cut}", **usage)
        whole = chunks(await stream(fleet, path, body))
        for engine in (0, 1):
            fleet.engines[engine].fault(fault, after_chunks=cut, count=1)
        got = chunks(await stream(fleet, path, body))
        for engine in (0, 1):
            fleet.engines[engine].fault("none")
        assert text_of(got) == text_of(whole)
        assert [shape(part) for part in got] == [shape(part) for part in whole], cut
        assert len({(part["id"], part["created"]) for part in got}) == 1
        counts = [
            [part.get("usage", {}).get(name) for part in parts]
            for parts in (got, whole)
            for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        ]
        assert counts[:3] == counts[3:]
