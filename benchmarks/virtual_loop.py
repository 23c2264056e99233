"""An event loop on a virtual clock: what takes minutes there is over in a moment, and the same each time.

Floor: benchmarks, and tests; nothing is waited for, so nothing outside the loop can be heard.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from selectors import BaseSelector, SelectorKey
from typing import Any, TypeVar

T = TypeVar("T")


class _Nowhere(BaseSelector):
    """Waits for nothing but time, which it lets pass at once."""

    loop: VirtualLoop

    def register(self, *_: Any) -> SelectorKey:
        return SelectorKey(None, 0, 0, None)  # type: ignore[arg-type]  # the loop's own pipe: nobody writes to it

    def unregister(self, *_: Any) -> SelectorKey:
        return self.register()

    def get_map(self) -> dict[Any, SelectorKey]:
        return {}

    def get_key(self, _: Any) -> SelectorKey:
        raise KeyError

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self.loop.now += max(0.0, timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Whoever sleeps wakes at the right time, without anybody waiting for it. `now`: seconds at the beginning."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        nowhere = _Nowhere()
        nowhere.loop = self
        super().__init__(nowhere)

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, T], loop: Callable[[], VirtualLoop] = VirtualLoop) -> T:
    """Its result, on a clock of its own."""
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)
