"""An engine's answer on its way to the client: byte for byte, piece by piece. Only the alias is changed in it, and the
usage taken out that the gateway alone had asked for; its beginning is kept back until there is something to see, and
its end is judged.

    engine -> tap (token ids) -> judge (whole events, none before the first content) -> passage -> client

Floor: an adapter between `router.upstream` and `router.client`, used by `router.attempts`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine

from router.calls import Call, Superseded
from router.errors import BadEngineResponse, EngineError, PolicyError
from router.guards.answers import AnswerGuard
from router.guards.stream_asking import StreamAsker
from router.passage import Passage
from router.response import EngineAnswer
from router.wire.answer_sample import AnswerSample
from router.wire.continuation import said_usage
from router.wire.endings import StreamJudge, told_by
from router.wire.first_token import shows_token
from router.wire.http import Header
from router.wire.progress import Progress
from router.wire.stream_usage import UsageRemover
from router.wire.token_tap import TokenTap
from router.wire.usage import Told, find_fingerprint, find_finish, find_usage

# Answers up to this size go out in one piece with their length, so that a failure half-way can still be tried
# elsewhere. Longer ones (embeddings of many inputs) are passed on as they come.
WHOLE_BYTES = 1024 * 1024
# The pieces at the end of a stream in which its usage is looked for: the usage event, `[DONE]`, and room for cuts.
_TAIL_PIECES = 4
# A generated answer in one piece that a tenant's rules must see as a whole, however its engine frames it.
_EXAMINED_BYTES = 32 * 1024 * 1024


class _Stopped(Exception):
    """The tenant's rules let nothing more of this stream pass."""


