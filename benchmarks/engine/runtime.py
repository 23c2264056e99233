"""The engine model on the wall clock: one loop that plans a step, lets its duration pass and hands out the tokens.

Floor: asyncio, but no sockets. Everything that changes the model happens in this object, on one event loop. While the
engine sleeps or is paused, new work is held outside the model, so that running and waiting read 0, as captured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.errors import BUSY, Refusal
from benchmarks.engine.faults import FaultSwitch
from benchmarks.engine.metrics import EngineMetrics
from benchmarks.engine.model import IDLE, EngineModel, Event, Sequence, StepResult

CATCH_UP_SECONDS = 0.02
"""A step may start this long before now, so that the loop's own work does not add up to a slower engine."""
SLEEP_TAGS = frozenset({"weights", "kv_cache"})


class Listener(Protocol):
    """Who waits for a sequence. `on_abort`: the engine gave it up (sleep, pause or shutdown)."""

    def on_event(self, event: Event) -> None: ...
    def on_abort(self, sequence: Sequence) -> None: ...


class Runtime:
    def __init__(
        self,
        config: EngineConfig,
        metrics: EngineMetrics,
        faults: FaultSwitch,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.config = config
        self.model = EngineModel(config.model_config())
        self.metrics = metrics
        self.faults = faults
        self.clock = clock
        self._pass_time = sleep
        self.paused = False  # also while it sleeps
        self.aborted_total = 0
        self.finished_total = 0
        self._asleep_tags: set[str] = set()
        self._frozen = False
        self._listeners: dict[str, Listener] = {}
        self._held: dict[str, tuple[Sequence, Listener]] = {}
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._due = 0.0

    @property
    def sleeping(self) -> bool:
        """As `/is_sleeping` has it: memory was given free, or new work waits."""
        return self.paused or bool(self._asleep_tags)

    @property
    def held(self) -> int:
        return len(self._held)

    def admit(self, count: int) -> None:
        """Raises the captured 503 when `count` more requests would pass the queue limit."""
        limit = self.config.max_num_queued_reqs
        if limit is not None and len(self._listeners) + len(self._held) + count > limit:
            self.metrics.rejections.inc(count)
            raise Refusal(503, BUSY)

    def submit(self, sequence: Sequence, listener: Listener) -> None:
        if self.paused:
            self._held[sequence.id] = (sequence, listener)
            return
        self.model.submit(sequence, self.clock())
        self._listeners[sequence.id] = listener
        self._drained.clear()
        self._wake.set()

    def withdraw(self, sequence: Sequence) -> None:
        """Its client is gone: seat and blocks are free at once. Nothing happens for one that is over."""
        if self._held.pop(sequence.id, None) is not None or self.model.abort(sequence.id):
            self.aborted_total += 1
        self._forget(sequence)

    def finish(self, sequence: Sequence) -> None:
        """It ended before its length (a stop string)."""
        self.model.abort(sequence.id)
        self.finished_total += 1
        self._forget(sequence)

    def abort_all(self) -> None:
        """Everything that runs or waits ends with `abort`; what is held stays held."""
        for sequence_id, listener in list(self._listeners.items()):
            sequence = self.model.find(sequence_id)
            if sequence is not None:
                self.withdraw(sequence)
                listener.on_abort(sequence)

    async def run(self) -> None:
        """For ever: step, wait, deliver."""
        while True:
            self._wake.clear()
            result = IDLE if self._frozen else self.model.step(self.clock())
            if result.tokens:
                await self._let_pass(result.duration * self.faults.step_factor(self.clock()))
                self._deliver(result)
            else:
                await self._wake.wait()

    async def _let_pass(self, seconds: float) -> None:
        now = self.clock()
        start = self._due if now - self._due < CATCH_UP_SECONDS else now
        self._due = start + seconds
        await self._pass_time(max(0.0, self._due - now))

    def _deliver(self, result: StepResult) -> None:
        self.model.settle()
        self.metrics.observe_step(result)
        for event in result.events:
            listener = self._listeners.get(event.sequence.id)
            if listener is None:
                continue
            if event.last:
                self.finished_total += 1
                self._forget(event.sequence)
            listener.on_event(event)

    def _forget(self, sequence: Sequence) -> None:
        self._listeners.pop(sequence.id, None)
        if not self._listeners:
            self._drained.set()

    async def _halt(self, mode: str) -> None:
        """`abort` ends what runs, `wait` lets it end, `keep` freezes it."""
        if mode == "abort":
            self.abort_all()
        elif mode == "wait":
            await self._drained.wait()
        else:
            self._frozen = True

    async def pause(self, mode: str = "abort", *, clear_cache: bool = True) -> None:
        """New work waits from now on. Returns when what runs has ended, or is frozen."""
        self.paused = True
        await self._halt(mode)
        if clear_cache:
            self.model.cache.reset()

    async def sleep(self, level: int = 1, mode: str = "abort") -> None:
        """A pause, and with level 1 and 2 the memory given free after it."""
        await self.pause(mode, clear_cache=level > 0)
        if level:
            self._asleep_tags = set(SLEEP_TAGS)
        self.metrics.set_sleep(level)

    async def wake(self, tags: list[str] | None = None) -> bool:
        """Takes `wake_seconds` where memory was given free; True when all of the engine is awake, and then every pause
        is over too. Tags that do not sleep wake nobody."""
        wanted = self._asleep_tags.copy() if tags is None else set(tags) - {"scheduling"}
        if self._asleep_tags and wanted:
            await self._pass_time(self.config.wake_seconds)
            if wanted <= self._asleep_tags:
                self._asleep_tags -= wanted
        if self._asleep_tags:
            return False
        self.metrics.set_sleep(None)
        self.resume()
        return True

    def resume(self) -> None:
        """Ends a pause, also one that came with sleep: the real engine then computes with what memory it has."""
        self.paused = False
        self._release()

    def _release(self) -> None:
        self._frozen = False
        held, self._held = self._held, {}
        for sequence, listener in held.values():
            self.submit(sequence, listener)
        self._wake.set()
