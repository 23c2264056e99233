"""An engine's answer on its way to the client: byte for byte, piece by piece. Only the alias is changed in it, and the
usage taken out that the gateway alone had asked for.

Floor: an adapter between `router.upstream` and `router.client`, used by `router.gateway`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

from router.calls import Call
from router.errors import EngineError
from router.upstream import Response
from router.wire.first_token import shows_token
from router.wire.http import Header
from router.wire.progress import Progress
from router.wire.stream_usage import UsageRemover
from router.wire.token_tap import TokenTap
from router.wire.usage import find_usage

# Answers up to this size go out in one piece with their length, so that a failure half-way can still be tried
# elsewhere. Longer ones (embeddings of many inputs) are passed on as they come.
WHOLE_BYTES = 1024 * 1024
# The pieces at the end of a stream in which its usage is looked for: the usage event, `[DONE]`, and room for cuts.
_TAIL_PIECES = 4


class Answer:
    """Passes one answer on. `clock`: monotonic seconds. `token_at`: when its engine's first token came."""

    __slots__ = (
        "_alias", "_awaits_token", "_call", "_clock", "_front", "_hidden", "_response", "_tail", "_write", "token_at",
    )  # fmt: skip

    def __init__(self, call: Call, response: Response, clock: Callable[[], float]) -> None:
        self._call = call
        call.first_byte_at = None  # what came of an attempt before this one, nobody has seen
        self._response = response
        self._clock = clock
        self._write = call.client.write
        self._alias = call.model.alias_rewriter() if call.model is not None else None
        self._hidden = UsageRemover(call.fingerprint) if call.hides_usage and self._has_events else None
        resumable = call.resume if response.status == 200 and self._has_events else None
        self._front = resumable.tap() if resumable is not None else None
        self._tail: deque[bytes] = deque(maxlen=_TAIL_PIECES)
        self._awaits_token = True
        self.token_at: float | None = None

    @property
    def progress(self) -> Progress | None:
        """What its stream has said, where another engine's answer could follow; else None."""
        return self._front.progress if self._front is not None else None

    @property
    def at_event_boundary(self) -> bool:
        """Whether this is a stream of events and the client could get a new one now."""
        if not self._has_events:
            return False
        if self._hidden is not None and not self._hidden.forced:
            return not self._hidden.inside_event
        return b"".join(self._tail)[-4:].endswith((b"\n\n", b"\r\n\r\n"))

    async def pass_on(self, headers: list[Header]) -> None:
        """The whole answer, to the client's side of the exchange. Raises EngineError when the engine fails."""
        length = self._response.content_length
        if length is not None and length <= WHOLE_BYTES:
            await self._pass_whole(headers)
        else:
            await self._pass_pieces(headers)

    @property
    def _has_events(self) -> bool:
        return any(name == b"content-type" and b"event-stream" in value for name, value in self._response.headers)

    async def _pass_whole(self, headers: list[Header]) -> None:
        body = await self._response.read(WHOLE_BYTES)
        self._note_first(body)
        if self._response.status < 400:
            self._tail.append(body)
            body = self._changed(body) + self._rest()
            self._note_usage()
        elif self._call.model is not None:
            body = self._call.model.renamed_error(body)
        await self._call.client.respond(self._response.status, headers, body)

    async def _pass_pieces(self, headers: list[Header]) -> None:
        client = self._call.client
        if self._alias is None and self._hidden is None and self._response.content_length is not None:
            headers = [*headers, (b"content-length", b"%d" % self._response.content_length)]
        client.head(self._response.status, headers)
        try:
            await self._pass_stream()
        except EngineError:
            if self._front is None:  # else the stream may go on
                await self.give_up()
            raise

    async def go_on(self, response: Response, front: TokenTap) -> None:
        """Passes on another engine's answer as the rest of this one's stream. Raises EngineError when it fails too."""
        self._response, self._front, self._awaits_token = response, front, True
        await self._pass_stream()

    async def end_with(self, events: bytes) -> None:
        """The end of a stream whose engine did not live to write it."""
        self._tail.append(events)
        out = self._changed(events) + self._rest()
        self._note_usage()
        await self._call.client.finish(out)

    async def _pass_stream(self) -> None:
        try:
            await self._response.relay(self._piece)
            last = self._front.end() if self._front is not None else b""
        finally:
            self._note_usage()
        await self._call.client.finish(self._changed(last) + self._rest())

    def _piece(self, chunk: bytes) -> Awaitable[None] | None:
        """The hot path of a stream: called from the parser for every piece; an awaitable when the client is slow."""
        if self._awaits_token:
            self._note_first(chunk)
        if self._front is not None:
            chunk = self._front.feed(chunk)
            if not chunk:
                return None
        self._tail.append(chunk)
        if self._hidden is not None:
            chunk = self._hidden.feed(chunk)
        if self._alias is not None:
            chunk = self._alias.feed(chunk)
        return self._write(chunk) if chunk else None

    def _changed(self, data: bytes) -> bytes:
        if self._hidden is not None:
            data = self._hidden.feed(data)
        return data if self._alias is None else self._alias.feed(data)

    def _rest(self) -> bytes:
        """What is still held back at a clean end."""
        rest = self._hidden.flush() if self._hidden is not None else b""
        return rest if self._alias is None else self._alias.feed(rest) + self._alias.flush()

    async def give_up(self) -> None:
        """The engine broke off: a client that has begun to read gets the whole events that were held back. For one
        that has not, another engine may begin anew."""
        if self._hidden is None or not self._call.client.started:
            return
        whole = self._hidden.give_up()
        if self._alias is not None:
            whole = self._alias.feed(whole)
        if whole and (pending := self._write(whole)) is not None:
            await pending

    def _note_usage(self) -> None:
        hidden = self._hidden
        self._call.usage = find_usage(hidden.removed if hidden is not None and hidden.removed else b"".join(self._tail))
        if hidden is not None and hidden.fingerprint is not None:
            self._call.learn_fingerprint(hidden.fingerprint)

    def _note_first(self, chunk: bytes) -> None:
        """The first byte, and the first that shows a token: until then the engine may still have the prompt to do."""
        if self._call.first_byte_at is None:
            self._call.first_byte_at = self._clock()
        if self._has_events and not shows_token(chunk, self._call.spec.name):
            return
        self._awaits_token = False
        self.token_at = self._clock()
        if self._call.ticket is not None:
            self._call.ticket.first_token()
