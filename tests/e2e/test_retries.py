"""Engines that die, refuse and break off before anything was seen of their answer: no client notices.

Floor: tests only; the gateway process as it is installed, and engines that fail on command.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.fleet import Fleet, running_fleet
from tests.e2e.front import chat

CHAT = "/v1/chat/completions"
IN_FLIGHT = 60
ANSWER_TOKENS = 24
TURNS = {"profile": "round-robin", "health": {"interval": 60.0, "scrape_interval": 60.0}}
"""Each engine in turn, and no probe that finds out before a request does."""


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    with running_fleet(2) as one:
        yield one


@pytest.fixture(autouse=True)
async def _well(fleet: Fleet) -> AsyncIterator[None]:
    for engine in fleet.engines:
        engine.fault("none")
        engine.clear()
    yield
    for engine in fleet.engines:
        engine.fault("none")
    if fleet.pool:  # else the test had one of its own
        await fleet.settled()


def events(body: bytes) -> list[Any]:
    """The data of a stream's events, in order; `[DONE]` as a text."""
    found = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part.startswith(b"data: ")]
    return ["[DONE]" if one == b"[DONE]" else json.loads(one) for one in found]


def check_stream(body: bytes, tokens: int) -> None:
    """One complete answer: one role, all of its tokens, one end, and no error."""
    found = events(body)
    assert found[-1] == "[DONE]"
    chunks = found[:-1]
    assert not [chunk for chunk in chunks if "error" in chunk]
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert sum("role" in choice["delta"] for choice in choices) == 1
    assert sum(bool(choice["delta"].get("content")) for choice in choices) == tokens
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["length"]


async def stream(client: httpx2.AsyncClient, tokens: int = ANSWER_TOKENS) -> bytes:
    answer = await client.post(CHAT, json=chat(stream=True, max_tokens=tokens, ignore_eos=True))
    assert answer.status_code == 200, answer.text
    return answer.content


async def test_a_killed_engine_with_many_requests_and_no_output_loses_none_of_them() -> None:
    with running_fleet(2) as fleet:
        await fleet.serve((0, 1), pool=TURNS)
        for engine in fleet.engines:
            engine.fault("hang")
        async with fleet.client() as client:
            whole = [asyncio.create_task(client.post(CHAT, json=chat(max_tokens=3))) for _ in range(IN_FLIGHT // 2)]
            streams = [asyncio.create_task(stream(client, 3)) for _ in range(IN_FLIGHT // 2)]
            await fleet.until_in_flight(IN_FLIGHT)
            assert (await fleet.endpoint("e0"))["in_flight"] == IN_FLIGHT // 2
            fleet.engines[0].kill()
            fleet.engines[1].fault("none")
            answers = await asyncio.gather(*whole)
            bodies = await asyncio.gather(*streams)
        assert [answer.status_code for answer in answers] == [200] * len(answers)
        assert {answer.json()["usage"]["completion_tokens"] for answer in answers} == {3}
        for body in bodies:
            check_stream(body, 3)
        retried = await fleet.metric("promptlane_retries_total", pool=fleet.pool)
        assert retried >= IN_FLIGHT // 2
        assert await fleet.metric("promptlane_retry_budget_exhausted_total", pool=fleet.pool) == 0
        await fleet.settled()


@pytest.mark.parametrize(
    ("kind", "after"),
    [("error", 0), ("error", 1), ("abort", 0), ("abort", 1), ("die-mid-stream", 0), ("die-mid-stream", 1)],
)
async def test_a_stream_that_breaks_before_content_is_retried_and_has_one_role(
    fleet: Fleet, kind: str, after: int
) -> None:
    await fleet.serve((0, 1), pool=TURNS)
    fleet.engines[0].fault(kind, after_chunks=after)
    async with fleet.client() as client:
        for body in [await stream(client) for _ in range(4)]:
            check_stream(body, ANSWER_TOKENS)
    assert await fleet.metric("promptlane_retries_total", pool=fleet.pool) >= 1


@pytest.mark.parametrize("fault", [{"kind": "error", "status": 503}, {"kind": "abort"}, {"kind": "refuse"}])
async def test_a_whole_answer_that_is_none_is_retried(fleet: Fleet, fault: dict[str, Any]) -> None:
    await fleet.serve((0, 1), pool=TURNS)
    fleet.engines[0].fault(**fault)
    async with fleet.client() as client:
        answers = [await client.post(CHAT, json=chat(max_tokens=ANSWER_TOKENS)) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    assert {answer.json()["choices"][0]["finish_reason"] for answer in answers} == {"length"}
    assert await fleet.metric("promptlane_retries_total", pool=fleet.pool) >= 1


@pytest.mark.parametrize("kind", ["error", "abort", "die-mid-stream"])
async def test_a_stream_that_breaks_after_content_ends_with_an_error_and_without_done_and_goes_nowhere_else(
    fleet: Fleet, kind: str
) -> None:
    await fleet.serve((0, 1), pool=TURNS)
    for engine in fleet.engines:
        engine.fault(kind, after_chunks=600)  # more than is ever read at once
    async with fleet.client() as client:
        found = events(await stream(client, 700))
    assert "[DONE]" not in found
    assert found[-1]["error"]["code"] in ("engine_aborted", "engine_closed")
    assert sum("error" in one for one in found) == 1
    assert len(fleet.seen(0)) + len(fleet.seen(1)) == 1


async def test_a_late_short_stream_is_answered_by_the_other_engine(fleet: Fleet) -> None:
    hedging = {"enabled": True, "share": 0.5}
    await fleet.serve((0, 1), pool=TURNS | {"hedging": hedging})
    async with fleet.client() as client:
        for _ in range(11):  # so that a p99 is known
            await asyncio.gather(*(stream(client, 1) for _ in range(20)))
        fleet.engines[0].fault("hang")
        for _ in range(4):
            check_stream(await stream(client, 2), 2)
    won = await fleet.metric("promptlane_hedges_total", pool=fleet.pool, result="won")
    assert won >= 1
    assert await fleet.metric("promptlane_retries_total", pool=fleet.pool) == 0
