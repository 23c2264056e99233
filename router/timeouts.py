"""The time limits of an exchange with an engine, and the timer that watches over them.

Floor: an adapter under `connection.py`. It arms the loop's timers; what a missed limit means is its caller's affair.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Final

MIN_TIMER: Final = 0.001  # seconds; uvloop rounds timers to milliseconds and may fire that much early


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect; from request written to a body's first byte; between its pieces; for the whole exchange."""

    connect: float
    first_byte: float
    idle: float
    total: float


class LazyTimer:
    """One timer that is moved often and fires seldom: moving it later costs a comparison and nothing on the loop.

    What it calls may therefore come too soon; it looks at the clock and arms the timer again. `due`: monotonic seconds.
    """

    # `arm` takes the call each time: kept here, a timer and the owner of its call would be a cycle for the collector.
    __slots__ = ("_due", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0

    def arm(self, due: float, call: Callable[[], None]) -> None:
        """Make sure that `call` comes at `due` or before: an earlier one is left to find out that it came too soon."""
        if self._handle is not None:
            if self._due <= due:
                return
            self._handle.cancel()
        self._due = due
        self._handle = self._loop.call_later(max(due - monotonic(), MIN_TIMER), call)

    def fired(self) -> None:
        """To be told first of all by what was called."""
        self._handle = None

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
