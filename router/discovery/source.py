"""What all sources have in common: what was found, since when that is right, what went wrong, and one task that looks.

Floor: an adapter. What is known stays known while nobody can be asked: a pool is never emptied by a failure.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from policies.discovery import Found

_log = logging.getLogger("promptlane.discovery")

# Seconds before the next attempt after a failure, doubling. A cut connection is back at once; an API that comes back is
# not brought down again by those who wait for it, and replicas do not ask in step.
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 30.0


class Source(ABC):
    """Of one pool. `text`: what it asks, for operators; `clock`: monotonic seconds. `found` is None until it was told
    for the first time; `right_at`: when it was last known to be right, None before; `problem`: why nothing is told now;
    `failures`: by their causes. `on_change` is called after each change of `found`."""

    def __init__(self, pool: str, text: str, clock: Callable[[], float], random: Random) -> None:
        self.pool = pool
        self.text = text
        self.found: tuple[Found, ...] | None = None
        self.problem: str | None = None
        self.failures: Counter[str] = Counter()
        self.on_change: Callable[[], None] | None = None
        self.right_at: float | None = None
        self._clock = clock
        self._random = random
        self._pause = FIRST_PAUSE
        self._task: asyncio.Task[None] | None = None
        self._first = asyncio.Event()

    def start(self) -> None:
        """Begins to look; once is enough. Needs a running event loop."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"discovery of pool {self.pool}")

    async def stop(self) -> None:
        """Ends looking; what was found stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def first(self) -> None:
        """Returns when something was told, or could not be told."""
        await self._first.wait()

    @property
    def age(self) -> float | None:
        """Seconds since `found` was last known to be right; None before the first time."""
        return None if self.right_at is None else max(0.0, self._clock() - self.right_at)

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except Exception:  # a background loop ends with its process, not with one odd answer
                _log.exception("looking for endpoints of pool %s failed", self.pool)
                self._failed("internal", "a fault of the gateway; it is logged")
                await self._rest()

    @abstractmethod
    async def _look(self) -> None:
        """Looks once, or for as long as it goes well; pauses are its own."""

    def _told(self, found: Iterable[Found]) -> None:
        """This is what there is now."""
        now = tuple(sorted(found, key=lambda one: one.name))
        changed, self.found = now != self.found, now
        self._right()
        if changed and self.on_change is not None:
            self.on_change()

    def _right(self) -> None:
        """What is known is known to be right."""
        self.right_at = self._clock()
        if self.problem is not None:
            self.problem = None
            _log.info("endpoints of pool %s are told again (%s)", self.pool, self.text)
        self._first.set()

    def _well(self) -> None:
        self._pause = FIRST_PAUSE

    def _failed(self, cause: str, text: str) -> None:
        self.failures[cause] += 1
        if text != self.problem:
            kept = "none is known" if not self.found else f"the {len(self.found)} that are known stay"
            _log.warning("endpoints of pool %s cannot be found (%s): %s; %s", self.pool, self.text, text, kept)
        self.problem = text
        self._first.set()

    async def _rest(self, least: float = 0.0) -> None:
        """Before the next attempt."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        await asyncio.sleep(max(least, pause * self._random.uniform(0.5, 1.0)))

    def describe(self) -> dict[str, Any]:
        """For operators."""
        age = self.age
        return {"source": self.text, "age_seconds": None if age is None else round(age, 3), "problem": self.problem}
