"""A fault that a drill puts before an endpoint, inside the gateway: the engine behind it stays as it is.

Floor: an adapter. It raises what a real fault would make `router.upstream` raise. While no drill runs, there is none.
"""

from __future__ import annotations

import asyncio

from policies.drill import DrillFault
from router.errors import ConnectFailed, EngineError, EngineTimeout

# How much later answers come of an endpoint that is slow: more than the 2 s at p95 at which pools usually fail over.
SLOW_SECONDS = 3.0


class InjectedFault:
    """One endpoint's, from `router.upstream.Upstream.strike` until `lift`."""

    def __init__(self, kind: DrillFault, slow_seconds: float = SLOW_SECONDS) -> None:
        self.kind = kind
        self._slow_seconds = slow_seconds
        self._waiting: set[asyncio.Future[None]] = set()
        self._lifted = False

    @property
    def refuses(self) -> bool:
        """Nobody can connect: not the probes of `/health` either."""
        return self.kind in (DrillFault.KILL, DrillFault.REFUSE)

    @property
    def waiting(self) -> int:
        """Requests that are kept here."""
        return len(self._waiting)

    async def meet(self, patience: float) -> None:
        """What a request meets on its way to the engine, which has `patience` seconds to answer. Raises EngineError."""
        if self.refuses:
            raise ConnectFailed("The engine could not be reached.")
        hangs = self.kind is DrillFault.HANG
        if not await self._wait(patience if hangs else self._slow_seconds) and hangs:
            raise EngineTimeout("The engine did not answer within its time limit (first byte).")

    def break_off(self, error: EngineError) -> None:
        """Whoever waits here gets this instead of an answer."""
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)

    def lift(self) -> None:
        """The fault is over: whoever waits goes on to the engine."""
        self._lifted = True
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _wait(self, seconds: float) -> bool:
        """Whether the fault was lifted within so many seconds."""
        if self._lifted:
            return True
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiting.discard(future)
        return True
