"""How an engine's answer begins and ends: what of it is content, and whether its end is a good one.

Floor: sans-IO. `200` and even `data: [DONE]` promise nothing (facts/vllm.md): an engine that dies sends an error event
and then `[DONE]`, one that shuts down ends with `"finish_reason":"abort"` or answers with an error and no `choices`,
and one that is killed sends nothing more. And the first events of a stream (the role, keep-alive comments, that a
response was created) say nothing: kept back for a while, they leave a failure that follows them invisible.

A JSON string has its quotes and line ends escaped, so a key with bare quotes and a line that begins with `data:` are
never text that a model wrote. Most pieces are one event that is like the one before: they are only compared.
"""

from __future__ import annotations

import re
from typing import Final

from router.errors import EngineAborted, EngineClosed, EngineError
from router.wire import events
from router.wire.events import Kind
from router.wire.openai import ApiSpec
from router.wire.sse import EventSplitter
from router.wire.usage import Told

# What nearly every event of a stream begins with, and only such: then it is no error, and no end of the stream.
_PLAIN: Final = {
    "chat": b'data: {"id":"',
    "completions": b'data: {"id":"',
    "messages": b"event: content_block_delta\n",
    "responses": b"event: response.output_text.delta\n",
}
_NEXT_PLAIN: Final = {api: b"\n\n" + plain for api, plain in _PLAIN.items()}
_FINISH: Final = b'"finish_reason":"'
_ABORTED: Final = re.compile(rb'"finish_reason": ?"(?:abort|error)"')
# Bytes of a beginning that are kept back at most: a role chunk has some hundred, per choice; one that carries the
# prompt's token ids may have as many as the prompt.
HELD_BYTES: Final = 256 * 1024


class StreamJudge:
    """Judges one stream. Feed every piece in order; what comes out are whole events, none before the first content.

    `failure`: why the answer is no good, once that is known: nothing more comes out then, and what was held stays. An
    error that the request caused is passed on, and its status is `refused`. `begun`: something has come out, or may.
    `complete`: the last event of a good answer has been seen.
    """

    __slots__ = (
        "_api", "_events", "_held", "_held_bytes", "_line", "_next_plain", "_plain", "_quiet", "begun", "complete",
        "failure", "refused",
    )  # fmt: skip

    def __init__(self, spec: ApiSpec, *, hold: bool = True) -> None:
        self._api = spec.name
        self._plain = _PLAIN[spec.name]
        self._line = len(self._plain)  # where the line with the data goes on
        self._next_plain = _NEXT_PLAIN[spec.name]
        self._events = EventSplitter()
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._quiet = False  # nothing is held and content has begun: a plain event may pass at once
        self.begun = not hold
        self.complete = False
        self.failure: EngineError | None = None
        self.refused = 0

    @property
    def holds(self) -> bool:
        """Whether whole events are kept from the client."""
        return bool(self._held)

    @property
    def inside_event(self) -> bool:
        """Whether what came out so far ends within an event."""
        return self._events.inside

    def feed(self, piece: bytes) -> bytes:
        """The piece as it may go on: empty while something is held back, more when that is let go."""
        # One event, if its line ends where it ends. Searches for one byte and from the right cost least.
        if (
            self._quiet
            and piece.endswith(b"\n\n")
            and piece.startswith(self._plain)
            and (piece.find(b"\n", self._line) == len(piece) - 2 or self._only_plain(piece))
            and piece.rfind(_FINISH) < 0
        ):
            return piece
        return b"" if self.failure is not None else self._examine(piece)

    def release(self) -> bytes:
        """What was held back, because it is time: the answer has begun."""
        self.begun = True
        held, self._held, self._held_bytes = self._held, [], 0
        return b"".join(held)

    def flush(self) -> bytes:
        """What was held back when the stream came to its end; without a last event that end is a failure."""
        if self.failure is None and not (self.complete or self.refused):
            self.failure = EngineClosed("The engine ended its answer before it was complete.")
        return b"" if self.failure is not None else self.release() + self._events.rest()

    def _only_plain(self, piece: bytes) -> bool:
        """Whether a piece that begins with a plain event holds several of them and nothing else."""
        return piece.count(b"\n\n") == piece.count(self._next_plain) + 1

    def _examine(self, piece: bytes) -> bytes:
        split = self._events
        out: list[bytes] = []
        for event in split.feed(piece):
            if split.inside:  # the rest of one that was too long to be judged
                split.inside = False
                out.append(event)
            else:
                out.append(self._event(event))
            if self.failure is not None:
                split.rest()
                break
        if overflow := split.overflow():
            out += (self.release(), overflow)
        self._quiet = self.begun and not split.part and not split.inside
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        if self.begun and event.startswith(self._plain) and (event.rfind(_FINISH) < 0 or not _ABORTED.search(event)):
            return event
        kind, status = events.kind_of(event, self._api)
        if kind is Kind.FAILED:
            return self._failed(event)
        if kind is Kind.OPENING and not self.begun and self._held_bytes + len(event) <= HELD_BYTES:
            self._held.append(event)
            self._held_bytes += len(event)
            return b""
        self.complete = self.complete or kind is Kind.LAST
        self.refused = self.refused or status
        return event if self.begun else self.release() + event

    def _failed(self, event: bytes) -> bytes:
        """An event with which the engine gives up. Of a chunk that aborts a choice its text goes on: it was computed,
        and who continues the answer goes on behind it."""
        rest = _ABORTED.sub(b'"finish_reason":null', event)
        told = rest is not event and events.kind_of(rest, self._api)[0] is Kind.CONTENT
        out = (rest if self.begun else self.release() + rest) if told else b""
        self.failure = EngineAborted("The engine failed while it answered.")
        return out


def told_by(spec: ApiSpec, body: bytes) -> Told:
    """What a whole answer with a good status says of itself. Raises EngineAborted where it is none."""
    told = events.read_whole(body, spec)
    if told is None:
        raise EngineAborted("The engine answered without an answer.")
    return told
