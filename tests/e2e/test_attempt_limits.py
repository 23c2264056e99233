"""How long an engine may take, and how often what it failed is repeated: by the pool's configuration, over HTTP.

Floor: tests only; the gateway process as it is installed, and engines that fail on command.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx2
import pytest

from tests.e2e.fleet import LARGE, Fleet, anew, running_fleet
from tests.e2e.front import chat

CHAT = "/v1/chat/completions"
TURNS = {"profile": "round-robin", "health": {"interval": 60.0, "scrape_interval": 60.0, "detect_hung": False}}
"""Each engine in turn, and nothing but requests finds out that one fails."""


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    with running_fleet(2) as running:
        yield running


@pytest.fixture
async def fleet(engines: Fleet) -> AsyncIterator[Fleet]:
    async with anew(engines):
        yield engines


def limits(**timeouts: float) -> dict[str, Any]:
    return {**TURNS, "timeouts": timeouts}


def fault(fleet: Fleet, kind: str, **fields: Any) -> None:
    """At every engine."""
    for engine in fleet.engines:
        engine.fault(kind, **fields)


def sent(fleet: Fleet) -> int:
    """Attempts that reached an engine."""
    return sum(len(fleet.seen(number)) for number in range(len(fleet.engines)))


def last_event(text: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(text.rstrip("\n").rpartition("data: ")[2])
    return found


async def test_a_stream_that_falls_silent_is_ended_by_the_idle_limit_and_not_repeated(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool=limits(idle=2.0))
    fault(fleet, "silent", after_chunks=9)
    async with fleet.client() as client:
        answer = await client.post(CHAT, json=chat(stream=True, max_tokens=50, ignore_eos=True))
    assert answer.status_code == 200
    assert '"content"' in answer.text
    assert "[DONE]" not in answer.text
    assert last_event(answer.text)["error"]["code"] == "engine_timeout"
    assert sent(fleet) == 1


async def test_an_answer_that_goes_on_for_ever_is_ended_by_the_total_limit(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool=limits(total=3.0))
    fault(fleet, "slow", factor=20.0)
    async with fleet.client() as client:
        answer = await client.post(CHAT, json=chat(stream=True, max_tokens=50_000, ignore_eos=True))
    assert answer.text.count('"content"') > 2, "it was never idle"
    assert "[DONE]" not in answer.text
    assert last_event(answer.text)["error"]["code"] == "engine_timeout"
    assert sent(fleet) == 1


async def test_a_first_byte_that_does_not_come_is_asked_for_elsewhere(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool=limits(first_byte_least=2.0, first_byte_factor=1.0))
    fleet.engines[0].fault("hang")
    async with fleet.client() as client:
        answers = [await client.post(CHAT, json=chat(stream=True)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert [answer.text.count("[DONE]") for answer in answers] == [1, 1]
    assert await fleet.metric("promptlane_retries_total", pool=fleet.pool, cause="timeout") == 1


async def test_a_long_prompt_has_the_time_that_is_predicted_for_it(fleet: Fleet) -> None:
    """The engine takes three times as long as the least limit, which is less than is believed of such a prompt."""
    await fleet.serve((0, 1), pool=limits(first_byte_least=0.2, first_byte_factor=5.0))
    fault(fleet, "slow", factor=3.0)
    async with fleet.client() as client:
        answer = await client.post(CHAT, json=chat(LARGE, stream=True))
    assert answer.text.endswith("data: [DONE]\n\n")
    assert await fleet.metric("promptlane_attempt_failures_total", pool=fleet.pool) == 0


async def test_nothing_is_repeated_past_the_requests_deadline(fleet: Fleet) -> None:
    pool = limits(first_byte_least=1.5, first_byte_factor=1.0)
    await fleet.serve((0, 1), pool=pool, lanes={"short": {"max_wait": 1.0}})
    fault(fleet, "hang")
    async with fleet.client() as client:
        answer = await client.post(CHAT, json=chat(stream=True))
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "engine_timeout")
    assert await fleet.metric("promptlane_retries_total", pool=fleet.pool) == 0


async def test_where_every_engine_fails_the_load_grows_by_the_budget_and_no_more(fleet: Fleet) -> None:
    requests, share, reserve = 60, 0.1, 3
    budget = {"retry_budget": {"share": share, "reserve": reserve}, "retries": 5, "retry_wait": 0}
    await fleet.serve((0, 1), pool=TURNS | budget)
    fault(fleet, "error", status=500)
    async with fleet.client() as client:
        answers = await asyncio.gather(*(client.post(CHAT, json=chat()) for _ in range(requests)))
    assert {answer.status_code for answer in answers} <= {500, 503}
    # How much of it is used hangs on when the circuits open: what then finds no endpoint is sent nowhere.
    assert 0 < sent(fleet) - requests <= reserve + share * requests
    refused = [answer for answer in answers if answer.headers.get("x-should-retry") == "false"]
    exhausted = await fleet.metric("promptlane_retry_budget_exhausted_total", pool=fleet.pool)
    assert len(refused) == exhausted > 0, "SDKs are told not to do what the gateway may not"


@pytest.mark.parametrize("status", [400, 429, 504])
async def test_what_the_request_or_its_time_caused_is_not_repeated(fleet: Fleet, status: int) -> None:
    await fleet.serve((0, 1), pool=TURNS)
    fault(fleet, "error", status=status)
    async with fleet.client() as client:
        answer: httpx2.Response = await client.post(CHAT, json=chat())
    assert (answer.status_code, sent(fleet)) == (status, 1)
