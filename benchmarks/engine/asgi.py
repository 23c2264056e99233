"""One HTTP request as the app sees it: body, headers, answer, and the client's leaving.

Floor: raw ASGI. `Client.gone` is the one place that notices a disconnect.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs

from benchmarks.engine.wire import to_json

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

FLUSH_SECONDS = 1.0
"""How long a connection that dies may take to send what was written before."""


class Request:
    """`path` has no query. `request_id` is the client's `x-request-id`, None without one. `told`: prompt, cached and
    completion tokens that its answer tells."""

    def __init__(self, scope: MutableMapping[str, Any], body: bytes, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_headers: list[tuple[bytes, bytes]] = scope["headers"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in self.raw_headers}
        self.query = parse_qs(scope["query_string"].decode("latin-1"))
        self.control = bool(scope["state"].get("control"))
        self.body = body
        self.status = 0
        self.sent = 0
        self.told: tuple[int, int, int] | None = None
        self.gone = asyncio.Event()
        self.request_id = self.headers.get("x-request-id")
        self._echo = (self.request_id or uuid.uuid4().hex).encode("latin-1")
        self._transport: asyncio.Transport | None = scope["state"].get("transport")
        self._receive = receive
        self._send = send
        self._watcher: asyncio.Task[None] | None = None
        self._on_gone: Callable[[], None] | None = None

    def watch(self, on_gone: Callable[[], None] | None = None) -> None:
        """From now on `gone` is set, and `on_gone` called, as soon as the client leaves."""
        self._on_gone = on_gone
        if self.gone.is_set() and on_gone is not None:
            on_gone()
        if self._watcher is None:
            self._watcher = asyncio.create_task(self._wait_for_leaving(), name=f"watch {self.path}")

    def release(self) -> None:
        """Stop watching: the answer is complete."""
        if self._watcher is not None:
            self._watcher.cancel()

    async def _wait_for_leaving(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.gone.set()
        if self._on_gone is not None:
            self._on_gone()

    def _head(self, *fields: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        return [*fields, (b"vary", b"Origin"), (b"x-request-id", self._echo)]

    async def json(self, status: int, value: Any) -> None:
        await self.whole(status, to_json(value), b"application/json")

    async def whole(self, status: int, body: bytes, content_type: bytes = b"", *, dies: bool = False) -> None:
        """A body of known length. `dies`: the connection closes in the middle of it."""
        length = (b"content-length", b"%d" % len(body))
        fields = [length, (b"content-type", content_type)] if content_type else [length]
        await self.start(status, fields)
        if dies:
            await self._send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
            await self.die()
            return
        self.sent = len(body)
        await self._send({"type": "http.response.body", "body": body})

    async def start(self, status: int, fields: list[tuple[bytes, bytes]]) -> None:
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": self._head(*fields)})

    async def start_events(self) -> None:
        await self.start(200, [(b"content-type", b"text/event-stream; charset=utf-8")])

    async def events(self, body: bytes, *, last: bool = False) -> None:
        self.sent += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": not last})

    async def die(self) -> None:
        """Close the connection as a killed process does: what was written goes out, then its end, no terminator."""
        self.watch()
        if self._transport is None:
            return
        self._transport.close()
        try:
            await asyncio.wait_for(self.gone.wait(), FLUSH_SECONDS)
        except TimeoutError:
            self._transport.abort()
            await self.gone.wait()


async def read_all(receive: Receive) -> bytes | None:
    """The request body; None when the client left before its end."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)
