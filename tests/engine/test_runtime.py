"""The runtime's loop on a clock that only its own waits move."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.errors import Refusal
from benchmarks.engine.faults import FaultKind, FaultOrder, FaultSwitch
from benchmarks.engine.metrics import EngineMetrics
from benchmarks.engine.model import Event, Sequence
from benchmarks.engine.runtime import Runtime

CONFIG = EngineConfig(decode_step_seconds=0.1, wake_seconds=7.0, max_num_queued_reqs=2)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)


class Ear:
    """Hears what becomes of one sequence."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.aborted = False
        self.over = asyncio.Event()

    def on_event(self, event: Event) -> None:
        self.numbers.append(event.number)
        if event.last:
            self.over.set()

    def on_abort(self, sequence: Sequence) -> None:
        self.aborted = True
        self.over.set()


@contextlib.asynccontextmanager
async def running() -> AsyncIterator[tuple[Runtime, Clock]]:
    clock = Clock()
    runtime = Runtime(CONFIG, EngineMetrics(CONFIG), FaultSwitch(), lambda: clock.now, clock.sleep)
    task = asyncio.create_task(runtime.run())
    try:
        yield runtime, clock
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def listen(runtime: Runtime, name: str = "a", output: int = 5) -> Ear:
    ear = Ear()
    runtime.submit(Sequence(name, 10, output, []), ear)
    async with asyncio.timeout(60):
        await ear.over.wait()
    return ear


async def test_tokens_come_one_by_one_at_the_pace_of_the_steps() -> None:
    async with running() as (runtime, clock):
        ear = await listen(runtime)
        assert ear.numbers == [0, 1, 2, 3, 4]
        assert clock.now == pytest.approx(0.5, rel=0.01)


async def test_the_slow_fault_stretches_every_step() -> None:
    async with running() as (runtime, clock):
        runtime.faults.set(FaultOrder(kind=FaultKind.SLOW, factor=30), clock.now)
        await listen(runtime)
        assert clock.now == pytest.approx(15, rel=0.01)


async def test_waking_takes_its_time_and_then_serves_what_was_held() -> None:
    async with running() as (runtime, clock):
        await runtime.sleep(level=1)
        ear = Ear()
        runtime.submit(Sequence("held", 10, 1, []), ear)
        assert (runtime.held, runtime.model.waiting) == (1, 0)
        assert await runtime.wake()
        assert clock.now == pytest.approx(7.0)
        async with asyncio.timeout(60):
            await ear.over.wait()


async def test_sleep_that_waits_lets_the_running_finish_first() -> None:
    async with running() as (runtime, _):
        listening = asyncio.create_task(listen(runtime, output=50))
        await asyncio.sleep(0)
        await runtime.sleep(level=1, mode="wait")
        ear = await listening
        assert (len(ear.numbers), ear.aborted) == (50, False)


async def test_a_held_request_that_is_withdrawn_never_runs() -> None:
    async with running() as (runtime, _):
        await runtime.pause()
        sequence = Sequence("gone", 10, 1, [])
        ear = Ear()
        runtime.submit(sequence, ear)
        runtime.withdraw(sequence)
        runtime.resume()
        await listen(runtime, "other")
        assert ear.numbers == []


async def test_the_queue_limit_counts_running_waiting_and_held() -> None:
    async with running() as (runtime, _):
        await runtime.pause()
        runtime.admit(2)
        runtime.submit(Sequence("one", 10, 1, []), Ear())
        runtime.admit(1)
        with pytest.raises(Refusal):
            runtime.admit(2)
