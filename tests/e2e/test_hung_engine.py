"""Engines that are silent though their ports are open: found, taken out, and gently taken back.

Floor: tests only; a simulated engine, as no other hangs on command.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from tests.e2e.fleet import Fleet, running_fleet
from tests.e2e.front import HEALTH, MODEL, chat, prompt, until

CHAT = "/v1/chat/completions"
CLIENTS = 6
WATCHED = {"health": {**HEALTH, "detect_hung": True, "slow_start": 2.0}}


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    with running_fleet(2) as running:
        yield running


@pytest.fixture
def pooling() -> Iterator[Fleet]:
    """Engines of a model of embeddings."""
    with running_fleet(2, computes="vectors") as running:
        yield running


@pytest.fixture
async def fleet(engines: Fleet) -> AsyncIterator[Fleet]:
    """Engines that are well; afterwards nothing may be left in the gateway's books."""
    yield engines
    for engine in engines.engines:
        engine.thaw()
        engine.fault("none")
    await engines.settled()
    for engine in engines.engines:
        engine.clear()


@dataclass
class Ends:
    """How requests ended: whole answers, errors in the middle of a stream, and anything else."""

    good: int = 0
    broken: int = 0
    refused: list[str] = field(default_factory=list)


Ask = Callable[[int], tuple[str, dict[str, Any]]]
"""What the client of this number asks each time: the path, and a body."""


def text(number: int) -> tuple[str, dict[str, Any]]:
    """Streams and answers in one piece."""
    return CHAT, chat(50, stream=number % 2 == 0, max_tokens=8)


def vectors(number: int) -> tuple[str, dict[str, Any]]:
    """Embeddings, scores and rankings."""
    return (
        ("/v1/embeddings", {"model": MODEL, "input": prompt(50)}),
        ("/v1/score", {"model": MODEL, "text_1": prompt(20), "text_2": prompt(20)}),
        ("/v1/rerank", {"model": MODEL, "query": prompt(20), "documents": [prompt(20), prompt(20)]}),
    )[number % 3]


async def _client(client: httpx2.AsyncClient, ends: Ends, ask: Ask, number: int) -> None:
    while True:
        path, body = ask(number)
        answer = await client.post(path, json=body)
        if answer.status_code != 200:
            ends.refused.append(answer.text)
        elif body.get("stream") and '"error"' in answer.text:
            ends.broken += 1
        else:
            ends.good += 1
        await asyncio.sleep(0.02)


@asynccontextmanager
async def traffic(fleet: Fleet, ask: Ask = text) -> AsyncIterator[Ends]:
    """A steady mix, as long as the block lasts."""
    ends = Ends()
    async with fleet.client() as client:
        tasks = [asyncio.create_task(_client(client, ends, ask, number)) for number in range(CLIENTS)]
        try:
            yield ends
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def until_status(fleet: Fleet, name: str, *wanted: str) -> str:
    """Until the endpoint's status is one of these; which one."""
    found = ""

    async def so() -> bool:
        nonlocal found
        found = (await fleet.endpoint(name))["status"]
        return found in wanted

    await until(f"{name} is {' or '.join(wanted)}", so)
    return found


async def until_known(fleet: Fleet) -> float:
    """Until the first tokens of both engines are known; the first engine's p99."""
    known = [5.0]

    async def so() -> bool:
        known[:] = [one["learned"]["first_token_p99"] for one in (await fleet.state())["endpoints"]]
        return max(known) < 2.0

    await until("first tokens have been seen at both engines", so)
    return known[0]


async def until_served(ends: Ends, more: int) -> None:
    enough = ends.good + more

    async def so() -> bool:
        return ends.good >= enough

    await until(f"{more} more requests are served", so)


async def ejections(fleet: Fleet, cause: str = "hung") -> float:
    return await fleet.metric("promptlane_endpoint_ejections_total", pool=fleet.pool, endpoint="e0", cause=cause)


