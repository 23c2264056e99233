"""Comments in a stream that has not begun, while its request is held: so that nobody on the way takes it for dead.

Floor: an adapter over `router.client`. A task exists only for requests that are held, and ends before anything else is
written to its client.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from router.client import Client
from router.wire.http import Header

COMMENT = b": waiting\n\n"


class Heartbeat:
    """Opens the stream after `seconds` and says from then on every `seconds` that somebody is there."""

    def __init__(self, client: Client, headers: Sequence[Header], seconds: float, name: str) -> None:
        self._client = client
        self._headers = headers
        self._seconds = seconds
        self._task = asyncio.create_task(self._beat(), name=f"heartbeat {name}")

    def end(self) -> None:
        """Nothing more is written from now on: a write that waits for a slow client is given up before it has begun."""
        self._task.cancel()

    async def _beat(self) -> None:
        while not self._client.gone:
            await asyncio.sleep(self._seconds)
            await self._client.comment(self._headers, COMMENT)
