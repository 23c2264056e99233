"""A request on its way through the engine: tokens in from the runtime, bytes out to the client, faults in between.

Floor: asyncio and `asgi.Request`. The runtime's callbacks only fill a mailbox; one coroutine per request sends it, so a
slow client costs memory for its own answer and holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence as Row
from enum import Enum

from benchmarks.engine.answer import Answer, Choice, Piece
from benchmarks.engine.asgi import Request
from benchmarks.engine.errors import ENGINE_DEAD, Refusal
from benchmarks.engine.faults import Fault, FaultKind
from benchmarks.engine.model import Event, Sequence
from benchmarks.engine.runtime import Runtime
from benchmarks.engine.wire import Writer, to_json


class Ending(Enum):
    DONE = "done"
    DIED = "died"
    SILENT = "silent"


def engine_error(fault: Fault) -> Refusal:
    return Refusal(fault.status, fault.message or ENGINE_DEAD)


class Prefill:
    """Sequences without output (embeddings and the like): done when the last one is."""

    def __init__(self, runtime: Runtime, sequences: Row[Sequence]) -> None:
        self._runtime = runtime
        self._open = {sequence.id: sequence for sequence in sequences}
        self._over = asyncio.Event()
        self.aborted = False

    def on_event(self, event: Event) -> None:
        self._open.pop(event.sequence.id, None)
        if not self._open:
            self._over.set()

    def on_abort(self, sequence: Sequence) -> None:
        self.aborted = True
        self._over.set()

    async def run(self, request: Request) -> bool:
        """False: the client left."""
        for sequence in list(self._open.values()):
            self._runtime.submit(sequence, self)
        request.watch(self._over.set)
        try:
            await self._over.wait()
        finally:
            for sequence in self._open.values():
                self._runtime.withdraw(sequence)
        return not request.gone.is_set()


class TextExchange:
    """One answer with its choices, streamed or whole. `chunks` counts events (whole: tokens) for the faults."""

    def __init__(
        self, runtime: Runtime, request: Request, answer: Answer, writer: Writer, stream: bool, fault: Fault | None
    ) -> None:
        self._runtime = runtime
        self._request = request
        self._answer = answer
        self._writer = writer
        self._stream = stream
        self._fault = fault
        self._choices = {choice.sequence.id: choice for choice in answer.choices}
        self._open = len(answer.choices)
        self._started_at = runtime.clock()
        self._mailbox: list[bytes] = []
        self._mail = asyncio.Event()
        self._chunks = 0
        self._begun = False
        self._ending: Ending | None = None

    # What the runtime says

    def on_event(self, event: Event) -> None:
        if self._ending is not None:
            return
        self._begin()
        choice = self._choices[event.sequence.id]
        piece = choice.advance(event.last)
        self._time(choice)
        self._write(piece, event.last)

    def on_abort(self, sequence: Sequence) -> None:
        choice = self._choices[sequence.id]
        if self._ending is None and choice.finish is None:
            self._begin()
            self._write(choice.end("abort"), True)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            for event in self._writer.first():
                self._emit(event)

    def _write(self, piece: Piece, over: bool) -> None:
        self._emit(self._writer.piece(piece))
        if piece.finish is None or self._ending is not None:
            return
        if not over:
            self._runtime.finish(piece.choice.sequence)
        self._observe(piece.choice)
        self._open -= 1
        if self._open == 0:
            self._finish()

    def _finish(self) -> None:
        for event in self._writer.last():
            self._emit(event)
            if self._ending is None:  # usage comes first: a fault may still take what follows it
                self._tell()
        if self._ending is None:
            self._end(Ending.DONE)

    def _tell(self) -> None:
        """Remembers the usage that the answer ends with: one in one piece always, a stream where it is asked for."""
        answer = self._answer
        if answer.include_usage or not self._stream:
            self._request.told = answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens

    def _emit(self, event: bytes) -> None:
        """Into the mailbox, unless the fault says that this chunk does not come."""
        if self._ending is not None:
            return
        if self._fault is None:
            self._fault = self._runtime.faults.claim(self._request.path, self._runtime.clock(), started=True)
        fault = self._fault
        if fault is not None and fault.after_chunks is not None and self._chunks >= fault.after_chunks:
            self._break(fault)
        elif event:
            self._chunks += 1
            self._mailbox.append(event)
            self._mail.set()

    # What a fault does

    def _break(self, fault: Fault) -> None:
        if fault.kind is FaultKind.SILENT:
            self._end(Ending.SILENT)
        elif fault.kind is FaultKind.DIE:
            self._end(Ending.DIED)
        else:
            self._end(Ending.DONE)
            self._mailbox.extend(self._last_words(fault))
            self._withdraw()

    def _last_words(self, fault: Fault) -> list[bytes]:
        if fault.kind is FaultKind.ERROR:
            return self._writer.failed(engine_error(fault))
        self._tell()
        first = [] if self._begun and self._chunks else self._writer.first()
        # The chunk that was to come may be the one that ended its choice: that one, too, ends otherwise.
        lost = len(self._answer.choices) == 1
        pieces = [choice.end("abort") for choice in self._answer.choices if lost or choice.finish is None]
        return [*first, *(self._writer.piece(piece) for piece in pieces), *self._writer.last()]

    def _end(self, ending: Ending) -> None:
        self._ending = ending
        self._mail.set()

    # What the client gets

    async def run(self) -> None:
        if self._stream:
            for event in self._writer.opening():
                self._emit(event)
        for choice in self._answer.choices:
            self._runtime.submit(choice.sequence, self)
        self._request.watch(self._leave)
        try:
            await (self._send_events() if self._stream else self._send_whole())
        finally:
            self._withdraw()

    def _leave(self) -> None:
        """The client is gone: free the seats now, not when the coroutine gets its turn."""
        self._withdraw()
        self._mail.set()

    def _withdraw(self) -> None:
        for choice in self._answer.choices:
            self._runtime.withdraw(choice.sequence)

    async def _next_mail(self) -> bytes | None:
        """All that is waiting, as one piece; None when the client is gone."""
        while not (self._mailbox or self._ending in (Ending.DONE, Ending.DIED)):
            if self._request.gone.is_set():
                return None
            self._mail.clear()
            await self._mail.wait()
        mail = b"".join(self._mailbox)
        self._mailbox.clear()
        return None if self._request.gone.is_set() else mail

    async def _send_events(self) -> None:
        request = self._request
        await request.start_events()
        while (mail := await self._next_mail()) is not None:
            if self._ending is Ending.DIED:
                await request.events(mail)
                await request.die()
                return
            done = self._ending is Ending.DONE
            if mail or done:
                await request.events(mail, last=done)
            if done:
                return

    async def _send_whole(self) -> None:
        while await self._next_mail() is not None:
            if self._ending is Ending.DONE and self._fault is not None and self._fault.kind is FaultKind.ERROR:
                raise engine_error(self._fault)
            if self._ending in (Ending.DONE, Ending.DIED):
                died = self._ending is Ending.DIED
                await self._request.whole(200, to_json(self._writer.whole()), b"application/json", dies=died)
                return

    # What is measured

    def _time(self, choice: Choice) -> None:
        now, metrics = self._runtime.clock(), self._runtime.metrics
        if len(choice.ids) == 1:
            choice.first_at = now
            metrics.first_token.observe(now - choice.sequence.arrived_at)
        else:
            metrics.between_tokens.observe(now - choice.last_at)
        choice.last_at = now

    def _observe(self, choice: Choice) -> None:
        """A finished choice; one that its client left is in no counter, as captured."""
        metrics, sequence = self._runtime.metrics, choice.sequence
        reason = choice.finish if choice.finish in ("stop", "length", "abort") else "error"
        metrics.success.labels("0", self._answer.model, reason).inc()
        if not choice.ids:
            return
        metrics.request_prompt.observe(sequence.prompt_tokens)
        metrics.request_generation.observe(len(choice.ids))
        metrics.max_generation.observe(sequence.output_tokens)
        metrics.params_n.observe(len(self._answer.choices) // max(1, len(self._answer.prompts)))
        metrics.params_max_tokens.observe(sequence.output_tokens)
        metrics.preempted.observe(sequence.preemptions)
        metrics.prefill_computed.observe(sequence.prompt_tokens - sequence.cached_tokens)
        scheduled = sequence.scheduled_at if sequence.scheduled_at is not None else choice.first_at
        metrics.latency.observe(choice.last_at - sequence.arrived_at)
        metrics.queue_time.observe(scheduled - sequence.arrived_at)
        metrics.prefill_time.observe(choice.first_at - scheduled)
        metrics.decode_time.observe(choice.last_at - choice.first_at)
        metrics.inference_time.observe(choice.last_at - scheduled)
        if len(choice.ids) > 1:
            metrics.per_token.observe((choice.last_at - choice.first_at) / (len(choice.ids) - 1))
