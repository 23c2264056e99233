"""An engine's response on its way to whoever asked: held, read whole or relayed piece by piece. The hot path.

Floor: an adapter. It waits for its connection and for a slow client, and raises `EngineError`. Rule of the path: no
task, future or context manager per piece of a body. While the client keeps up, `relay` calls `write` straight from the
transport's callback; one future wakes it at the end, or when the client is slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Final, Protocol

from router.connection import Connection
from router.errors import BadEngineResponse, EngineClosed, EngineError, EngineTimeout
from router.wire.framing import Headers

HELD_BYTES: Final = 256 * 1024  # bytes of a body kept before somebody reads it; above, the engine has to wait

Write = Callable[[bytes], Awaitable[None] | None]


class EngineAnswer(Protocol):
    """What passes an answer on needs of one: of an engine, or kept of an engine's (see `Response`)."""

    status: int
    headers: Headers
    content_length: int | None

    async def read(self, limit: int) -> bytes: ...

    async def relay(self, write: Write) -> None: ...


class Response:
    """An engine's answer, from its head on. Call `read` or `relay` at most once and `abort` in any case at the end.

    Header names are lower-case, values stripped. `content_length` is None when the engine did not say it, 0 when the
    status has no body. `first_byte_at` is monotonic seconds. All errors are `EngineError`s.
    """

    __slots__ = (
        "_bound", "_connection", "_ended", "_error", "_held", "_pending", "_pieces", "_slow", "_waiter", "_whole",
        "_write", "content_length", "first_byte_at", "headers", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.status = 0
        self.headers: Headers = []
        self.content_length: int | None = None
        self.first_byte_at = 0.0
        self._connection: Connection | None = connection  # until the end, clean or not
        self._waiter: asyncio.Future[None] = connection.loop.create_future()
        self._pieces: deque[bytes] = deque()
        self._held = 0  # bytes in _pieces
        self._bound = HELD_BYTES
        self._whole = False  # read() runs: above _bound is an error, not a reason to pause
        self._write: Write | None = None  # set while relay() waits and the client keeps up
        self._pending: Awaitable[None] | None = None  # what a slow client's write returned
        self._slow: asyncio.Task[object] | None = None  # relay()'s task while it waits for a slow client
        self._ended = False
        self._error: Exception | None = None

    async def read(self, limit: int) -> bytes:
        """The whole body. Raises BadEngineResponse when it is longer than `limit` bytes."""
        self._bound, self._whole = limit, True
        if (self.content_length or 0) > limit or self._held > limit:
            self._refuse_size()
        elif not self._ended:
            self._resume()
            await self._wait()
        if self._error is not None:
            raise self._error
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    async def relay(self, write: Write) -> None:
        """Hand every piece of the body to `write` as it comes, in order and unchanged; return at a clean end.

        A `write` that returns an awaitable stops reading from the engine until that is done. What it raises ends the
        engine's work and is raised here.
        """
        try:
            while True:
                await self._catch_up(write)
                if self._ended:
                    break
                self._write = write
                self._resume()
                await self._wait()
                self._write = None
        except BaseException:
            self.abort()
            if isinstance(self._pending, Coroutine):
                self._pending.close()  # nobody will await it any more
            raise
        if self._error is not None:
            raise self._error

    def abort(self) -> None:
        """Close the engine's connection at once, so that it stops working. Nothing happens after a clean end."""
        if self._connection is not None:
            self._connection.fail(EngineClosed("The exchange with the engine was abandoned."))

    # -- the connection's side (router.connection.Exchange) ----------------------------------------------------------

    def begin(self, status: int, headers: Headers, content_length: int | None, at: float) -> None:
        self.status, self.headers, self.content_length, self.first_byte_at = status, headers, content_length, at
        self._wake()

    def deliver(self, piece: bytes) -> None:
        write = self._write
        if write is None:
            self._hold(piece)
            return
        try:
            self._pending = write(piece)
        except Exception as error:  # the caller's own: relay raises it in the caller's frame
            self._error = error
            self.abort()
        else:
            if self._pending is not None:
                self._write = None
                self._pause()
                self._wake()

    def end(self, error: EngineError | None) -> None:
        self._connection = self._write = None
        self._ended = True
        if self._error is None:
            self._error = error
        if self._slow is not None and isinstance(error, EngineTimeout):  # a client that never reads is no excuse
            self._slow.cancel()
            self._slow = None
        self._wake()

    # -- inside ------------------------------------------------------------------------------------------------------

    async def started(self) -> None:
        """Wait for the head."""
        if self.status == 0 and not self._ended:
            await self._wait()
        if self.status == 0 and self._error is not None:
            raise self._error

    def _hold(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._held += len(piece)
        if self._held > self._bound:
            if self._whole:
                self._refuse_size()
            else:
                self._pause()

    def _refuse_size(self) -> None:
        self._error = BadEngineResponse("The engine's response is larger than this gateway accepts.")
        self._pieces.clear()
        self.abort()

    async def _catch_up(self, write: Write) -> None:
        """Give `write` what was held, and wait for a slow client."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            await self._wait_for_client(pending)
        while self._pieces:
            piece = self._pieces.popleft()
            self._held -= len(piece)
            pending_now = write(piece)
            if pending_now is not None:
                self._pause()
                await self._wait_for_client(pending_now)

    async def _wait_for_client(self, pending: Awaitable[None]) -> None:
        task = self._slow = asyncio.current_task()
        try:
            await pending
        except asyncio.CancelledError:
            ours = self._slow is None and task is not None and task.uncancel() == 0
            if not ours or self._error is None:
                raise
            raise self._error from None
        finally:
            self._slow = None

    async def _wait(self) -> None:
        """Until `_wake`. A cancelled caller takes the engine's connection down with it."""
        if self._waiter.done():
            self._waiter = self._waiter.get_loop().create_future()
        try:
            await self._waiter
        except BaseException:
            self.abort()
            raise

    def _wake(self) -> None:
        if not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _resume(self) -> None:
        if self._connection is not None:
            self._connection.resume()
