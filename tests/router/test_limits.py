"""A tenant that hammers a limit is refused slowly, so that its refusals cost other tenants nothing."""

from __future__ import annotations

import asyncio

import pytest

from policies.admission.limit import Use
from policies.admission.limits import LimitGrant, LimitRules, TenantLimits, in_memory
from policies.admission.refusal_pace import BURST
from policies.types import LimitSpec
from router.errors import RateLimited
from router.limits import Limiter
from router.metrics import Metrics

NOW = 100.0  # the clock stands still: no refusal is forgotten


@pytest.fixture
def limiter() -> Limiter:
    limits = TenantLimits(LimitRules(LimitSpec(concurrency=1)), in_memory(0.0))
    return Limiter("acme", limits, None, Metrics())


async def admit(limiter: Limiter) -> LimitGrant:
    return await limiter.admit(lambda: NOW, Use(1), "", "", 100)


async def refused(limiter: Limiter, count: int) -> None:
    """So often at once, each without a pause."""
    for _ in range(count):
        with pytest.raises(RateLimited):
            async with asyncio.timeout(0):  # anything that waits ends as TimeoutError
                await admit(limiter)


async def test_a_request_beyond_many_refusals_waits_and_is_refused(limiter: Limiter) -> None:
    await admit(limiter)
    await refused(limiter, BURST)
    waiting = asyncio.create_task(admit(limiter))
    await asyncio.sleep(0)
    assert not waiting.done()
    with pytest.raises(RateLimited):
        await waiting
    assert limiter.in_flight == 1


async def test_a_request_that_waited_takes_what_has_come_free(limiter: Limiter) -> None:
    first = await admit(limiter)
    await refused(limiter, BURST)
    waiting = asyncio.create_task(admit(limiter))
    await asyncio.sleep(0)
    first.settle(NOW, None)
    await waiting
    assert limiter.in_flight == 1


async def test_a_client_that_leaves_meanwhile_holds_nothing(limiter: Limiter) -> None:
    await admit(limiter)
    await refused(limiter, BURST)
    before = limiter.held
    waiting = asyncio.create_task(admit(limiter))
    await asyncio.sleep(0)
    assert limiter.held == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert limiter.held == before == 0
    assert limiter.in_flight == 1
