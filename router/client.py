"""The client's side of one exchange: an ASGI request read within bounds, an answer written as it comes.

Floor: an adapter between the server and the gateway. Our own server is used directly (`router.exchange`). Behind
middleware, and in other ASGI servers, `send` and `receive` are coroutines that nearly never wait, so they are stepped
by hand here: a chunk of a stream then costs no task and no future, and a client that leaves is noticed through the
future that `receive` waits on, without a task to watch it. Only what really waits is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping, Sequence
from typing import Any

from router.errors import BadRequest, BodyTooLarge, SlowRequest
from router.exchange import Exchange
from router.wire.http import Header

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
_Steps = Coroutine[Any, Any, Any]


class ClientGone(Exception):
    """The client closed its connection before its request was complete."""


class _Rest:
    """The rest of a coroutine that has been stepped to its first wait: awaiting this finishes it."""

    __slots__ = ("_steps", "_waits_on")

    def __init__(self, steps: _Steps, waits_on: Any) -> None:
        self._steps = steps
        self._waits_on = waits_on

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_on = self._waits_on
        while True:
            thrown: BaseException | None = None
            try:
                yield waits_on
            except BaseException as error:  # whatever the loop throws in, a cancellation above all
                thrown = error
            try:
                waits_on = self._steps.send(None) if thrown is None else self._steps.throw(thrown)
            except StopIteration as done:
                return done.value


class Client:
    """One HTTP exchange with a client. `gone` turns true when it has closed its connection, `started` when a byte of
    the answer is out, `opened` when a stream of events has been opened without one (`comment`)."""

    __slots__ = (
        "_exchange", "_head", "_headers", "_receive", "_send", "_steps", "_task", "gone", "opened", "scope", "started",
    )  # fmt: skip

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        server = getattr(send, "__self__", None)  # a middleware's is a function of its own
        self._exchange = server if isinstance(server, Exchange) else None
        self._head: Message | None = None
        self._headers: dict[bytes, bytes] | None = None
        self._steps: _Steps | None = None
        self._task: asyncio.Task[Any] | None = None
        self.gone = False
        self.started = False
        self.opened = False

    @property
    def raw_headers(self) -> list[Header]:
        headers: list[Header] = self.scope["headers"]
        return headers

    def header(self, name: bytes) -> bytes | None:
        """The value of a header (lower-case name); of several with one name, the last."""
        if self._headers is None:
            self._headers = dict(self.scope["headers"])
        return self._headers.get(name)

    async def body(self, limit: int, timeout_seconds: float) -> bytes:
        """The whole body. Raises BodyTooLarge, SlowRequest, or ClientGone when the client leaves meanwhile."""
        self._check_declared(limit)
        if self._exchange is not None and (whole := self._exchange.whole_body()) is not None:
            if len(whole) > limit:
                raise _too_large(limit)
            return whole
        first = _step(self._receive())
        if isinstance(first, _Rest) or first.get("more_body", False):
            return await _within(self._collect(first, limit), timeout_seconds)
        return _piece(first, 0, limit)

    def watch(self) -> None:
        """From now on a client that leaves cancels the current task, after `gone` has turned true."""
        if self._exchange is not None:
            self._task = self._exchange.task
            self._exchange.watch(self._leave)
            return
        self._task = asyncio.current_task()
        self._steps = self._receive()  # type: ignore[assignment]  # ASGI servers' receive is a coroutine function
        self._advance()

    def unwatch(self) -> None:
        """Stops watching; idempotent."""
        if self._exchange is not None:
            self._exchange.unwatch()
            return
        steps, self._steps = self._steps, None
        if steps is not None:
            steps.close()

    def head(self, status: int, headers: Sequence[Header]) -> None:
        """Status and headers, kept until the first piece of the body: until then an error may still change them."""
        self._head = {"type": "http.response.start", "status": status, "headers": list(headers)}

    def write(self, chunk: bytes) -> Awaitable[None] | None:
        """Sends a piece of the body. None: it is on its way; else await it: the client is slower than the engine."""
        if self._exchange is not None:
            if self._head is not None:
                self._begin(self._exchange)
            return self._exchange.write(chunk)
        if self._head is not None:
            return self._write_first(chunk)
        rest = _step(self._send({"type": "http.response.body", "body": chunk, "more_body": True}))
        return rest if isinstance(rest, _Rest) else None

    def _write_first(self, chunk: bytes) -> Awaitable[None] | None:
        rest = _step(self._send_head())
        if not isinstance(rest, _Rest):
            return self.write(chunk)

        async def both() -> None:
            await rest
            following = self.write(chunk)
            if following is not None:
                await following

        return both()

    def _begin(self, exchange: Exchange) -> None:
        head, self._head = self._head, None
        if head is not None:
            self.started = True
            if not self.opened:
                exchange.begin(head["status"], head["headers"])

    async def comment(self, headers: Sequence[Header], comment: bytes) -> None:
        """Opens a stream of events and says something that no event is. What follows cannot change its status."""
        if self._exchange is not None:
            if not self.opened:
                self._exchange.begin(200, headers)
                self.opened = True
            rest = self._exchange.write(comment)
            if rest is not None:
                await rest
            return
        if not self.opened:
            await self._send({"type": "http.response.start", "status": 200, "headers": list(headers)})
            self.opened = True
        await self._send({"type": "http.response.body", "body": comment, "more_body": True})

    async def _send_head(self) -> None:
        head, self._head = self._head, None
        if head is not None:
            self.started = True
            if not self.opened:
                await self._send(head)

    async def finish(self, chunk: bytes = b"") -> None:
        """Sends the last piece."""
        self.unwatch()
        if self._exchange is not None:
            self._begin(self._exchange)
            rest = self._exchange.end(chunk)
            if rest is not None:
                await rest
            return
        await self._send_head()
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def respond(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """A whole answer at once. In a stream that has been opened it is the last event."""
        if self.opened:
            lines = b"".join([b"data: %b\n" % line for line in body.splitlines()])
            self.started = True
            await self.finish(lines + b"\n")
            return
        self.head(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.finish(body)

    def _check_declared(self, limit: int) -> None:
        declared = self.header(b"content-length")
        if declared is not None and declared.isdigit() and int(declared) > limit:
            raise _too_large(limit, close=int(declared) > 2 * limit)
        encoding = self.header(b"content-encoding")
        if encoding is not None and encoding.lower() != b"identity":
            raise BadRequest("Compressed request bodies are not supported.", code="unsupported_content_encoding")

    async def _collect(self, first: Message | _Rest, limit: int) -> bytes:
        message = await first if isinstance(first, _Rest) else first
        pieces = [_piece(message, 0, limit)]
        size = len(pieces[0])
        while message.get("more_body", False):
            message = await self._receive()
            pieces.append(_piece(message, size, limit))
            size += len(pieces[-1])
        return b"".join(pieces)

    def _advance(self, waited_on: Any = None) -> None:
        """Steps `receive` until it waits again; what it can still bring is the end of the connection."""
        while (steps := self._steps) is not None:
            try:
                future = steps.send(None)
            except StopIteration as done:
                self._steps = None
                if done.value["type"] == "http.disconnect":
                    self._leave()
                else:
                    self._steps = self._receive()  # type: ignore[assignment]
            else:
                future.add_done_callback(self._advance)
                return

    def _leave(self) -> None:
        self.gone = True
        if self._task is not None:
            self._task.cancel()


def _piece(message: Message, before: int, limit: int) -> bytes:
    """The bytes of one message, when with those `before` they are within the limit."""
    if message["type"] == "http.disconnect":
        raise ClientGone
    piece: bytes = message.get("body", b"")
    if before + len(piece) > limit:
        raise _too_large(limit, close=message.get("more_body", False))
    return piece


def _step(steps: Any) -> Any:
    """Runs a coroutine to its end or its first wait: its value, or a `_Rest` to await."""
    try:
        waits_on = steps.send(None)
    except StopIteration as done:
        return done.value
    return _Rest(steps, waits_on)


async def _within(work: Awaitable[bytes], seconds: float) -> bytes:
    try:
        async with asyncio.timeout(seconds):
            return await work
    except TimeoutError:
        message = f"The request body did not arrive within {seconds:g} seconds."
        raise SlowRequest(message, headers=((b"connection", b"close"),)) from None


def _too_large(limit: int, *, close: bool = False) -> BodyTooLarge:
    """`close` when the rest of the body may be endless; else the server reads and drops it, and the client, which may
    still be writing, gets to read the answer."""
    headers = ((b"connection", b"close"),) if close else ()
    return BodyTooLarge(f"The request body is larger than {limit} bytes.", headers=headers)
