"""Sleep, wake and canary on a simulated engine, and who has an engine that several pools share."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.launch import serve_in_process
from benchmarks.engine.server import running_server
from router.wake import EngineControl, Leases, WakeFailed
from tests.router.builders import NOBODY, turns

FAST = EngineConfig(model="tiny", wake_seconds=0.05)


@asynccontextmanager
async def control(
    *models: str, wake_seconds: float = 10.0, canary_seconds: float = 10.0
) -> AsyncIterator[EngineControl]:
    one = EngineControl(models, wake_seconds=wake_seconds, canary_seconds=canary_seconds)
    try:
        yield one
    finally:
        await one.close()


async def test_an_engine_sleeps_wakes_and_answers_the_canary() -> None:
    async with serve_in_process(FAST) as url, control("tiny") as engine:
        assert (await engine.healthy(url), await engine.asleep(url)) == (True, False)
        assert await engine.sleep(url)
        assert (await engine.healthy(url), await engine.asleep(url)) == (True, True)
        await engine.wake(url)
        assert not await engine.asleep(url)
        await engine.canary(url)


async def test_the_canary_asks_the_engine_for_its_model_where_nobody_knows_it() -> None:
    async with running_server(FAST) as server, control() as engine:
        await engine.canary(server.main.url)
        (asked,) = server.app.recorder.all()
    assert (asked["path"], json.loads(asked["body"])["model"]) == ("/v1/completions", "tiny")


async def test_a_canary_for_a_model_that_the_engine_does_not_have_fails_if_it_lists_none() -> None:
    async with control("tiny") as engine:
        with pytest.raises(WakeFailed, match="not answered within"):
            await engine.canary(NOBODY)


async def test_an_engine_that_still_sleeps_does_not_answer_its_canary_in_time() -> None:
    async with serve_in_process(FAST) as url, control("tiny", canary_seconds=0.2) as engine:
        await engine.sleep(url)
        with pytest.raises(WakeFailed, match=r"not answered within 0\.2 seconds"):
            await engine.canary(url)


async def test_an_engine_that_does_not_wake_in_time_has_not_woken() -> None:
    slow = EngineConfig(model="tiny", wake_seconds=60.0)
    async with serve_in_process(slow) as url, control("tiny", wake_seconds=0.2) as engine:
        await engine.sleep(url)
        with pytest.raises(WakeFailed, match=r"/wake_up was not answered within 0\.2 seconds"):
            await engine.wake(url)


async def test_nobody_there_is_neither_well_nor_asleep() -> None:
    async with control() as engine:
        assert (await engine.healthy(NOBODY), await engine.asleep(NOBODY), await engine.sleep(NOBODY)) == (
            False,
            False,
            False,
        )


async def test_one_has_a_shared_engine_and_the_others_get_it_in_turn() -> None:
    leases, url = Leases(), "http://warm"
    await leases.take(url, "a")
    await leases.take(url, "a")
    others = [asyncio.create_task(leases.take(url, name)) for name in ("b", "c")]
    await turns()
    assert [one.done() for one in others] == [False, False]
    leases.give_back(url, "b")
    assert leases.holder(url) == "a", "only who has it can give it back"
    leases.give_back(url, "a")
    await others[0]
    assert leases.holder(url) == "b"
    leases.give_back(url, "b")
    await others[1]
    leases.give_back(url, "c")
    assert leases.holder(url) is None


async def test_who_gives_up_waiting_for_it_is_passed_over() -> None:
    leases, url = Leases(), "http://warm"
    await leases.take(url, "a")
    gone, patient = (asyncio.create_task(leases.take(url, name)) for name in ("b", "c"))
    await turns()
    gone.cancel()
    await turns()
    leases.give_back(url, "a")
    await patient
    assert leases.holder(url) == "c"


async def test_what_is_handed_over_in_the_moment_of_giving_up_goes_to_the_next() -> None:
    leases, url = Leases(), "http://warm"
    await leases.take(url, "a")
    gone, patient = (asyncio.create_task(leases.take(url, name)) for name in ("b", "c"))
    await turns()
    leases.give_back(url, "a")
    gone.cancel()
    await patient
    assert leases.holder(url) == "c"


async def test_pools_that_are_no_more_have_nothing() -> None:
    leases = Leases()
    await leases.take("http://one", "a")
    await leases.take("http://two", "b")
    leases.keep_only({"b"})
    assert (leases.holder("http://one"), leases.holder("http://two")) == (None, "b")
