"""An engine's answer on its way to the client: byte for byte, piece by piece, only the alias changed.

Floor: an adapter between `router.upstream` and `router.client`, used by `router.gateway`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from router.calls import Call
from router.upstream import Response
from router.wire.http import Header
from router.wire.usage import find_usage

# Answers up to this size go out in one piece with their length, so that a failure half-way can still be tried
# elsewhere. Longer ones (embeddings of many inputs) are passed on as they come.
WHOLE_BYTES = 1024 * 1024
# The pieces at the end of a stream in which its usage is looked for: the usage event, `[DONE]`, and room for cuts.
_TAIL_PIECES = 4


class Answer:
    """Passes one answer on. `clock`: monotonic seconds."""

    __slots__ = ("_alias", "_call", "_clock", "_response", "_tail", "_write")

    def __init__(self, call: Call, response: Response, clock: Callable[[], float]) -> None:
        self._call = call
        self._response = response
        self._clock = clock
        self._write = call.client.write
        self._alias = call.model.alias_rewriter() if call.model is not None else None
        self._tail: deque[bytes] = deque(maxlen=_TAIL_PIECES)

    @property
    def at_event_boundary(self) -> bool:
        """Whether this is a stream of events and a new one could begin here."""
        if not any(name == b"content-type" and b"event-stream" in value for name, value in self._response.headers):
            return False
        return b"".join(self._tail)[-4:].endswith((b"\n\n", b"\r\n\r\n"))

    async def pass_on(self, headers: list[Header]) -> None:
        """The whole answer, to the client's side of the exchange. Raises EngineError when the engine fails."""
        length = self._response.content_length
        if length is not None and length <= WHOLE_BYTES:
            await self._pass_whole(headers)
        else:
            await self._pass_pieces(headers)

    async def _pass_whole(self, headers: list[Header]) -> None:
        body = await self._response.read(WHOLE_BYTES)
        self._note_first_byte()
        if self._response.status < 400:
            self._call.usage = find_usage(body)
            if self._alias is not None:
                body = self._alias.feed(body) + self._alias.flush()
        elif self._call.model is not None:
            body = self._call.model.renamed_error(body)
        await self._call.client.respond(self._response.status, headers, body)

    async def _pass_pieces(self, headers: list[Header]) -> None:
        client = self._call.client
        if self._alias is None and self._response.content_length is not None:
            headers = [*headers, (b"content-length", b"%d" % self._response.content_length)]
        client.head(self._response.status, headers)
        await self._response.relay(self._piece)
        self._call.usage = find_usage(b"".join(self._tail))
        await client.finish(self._alias.flush() if self._alias is not None else b"")

    def _piece(self, chunk: bytes) -> Awaitable[None] | None:
        """The hot path of a stream: called from the parser for every piece; an awaitable when the client is slow."""
        if self._call.first_byte_at is None:
            self._note_first_byte()
        self._tail.append(chunk)
        if self._alias is not None:
            chunk = self._alias.feed(chunk)
            if not chunk:
                return None
        return self._write(chunk)

    def _note_first_byte(self) -> None:
        self._call.first_byte_at = self._clock()
        if self._call.ticket is not None:
            self._call.ticket.first_token()