class Answer:
    """Passes one answer on. `clock`: monotonic seconds. `hold_back`: seconds for which a beginning without content is
    kept from the client, who has not begun to read yet; 0 keeps nothing. `token_at`: when its engine's first token
    came. `guard`: what the tenant's rules found in it. `sample`: what of it is looked at when it is over, if it is."""

    __slots__ = (
        "_asker", "_awaits_token", "_call", "_clock", "_front", "_headers", "_hold_back", "_judge", "_owed", "_passage",
        "_plain", "_response", "_tail", "_timer", "_write", "guard", "sample", "token_at",
    )  # fmt: skip

    def __init__(self, call: Call, response: EngineAnswer, clock: Callable[[], float], hold_back: float) -> None:
        self._call = call
        call.first_byte_at = None  # what came of an attempt before this one, nobody has seen
        self._response = response
        self._clock = clock
        self._hold_back = hold_back
        self._headers: list[Header] = []
        self._write: Callable[[bytes], Awaitable[None] | None] = self._write_first
        self._owed: Awaitable[None] | None = None  # of what was let go while no piece came
        self._timer: asyncio.TimerHandle | None = None
        events = any(name == b"content-type" and value.find(b"event-stream") >= 0 for name, value in response.headers)
        judged = events and response.status < 400 and bool(call.spec.output_fields)
        self._judge = StreamJudge(call.spec, hold=hold_back > 0 and not call.client.started) if judged else None
        self._front = call.resume.tap() if call.resume is not None and judged and response.status == 200 else None
        guarded = call.guard is not None and response.status < 400
        self.guard = call.guard.answer(call.spec) if call.guard is not None and guarded else None
        self._passage = Passage(
            UsageRemover(call.fingerprint) if call.hides_usage and judged else None,
            self.guard.stream() if self.guard is not None and judged else None,
            call.model.alias_rewriter() if call.model is not None else None,
        )
        self._plain = self._passage.plain
        self._asker = self.guard.asker if self.guard is not None else None
        self._tail: deque[bytes] = deque(maxlen=_TAIL_PIECES)
        self.sample = AnswerSample() if call.sampled and response.status < 400 else None
        self._awaits_token = True
        self.token_at: float | None = None

    @property
    def progress(self) -> Progress | None:
        """What its stream has said, where another engine's answer could follow; else None."""
        return self._front.progress if self._front is not None else None

    @property
    def at_event_boundary(self) -> bool:
        """Whether this is a stream of events and the client could get a new one now."""
        if self._judge is None:
            return False
        if self._passage.screen is not None:
            return True  # only whole events come through
        return not (self._judge.inside_event or self._passage.inside_event)

    async def pass_on(self, headers: list[Header]) -> None:
        """The whole answer, to the client's side of the exchange. Raises EngineError when the engine fails."""
        self._headers = headers
        length = self._response.content_length
        try:
            if length is not None and length <= WHOLE_BYTES:
                await self._pass_whole(WHOLE_BYTES)
            elif self.guard is not None and self._judge is None:
                await self._pass_whole(_EXAMINED_BYTES)
            else:
                await self._pass_pieces()
        finally:
            self._stop_timer()
            self._write = self._call.client.write  # the method that begins an answer refers to it
            if self._owed is not None and isinstance(self._owed, Coroutine):
                self._owed.close()  # nobody will await it any more

    # -- in one piece -----------------------------------------------------------------------------------------------

    async def _pass_whole(self, limit: int) -> None:
        body = await self._response.read(limit)
        self._note_first(body)
        if self._response.status < 400:
            if self._judge is None:
                self._note_told(told_by(self._call.spec, body))
            else:
                self._tail.append(body)
                self._note_usage()
            if self.sample is not None:
                self.sample.keep(body, events=self._judge is not None)
            if self.guard is not None and self._judge is None:
                body = await self._examined(self.guard, body)
            body = self._passage.feed(body if self._judge is None else self._judge.feed(body)) + self._rest()
            body = await self._seen(body)
            if self._judge is not None:
                self._note_usage()  # the gateway's own question for it has been taken out meanwhile
            if self._passage.stopped:
                body += self._ending()
        elif self._call.model is not None:
            body = self._call.model.renamed_error(body)
        if self._call.client.started:
            raise BadEngineResponse("The engine did not go on with the answer.")
        if not self._call.wins():
            raise Superseded
        await self._call.client.respond(self._response.status, self._headers, body)
        await _let_out()

    async def _examined(self, guard: AnswerGuard, body: bytes) -> bytes:
        """Raises PolicyError where the client must not have it."""
        try:
            return await guard.whole(body)
        except PolicyError:
            if not self._call.wins():
                raise Superseded from None
            raise

    # -- in pieces --------------------------------------------------------------------------------------------------

    async def _pass_pieces(self) -> None:
        if self._plain and self._judge is None and self._response.content_length is not None:
            self._headers = [*self._headers, (b"content-length", b"%d" % self._response.content_length)]
        try:
            await self._pass_stream()
        except EngineError:
            if self._front is None:  # else the stream may go on
                await self.give_up()
            raise

    async def go_on(self, response: EngineAnswer, front: TokenTap) -> None:
        """Passes on another engine's answer as the rest of this one's stream. Raises EngineError when it fails too."""
        self._response, self._front, self._awaits_token = response, front, True
        await self._pass_stream()

    async def end_with(self, events: bytes) -> None:
        """The end of a stream whose engine did not live to write it."""
        self._tail.append(events)
        rest = self._rest(events)
        rest = await self._seen(rest)
        self._note_usage()
        if self._passage.stopped:
            rest += self._ending()
        await self._call.client.finish(rest)

    async def _pass_stream(self) -> None:
        try:
            await self._relay()
            rest = self._rest(self._front.end() if self._front is not None else b"")
            rest = await self._seen(rest)
        except _Stopped:
            rest = b""
        finally:
            self._note_usage()
        if self._passage.stopped:
            rest += self._ending(begins=bool(rest))
        self._begin()
        if self._owed is not None:
            owed, self._owed = self._owed, None
            await owed
        await self._call.client.finish(rest)

    async def _relay(self) -> None:
        """An engine that dies when the last event is out has done all that it had to."""
        try:
            await self._response.relay(self._piece if self.sample is None else self._sampled)
        except EngineError:
            judge = self._judge
            if judge is None or judge.failure is not None or not judge.complete:
                raise

    def _piece(self, chunk: bytes) -> Awaitable[None] | None:
        """The hot path of a stream: called from the parser for every piece; an awaitable when the client is slow."""
        if self._awaits_token:
            self._note_first(chunk)
        if self._front is not None:
            chunk = self._front.feed(chunk)
            if self._front.failure is not None and not self._call.client.started:
                raise self._front.failure  # the client has seen nothing: let another engine begin anew
            if not chunk:
                return None
        self._tail.append(chunk)
        judge = self._judge
        if judge is not None:
            chunk = judge.feed(chunk)
            if judge.failure is not None:
                return self._break_off(chunk, judge.failure)
            if not chunk:
                self._wait_for_content(judge)
                return None
        if self._plain:
            return self._write(chunk) if chunk else None
        chunk = self._passage.feed(chunk)
        if self._passage.screen is not None:
            if self._passage.stopped:
                return self._stop(chunk)
            if self._asker is not None:
                return self._asked(self._asker) if self._asker.keep(chunk) else None
        return self._write(chunk) if chunk else None

    def _sampled(self, chunk: bytes) -> Awaitable[None] | None:
        """The same of a stream that is looked at when it is over."""
        if self.sample is not None:
            self.sample.add(chunk)
        return self._piece(chunk)

    async def _asked(self, asker: StreamAsker) -> None:
        """Passes on what a service lets pass."""
        chunk = await asker.verdict()
        if self._passage.stopped:
            raise _Stopped
        if chunk and (pending := self._write(chunk)) is not None:
            await pending

    async def _seen(self, chunk: bytes) -> bytes:
        """What of it and of what waits for a service may pass."""
        return chunk if self._asker is None else await self._asker.last(chunk)

    async def _stop(self, chunk: bytes) -> None:
        """What may still pass goes to the client. Awaited by `Response.relay`, which lets go of the engine."""
        if self._asker is not None:
            chunk = b""  # the service has not seen it
        if chunk and (pending := self._write(chunk)) is not None:
            await pending
        raise _Stopped

    def _ending(self, *, begins: bool = False) -> bytes:
        """The end of a stream that the rules have stopped. Raises PolicyError where the client has seen nothing of it:
        it is told so instead. `begins`: it is about to."""
        call, guard = self._call, self.guard
        assert guard is not None  # noqa: S101  # only of a stream that is stopped
        refusal = guard.refusal()
        if call.usage is None and self._front is not None:
            call.usage = said_usage(self._front.progress)
        if not (call.client.started or begins):
            if not call.wins():
                raise Superseded
            raise refusal
        call.error_code, call.error_source, call.broken_off = refusal.code, refusal.source, True
        call.finish_reason = "content_filter"
        return self._passage.ending()

    async def _break_off(self, chunk: bytes, failure: EngineError) -> None:
        """The last good events go to a client that has begun to read; for one that has not, another engine may begin
        anew. Awaited by `Response.relay`, which lets go of the engine."""
        if (
            self._call.client.started
            and (chunk := await self._seen(self._passage.feed(chunk)))
            and (pending := self._write(chunk)) is not None
        ):
            await pending
        if self._passage.stopped:
            raise _Stopped
        raise failure

    def _rest(self, last: bytes = b"") -> bytes:
        """What is still held back at a clean end, after these `last` events. Raises EngineError where a stream has no
        good end."""
        rest, judge = b"", self._judge
        if judge is not None:
            rest = self._passage.feed(judge.feed(last) + judge.flush())
            if judge.failure is not None:
                raise judge.failure
            self._call.refused = judge.refused
        return rest + self._passage.rest()

    async def give_up(self) -> None:
        """The engine broke off: a client that has begun to read gets the whole events that were held back. For one
        that has not, another engine may begin anew."""
        if not self._call.client.started:
            return
        whole = await self._seen(self._passage.give_up())
        if whole and (pending := self._write(whole)) is not None:
            await pending

    # -- the beginning ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """From here on it is this answer that the client gets. Raises Superseded when it is another already."""
        client = self._call.client
        if not self._call.wins():
            raise Superseded
        self._stop_timer()
        if not client.started:
            client.head(self._response.status, self._headers)
        self._write = client.write

    def _write_first(self, chunk: bytes) -> Awaitable[None] | None:
        self._begin()
        return self._write(chunk)

    def _wait_for_content(self, judge: StreamJudge) -> None:
        if judge.holds and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._hold_back, self._let_go, judge)

    def _let_go(self, judge: StreamJudge) -> None:
        """Nothing but a beginning has come for so long that the client should see it: it may wait for a sign."""
        self._timer = None
        chunk = self._passage.feed(judge.release())
        if not chunk or not self._call.wins():
            return
        self._owed = self._write(chunk)
        if self._owed is not None:
            self._write = self._write_behind

    def _write_behind(self, chunk: bytes) -> Awaitable[None]:
        """The piece behind one that the client was too slow for when it was let go."""
        self._write = self._call.client.write
        owed, self._owed = self._owed, None

        async def both() -> None:
            if owed is not None:
                await owed
            following = self._write(chunk)
            if following is not None:
                await following

        return both()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- what is noted on the way ------------------------------------------------------------------------------------

    def _note_told(self, told: Told) -> None:
        """Of an answer in one piece."""
        call = self._call
        call.usage, call.finish_reason, call.system_fingerprint = told.usage, told.finish_reason, told.fingerprint

    def _note_usage(self) -> None:
        hidden, tail = self._passage.hidden, b"".join(self._tail)
        self._call.usage = find_usage(hidden.removed if hidden is not None and hidden.removed else tail)
        if self._call.spec.output_fields:
            self._call.finish_reason = find_finish(tail)
        if self._call.spec.usage_on_request:  # the others have none, and may have long last events
            self._call.system_fingerprint = find_fingerprint(tail)
        if hidden is not None:
            if hidden.fingerprint is not None:
                self._call.learn_fingerprint(hidden.fingerprint)
        elif self._front is not None and self._call.system_fingerprint is not None:
            # Seen by its client; the next stream may break behind its last word (`router.wire.continuation.ending`).
            self._call.learn_fingerprint(b',"system_fingerprint":"%b"' % self._call.system_fingerprint.encode())

    def _note_first(self, chunk: bytes) -> None:
        """The first byte, and the first that shows a token: until then the engine may still have the prompt to do."""
        if self._call.first_byte_at is None:
            self._call.first_byte_at = self._clock()
        if self._judge is not None and not shows_token(chunk, self._call.spec.name):
            return
        self._awaits_token = False
        self.token_at = self._clock()
        if self._call.ticket is not None:
            self._call.ticket.first_token()


async def _let_out() -> None:
    """Lets others send the whole answer that they have before what follows from this one is worked out: their clients
    wait for it, and nobody waits for that. Who is cancelled meanwhile, as the process ends, has nothing left to break
    off."""
    try:
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        return
