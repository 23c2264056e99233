"""Copies of one request at several endpoints, of which the first to answer is kept.

Floor: an adapter around tasks; when a copy is sent is decided in `policies.hedge`. Every task has a name, and is over
when `stop` returns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

from router.calls import Call
from router.tickets import Ticket


class Race:
    """`winner`: the copy whose answer the client gets; None until one has something for the client."""

    __slots__ = ("_decided", "_name", "_tasks", "winner")

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: list[tuple[Call, asyncio.Task[None]]] = []
        self._decided = asyncio.Event()
        self.winner: Call | None = None

    @property
    def copies(self) -> list[Call]:
        """In the order in which they were sent."""
        return [call for call, _ in self._tasks]

    def start(self, call: Call, attempt: Coroutine[Any, Any, None]) -> None:
        """Sends a copy. Its ticket is settled when it is over, also where it was ended before its first step."""
        task = asyncio.create_task(attempt, name=f"copy {len(self._tasks)} of {self._name}")
        task.add_done_callback(partial(self._ended, call.ticket))
        self._tasks.append((call, task))

    def claim(self, call: Call) -> bool:
        """Whether this copy may write to the client. The first that asks may, and ends the others."""
        if self.winner is None:
            self.winner = call
            self._decided.set()
            for other, task in self._tasks:
                if other is not call:
                    task.cancel()
        return self.winner is call

    async def is_late(self, seconds: float) -> bool:
        """Whether the first copy has neither begun to answer nor failed after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._decided.wait()
        except TimeoutError:
            return True
        return False

    async def over(self) -> None:
        """Until the winner has ended or all have failed. Raises what the winner raised, or else what the first did."""
        pending = {task for _, task in self._tasks}
        while pending and (self.winner is None or not self._task().done()):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        self._task().result()

    async def stop(self) -> None:
        """Ends whatever is still under way."""
        for _, task in self._tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._tasks), return_exceptions=True)

    def _ended(self, ticket: Ticket | None, _: asyncio.Task[None]) -> None:
        self._decided.set()
        if ticket is not None:  # which an attempt that has begun has settled itself
            ticket.settle(None)

    def _task(self) -> asyncio.Task[None]:
        return next((task for call, task in self._tasks if call is self.winner), self._tasks[0][1])
