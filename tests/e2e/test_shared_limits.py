"""Gateway processes that share a Redis hold one limit together: to the last request, and through their deaths."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from benchmarks.limits_parts.clients import Client, hammer
from benchmarks.limits_parts.engine import TOKENS
from benchmarks.limits_parts.stack import Fleet, fleet
from policies.admission.calendar import MINUTE

REPLICAS, CLIENTS = 2, 12
SECONDS = 8.0
LIMITS = {
    "requests": {"requests_per_minute": 150},
    "tokens": {"tokens_per_minute": 1000},
    "at-once": {"concurrency": 7},
    "spent": {"requests_per_minute": 1},
    "dying": {"concurrency": 3, "requests_per_minute": 1000},
}


@pytest.fixture
async def running(request: pytest.FixtureRequest) -> AsyncIterator[Fleet]:
    async with fleet(REPLICAS, LIMITS, seconds=0.05) as found:
        yield found


async def ask(url: str, tenant: str) -> int:
    """The status of one request on a connection of its own."""
    client = Client(url, tenant)
    status, _ = await client.ask()
    client.close()
    return status


def seconds(written: str) -> float:
    """A Go duration of less than an hour: `59.5s`, `1m0.2s`."""
    minutes, _, rest = written.rpartition("m")
    return 60 * int(minutes or 0) + float(rest.removesuffix("s"))


async def pound(running: Fleet, tenant: str, seconds: float) -> Counter[int]:
    until = time.monotonic() + seconds
    clients = [hammer(one.url, tenant, until, 0.05) for one in running.gateways for _ in range(CLIENTS)]
    statuses: Counter[int] = Counter()
    for one in await asyncio.gather(*clients):
        statuses += one
    return statuses


async def test_replicas_together_admit_what_one_would_and_not_a_request_more(running: Fleet) -> None:
    await asyncio.gather(*(pound(running, tenant, SECONDS) for tenant in ("requests", "tokens", "at-once")))
    admitted, most = running.engine.admitted, running.engine.most
    assert admitted["requests"] == 150
    assert 0.97 * 1000 <= admitted["tokens"] * TOKENS <= 1000
    assert most["at-once"] == 7
    assert admitted["at-once"] > 7


async def test_a_refused_client_learns_which_limit_it_was_and_when_to_come_back(running: Fleet) -> None:
    first, second = (Client(one.url, "spent") for one in running.gateways)
    began = time.monotonic()
    status, headers = await first.ask()
    assert status == 200
    assert headers["x-ratelimit-limit-requests"] == "1"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    status, headers = await second.ask()
    assert status == 429
    assert headers["x-promptlane-limit"] == "tenant requests_per_minute"
    left = 60 - (time.monotonic() - began)
    assert left - MINUTE.slice_seconds < int(headers["retry-after"]) <= 62
    assert int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])
    assert left - MINUTE.slice_seconds < seconds(headers["x-ratelimit-reset-requests"]) <= 62
    first.close()
    second.close()


async def test_a_killed_gateways_seats_are_its_fellows_within_seconds(running: Fleet) -> None:
    running.engine.seconds = 60.0
    dying, living = running.gateways
    held = [asyncio.create_task(ask(dying.url, "dying")) for _ in range(3)]
    async with asyncio.timeout(60):
        while running.engine.running["dying"] < 3:  # noqa: ASYNC110 - it happens in another process
            await asyncio.sleep(0.02)
    assert await ask(living.url, "dying") == 429
    os.kill(dying.process.pid, signal.SIGKILL)
    assert await asyncio.gather(*held) == [0, 0, 0]
    running.engine.running.clear()  # a real engine ends what nobody waits for
    running.engine.most.clear()
    running.engine.seconds = 0.0
    async with asyncio.timeout(60):
        while await ask(living.url, "dying") != 200:  # noqa: ASYNC110 - as clients do
            await asyncio.sleep(0.1)
    assert running.engine.most["dying"] == 1
