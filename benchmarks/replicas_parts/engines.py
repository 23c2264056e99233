"""The engines of the replays on an event loop with a virtual clock, for routers that wait with futures and timers.

Floor: benchmarks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.engine.model import ModelConfig
from benchmarks.replay_parts.fleet import Engine, Fleet, Log, Router
from benchmarks.replay_parts.trace import Job


class LoopFleet(Fleet):
    """As `Fleet`, with the loop's clock; made and used on the loop. What is sent because a token has come finds its
    engine's next step begun, as it does at a real one."""

    def __init__(self, config: ModelConfig, count: int) -> None:
        super().__init__(config, count)
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[None] = self._loop.create_future()
        self._jobs: Sequence[Job] = ()
        self._left = 0

    async def play(
        self,
        router: Router,
        jobs: Sequence[Job],
        arrivals: Sequence[float],
        stop: Callable[[Log, Job], bool] = lambda log, job: False,
    ) -> Log:
        """As `run`. Raises whatever a callback of the loop has raised meanwhile."""
        log = self._open(router, arrivals)
        self._jobs, self._left, self._stop = jobs, len(jobs), stop
        self._loop.set_exception_handler(self._failed)
        self._loop.call_at(arrivals[0], self._arrive, 0)
        await self._over
        return log

    def send(self, engine_number: int, job: Job, priority: int = 0) -> None:
        self.now = self._loop.time()
        super().send(engine_number, job, priority)

    def reject(self, job: Job) -> None:
        super().reject(job)
        self._one_less()

    def fail(self, error: BaseException) -> None:
        """Ends the replay with an error."""
        if not self._over.done():
            self._over.set_exception(error)

    def _arrive(self, number: int) -> None:
        self.now = self.log.arrived[number]
        if number + 1 < len(self._jobs):
            self._loop.call_at(self.log.arrived[number + 1], self._arrive, number + 1)
        self._sample()
        self._router.arrive(self._jobs[number], self.now)

    def _sleep(self, engine: Engine, number: int, until: float) -> None:
        self._wakes += 1
        engine.wake = self._wakes
        self._loop.call_at(until, self._woken, until, self._wakes, number)

    def _woken(self, at: float, wake: int, number: int) -> None:
        engine = self.engines[number]
        if wake != engine.wake or self._over.done():
            return
        self.now = at
        if not self._wake(engine, number, self._stop):
            self._over.set_result(None)

    def _tell(self, engine: Engine, number: int, job: Job, last: bool, stop: Callable[[Log, Job], bool]) -> bool:
        going = super()._tell(engine, number, job, last, stop)
        if last:
            self._one_less()
        return going

    def _one_less(self) -> None:
        self._left -= 1
        if not self._left and not self._over.done():
            self._over.set_result(None)

    def _failed(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.fail(context.get("exception") or RuntimeError(context["message"]))
