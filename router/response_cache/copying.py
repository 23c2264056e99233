"""An engine's answer on its way, seen by the cache, and one from the cache in the place of an engine's.

Floor: an adapter; both stand where `router.response.Response` does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final

from router.response import EngineAnswer, Write
from router.wire.framing import Headers

# Of an answer from the cache that goes out at once; then others get their turn.
_PIECE_BYTES: Final = 16 * 1024
_KIND: Final = b"content-type"


class AnswerCopy:
    """Passes an answer on and keeps its bytes, as long as there are no more than `longest`. `body`: all of it, once
    its end has come well; None before, or where it was too long."""

    __slots__ = ("_answer", "_longest", "_pieces", "_size", "body", "content_length", "headers", "status", "too_long")

    def __init__(self, answer: EngineAnswer, longest: int) -> None:
        self._answer = answer
        self._longest = longest
        self._pieces: list[bytes] = []
        self._size = 0
        self.status, self.headers, self.content_length = answer.status, answer.headers, answer.content_length
        self.body: bytes | None = None
        self.too_long = False

    @property
    def kind(self) -> bytes:
        """Its content type."""
        return next((value for name, value in self.headers if name == _KIND), b"")

    async def read(self, limit: int) -> bytes:
        body = await self._answer.read(limit)
        self._keep(body)
        self._end()
        return body

    async def relay(self, write: Write) -> None:
        def both(piece: bytes) -> Awaitable[None] | None:
            self._keep(piece)
            return write(piece)

        await self._answer.relay(both)
        self._end()

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size <= self._longest:
            self._pieces.append(piece)
        else:
            self.too_long = True
            self._pieces.clear()

    def _end(self) -> None:
        if not self.too_long:
            self.body = b"".join(self._pieces)
        self._pieces.clear()


class KeptAnswer:
    """One from the cache. `whole`: it came in one piece, and does so again."""

    __slots__ = ("_body", "content_length", "headers", "status")

    def __init__(self, kind: bytes, body: bytes, *, whole: bool) -> None:
        self._body = body
        self.status = 200
        self.headers: Headers = [(_KIND, kind)]
        self.content_length = len(body) if whole else None

    async def read(self, limit: int) -> bytes:
        return self._body

    async def relay(self, write: Write) -> None:
        for start in range(0, len(self._body), _PIECE_BYTES):
            pending = write(self._body[start : start + _PIECE_BYTES])
            await (pending if pending is not None else asyncio.sleep(0))