@pytest.mark.parametrize("how", ["stopped", "paused"])
async def test_a_silent_engine_is_found_its_work_is_done_elsewhere_and_it_comes_back_gently(
    fleet: Fleet, how: str
) -> None:
    await fleet.serve((0, 1), pool=WATCHED)
    engine = fleet.engines[0]
    async with traffic(fleet) as ends, httpx2.AsyncClient(timeout=60.0, trust_env=False) as operator:
        p99 = await until_known(fleet)
        began = time.monotonic()
        if how == "stopped":
            engine.freeze()
        else:
            await operator.post(f"{engine.url}/pause")
        await until_status(fleet, "e0", "hung", "paused", "half-open")
        took = time.monotonic() - began
        print(f"\n{how}: found after {took:.2f} s; 2 x p99 ({p99:.3f} s) + 1 s = {2 * p99 + 1:.2f} s")
        # A pause ends what is under way, and three that are ended in a row are as good a reason.
        failures = await ejections(fleet, "failures") if how == "paused" else 0
        assert await ejections(fleet) + failures == 1
        await until_served(ends, 20)
        assert (await fleet.endpoint("e0"))["in_flight"] == 0, "it has nothing under way any more"
        if how == "paused":
            await until_status(fleet, "e0", "paused")
            await operator.post(f"{engine.url}/resume")
        engine.thaw()
        await until_status(fleet, "e0", "starting", "healthy")
        await until_status(fleet, "e0", "healthy")
        answered = len(engine.requests())
        await until_served(ends, 20)
        assert len(engine.requests()) > answered, "it serves again"
    assert ends.refused == []
    assert how == "paused" or await ejections(fleet, "failures") == 0


async def test_an_engine_that_serves_only_embeddings_is_found_to_hang_each_time(pooling: Fleet) -> None:
    """No stream shows a first token, and there is no completion to try it with."""
    await pooling.serve((0, 1), pool=WATCHED)
    async with traffic(pooling, vectors) as ends:
        for times in (1, 2):
            p99 = await until_known(pooling)
            began = time.monotonic()
            pooling.engines[0].freeze()
            await until_status(pooling, "e0", "hung", "half-open")
            took = time.monotonic() - began
            print(f"\nembeddings: found after {took:.2f} s; 2 x p99 ({p99:.3f} s) + 1 s = {2 * p99 + 1:.2f} s")
            assert await ejections(pooling) == times
            await until_served(ends, 20)
            pooling.engines[0].thaw()
            await until_status(pooling, "e0", "healthy")
    assert ends.refused == []
    assert await ejections(pooling, "failures") == 0
    await pooling.settled()


async def test_a_pools_only_endpoint_is_never_ejected_and_answers_when_it_comes_back(fleet: Fleet) -> None:
    await fleet.serve((0,), pool=WATCHED)
    async with fleet.client() as client:
        async with traffic(fleet):
            await until_known(fleet)
        fleet.engines[0].freeze()
        waiting = asyncio.create_task(client.post(CHAT, json=chat(50)))
        await until_status(fleet, "e0", "suspected", "unhealthy")
        fleet.engines[0].thaw()
        assert (await waiting).status_code == 200
    await until_status(fleet, "e0", "healthy")
    assert await ejections(fleet) == 0


async def test_the_models_that_engines_serve_are_shown_and_a_missing_one_is_warned_of_once(fleet: Fleet) -> None:
    await fleet.serve((0, 1))

    async def shown() -> bool:
        return all(one["models"] for one in (await fleet.state())["endpoints"])

    await until("models are shown", shown)
    config = json.loads(json.dumps(fleet.config))
    models: dict[str, Any] = config["tenants"]["acme"]["models"]
    models["ghost"] = {"pool": fleet.pool, "engine_model": "not-there"}
    await fleet.reload(config)

    def warned() -> list[str]:
        return sorted(re.findall(r"endpoint (\w+) does not serve not-there", fleet.gateway.log.read_text()))

    async def both() -> bool:
        return len(warned()) >= 2

    await until("both endpoints are warned of", both)
    assert warned() == ["e0", "e1"], "each once"
