"""Standbys that take over though an endpoint answers: too many attempts fail, or first tokens come too late.

Floor: tests only; a gateway process, simulated engines, and windows shortened by the configuration.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest

from tests.e2e.fleet import Fleet, running_fleet
from tests.e2e.front import chat, until
from tests.e2e.standby import CHAT, pool, until_level

CLIENTS, PAUSE_SECONDS = 8, 0.05

SHORT: dict[str, Any] = {
    **{"min_samples": 20, "error_window": 6.0, "latency_window": 12.0, "calm_seconds": 8.0, "max_failovers": 1000}
}
"""Long enough that a busy machine does not go there and back between two looks of a test."""
HEALTH = {"interval": 0.5, "timeout": 5.0, "scrape_interval": 0.5, "detect_hung": False}
"""A slow engine is silent for longer than before; that this is not taken for a hang has tests of its own."""
SLOW_SECONDS = 1.0


@pytest.fixture
def engines() -> Iterator[Fleet]:
    with running_fleet(3) as fleet:
        yield fleet


async def serve(fleet: Fleet, **standby: Any) -> None:
    """Two hot engines and an awake warm one."""
    fleet.pool = "main"
    section = pool(fleet, {0: "hot", 1: "hot", 2: "warm"}, **SHORT | standby) | {"health": HEALTH}
    await fleet.reload(fleet.configuration((), tenants={"acme": {"tier": "platinum"}}, pool=section))

    async def well() -> bool:
        return all(one["healthy"] for one in (await fleet.state())["endpoints"])

    await until("all endpoints are well", well)


@asynccontextmanager
async def steady(fleet: Fleet) -> AsyncIterator[list[int]]:
    """A few clients with a request at a time, until the block ends; the statuses of what they were answered."""
    statuses: list[int] = []
    over = asyncio.Event()

    async def ask(client: httpx2.AsyncClient) -> None:
        while not over.is_set():
            statuses.append((await client.post(CHAT, json=chat(max_tokens=1))).status_code)
            await asyncio.sleep(PAUSE_SECONDS)

    async with fleet.client() as client, asyncio.TaskGroup() as group:
        for _ in range(CLIENTS):
            group.create_task(ask(client))
        try:
            yield statuses
        finally:
            over.set()


async def until_answered(statuses: list[int], more: int) -> None:
    enough = len(statuses) + more

    async def so() -> bool:
        return len(statuses) >= enough

    await until(f"{more} more requests are answered", so)


async def changes(fleet: Fleet) -> list[tuple[str, str, str]]:
    return [(one["from"], one["to"], one["cause"]) for one in (await fleet.state())["standby"]["events"]]


async def failovers(fleet: Fleet, to: str, cause: str) -> float:
    return await fleet.metric("promptlane_failovers_total", pool=fleet.pool, to=to, cause=cause)


async def check_there_and_back(fleet: Fleet, cause: str) -> None:
    """State, metrics and log say the same: the warm one for this cause, and the hot ones after a calm."""
    assert await changes(fleet) == [("hot", "warm", cause), ("warm", "hot", "calm")]
    there, back = [one["at"] for one in (await fleet.state())["standby"]["events"]]
    assert back - there >= SHORT["calm_seconds"], "the calm of who was usable all along begins with the change"
    assert (await failovers(fleet, "warm", cause), await failovers(fleet, "hot", "calm")) == (1, 1)
    assert await fleet.metric("promptlane_failovers_total", pool=fleet.pool) == 2
    log = fleet.gateway.log.read_text()
    assert log.count(f"pool main needs its warm standby ({cause})") == 1
    assert log.count(f"pool main is served by warm endpoints instead of hot ({cause})") == 1
    assert log.count("pool main is served by hot endpoints instead of warm (calm)") == 1


async def test_one_attempt_of_ten_that_fails_brings_the_warm_standby_and_no_client_sees_a_failure(
    engines: Fleet,
) -> None:
    await serve(engines)
    async with steady(engines) as sent:
        await until_answered(sent, 10)
        for hot in engines.engines[:2]:
            hot.fault("error", every=10)
        await until_level(engines, "warm")
        for hot in engines.engines[:2]:
            hot.fault("none")
        await until_level(engines, "hot")
        await until_answered(sent, 40)
    assert set(sent) == {200}
    assert await engines.metric("promptlane_attempt_failures_total", pool="main") >= 2
    assert await engines.metric("promptlane_endpoint_ejections_total", pool="main") == 0
    await check_there_and_back(engines, "errors")
    await engines.settled()


async def test_fewer_failures_than_the_bound_bring_nobody(engines: Fleet) -> None:
    await serve(engines, error_rate=0.3)
    async with steady(engines) as sent:
        for hot in engines.engines[:2]:
            hot.fault("error", every=10)
        await until_answered(sent, 80)
    assert set(sent) == {200}
    assert await engines.metric("promptlane_attempt_failures_total", pool="main") >= 4
    assert await changes(engines) == []
    await engines.settled()


async def test_first_tokens_later_than_the_bound_bring_the_warm_standby_which_helps(engines: Fleet) -> None:
    await serve(engines, latency_seconds=SLOW_SECONDS)
    async with steady(engines) as sent:
        for hot in engines.engines[:2]:
            hot.fault("slow", factor=1500.0)  # steps of more than 1.5 s
        await until_level(engines, "warm")

        async def helps() -> bool:
            return engines.seen(2) != []

        await until("the warm one serves", helps)
        for hot in engines.engines[:2]:
            hot.fault("none")
        await until_level(engines, "hot")
    assert set(sent) == {200}
    await check_there_and_back(engines, "latency")
    await engines.settled()
