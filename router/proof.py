"""Whether an engine that is suspected works: a canary, its own figures and its streams are asked at the same time.

Floor: an adapter. One sign of work is enough; that there is none until the time is over is a proof too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from router.canary import Verdict
from router.pools import Place
from router.wire.engine_metrics import EngineReading

# Seconds between two looks at the streams, between two reads of the engine's figures, and between two canaries where
# one fails at once, as it may while the engine restarts.
LOOK_SECONDS, FIGURES_SECONDS, AGAIN_SECONDS = 0.05, 0.2, 0.1
# A look that took so long (seconds) was the gateway's own fault: what the engine has sent may lie unread.
LATE_SECONDS = 0.1
# For what came in the very moment in which the time was over.
LAST_LOOK_SECONDS = 0.02


def hear(place: Place, now: float) -> int:
    """Notes what streams under way have said; how many there are that could say something."""
    flow = place.upstream.flow()
    if flow.quiet is not None:
        place.state.silence.spoke(now - flow.quiet)
    return flow.streams


class Proof:
    """`send`: a canary that may take so many seconds. `read`: the engine's figures now. `clock`: the pool's."""

    def __init__(
        self,
        clock: Callable[[], float],
        send: Callable[[Place, float], Awaitable[Verdict]],
        read: Callable[[Place], Awaitable[EngineReading | None]],
    ) -> None:
        self._clock = clock
        self._send = send
        self._read = read

    async def of(self, place: Place, seconds: float) -> Verdict:
        """GOOD with the first sign of work, BAD when there is none in so many seconds, CANNOT when a canary says so."""
        name = place.state.endpoint.name
        asked = asyncio.create_task(self._answered(place, seconds), name=f"canary {name}")
        moved = asyncio.create_task(self._moves(place), name=f"figures {name}")
        try:
            return await self._first_sign(place, seconds, asked, moved)
        finally:
            asked.cancel()
            moved.cancel()
            await asyncio.gather(asked, moved, return_exceptions=True)

    async def _first_sign(
        self, place: Place, seconds: float, asked: asyncio.Task[Verdict], moved: asyncio.Task[None]
    ) -> Verdict:
        began = self._clock()
        left = seconds
        while True:
            looked = self._clock()
            await asyncio.wait({asked, moved}, timeout=max(0.0, min(left, LOOK_SECONDS)), return_when="FIRST_COMPLETED")
            hear(place, self._clock())
            if asked.done():
                return asked.result()
            if moved.done():
                moved.result()
                return Verdict.GOOD
            if place.state.silence.alive_since(began):
                return Verdict.GOOD
            if left <= 0:
                return Verdict.BAD
            left -= min(self._clock() - looked, LATE_SECONDS)
            if left <= 0:
                await asyncio.sleep(LAST_LOOK_SECONDS)

    async def _answered(self, place: Place, seconds: float) -> Verdict:
        """Returns only with an answer that says something."""
        while True:
            verdict = await self._send(place, seconds)
            if verdict is not Verdict.BAD:
                return verdict
            await asyncio.sleep(AGAIN_SECONDS)

    async def _moves(self, place: Place) -> None:
        """Returns when the engine's own figures move: it computes, however long the canary waits behind others."""
        before: tuple[float | None, ...] | None = None
        while True:
            reading = await self._read(place)
            if reading is not None:
                figures = _progress(reading)
                if before is not None and figures != before:
                    return
                before = figures
            await asyncio.sleep(FIGURES_SECONDS)


def _progress(reading: EngineReading) -> tuple[float | None, ...]:
    """What changes only while the engine computes: its core reports these figures after a step. A prompt that is
    prefilled in pieces shows in its cache long before its first token."""
    return (
        reading.prompt_tokens,
        reading.generation_tokens,
        reading.kv_usage,
        reading.running,
        reading.prefix_queries,
    )
