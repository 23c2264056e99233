"""Workers hold one limit together, without Redis: to the last request, and through the death of any of them."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator

import psutil
import pytest

from benchmarks.limits_parts.clients import hammer
from benchmarks.limits_parts.engine import TOKENS, CountingEngine, listening
from benchmarks.limits_parts.stack import configuration
from tests.e2e.front import start_gateway
from tests.e2e.workers import SECRET
from tests.servers import Server, free_port, temporary_folder

WORKERS, CLIENTS = 4, 28
SECONDS = 8.0
LIMITS = {
    "requests": {"requests_per_minute": 150},
    "tokens": {"tokens_per_minute": 1000},
    "at-once": {"concurrency": 7},
    "dying": {"requests_per_minute": 120, "concurrency": 5},
    "alone": {"requests_per_minute": 40},
}


@pytest.fixture
async def engine() -> AsyncIterator[CountingEngine]:
    async with listening(CountingEngine(0.05)) as found:
        yield found


@pytest.fixture
async def gateway(engine: CountingEngine) -> AsyncIterator[Server]:
    config = configuration("redis://nobody", (engine.port, free_port()), LIMITS, 1)
    del config["state"], config["replicas"]
    config["server"]["workers"] = WORKERS
    with temporary_folder("workers") as (folder, remove):
        file = folder / "promptlane.yaml"
        file.write_text(json.dumps(config))
        ports = (config["server"]["port"], config["server"]["admin_port"])
        found = await asyncio.to_thread(start_gateway, file, folder, ports, SECRET, remove)
    yield found
    await asyncio.to_thread(found.stop)


async def pound(gateway: Server, tenant: str, seconds: float) -> Counter[int]:
    """Clients on connections of their own, which the kernel deals out to all workers."""
    end = time.monotonic() + seconds
    statuses: Counter[int] = Counter()
    for one in await asyncio.gather(*(hammer(gateway.url, tenant, end, 0.05) for _ in range(CLIENTS))):
        statuses += one
    return statuses


async def test_workers_together_admit_what_one_would_and_not_a_request_more(
    gateway: Server, engine: CountingEngine
) -> None:
    tenants = ("requests", "tokens", "at-once")
    seen = await asyncio.gather(*(pound(gateway, tenant, SECONDS) for tenant in tenants))
    assert all(set(statuses) == {200, 429} for statuses in seen), seen
    assert engine.admitted["requests"] == 150
    assert 0.97 * 1000 <= engine.admitted["tokens"] * TOKENS <= 1000
    assert engine.most["at-once"] == 7
    assert engine.admitted["at-once"] > 7


async def test_what_a_killed_worker_had_stays_counted_and_its_seats_are_its_fellows_soon(
    gateway: Server, engine: CountingEngine
) -> None:
    before = await pound(gateway, "dying", 0.2)
    victims = psutil.Process(gateway.process.pid).children()[:2]
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    engine.running.clear()  # a real engine ends what nobody waits for
    after = await pound(gateway, "dying", 15.0)  # until leases of the dead have ended
    assert before[200] > 0
    assert after[200] > 0
    assert 0.7 * 120 <= engine.admitted["dying"] <= 120  # what the dead had leased and not spent is gone with them
    assert engine.most["dying"] <= 5


async def test_without_their_supervisor_workers_go_by_their_share(gateway: Server, engine: CountingEngine) -> None:
    """A supervisor that does not answer is a Redis that is away; `without_redis` says what then."""
    assert (await pound(gateway, "alone", 0.2))[200] > 0
    gateway.process.send_signal(signal.SIGSTOP)
    statuses = await pound(gateway, "alone", 4.0)
    gateway.process.send_signal(signal.SIGCONT)
    assert set(statuses) <= {200, 429}
    assert engine.admitted["alone"] <= 40
