"""A stream's token ids, taken out of it and kept, so that the stream can be continued elsewhere if its engine fails.

Floor: sans-IO. The gateway asks vLLM for `return_token_ids`, and the client gets the bytes that vLLM 0.32 would have
sent without it: ids become `null`, and a chunk that would not have been sent, as it has nothing but ids, is dropped.
Only whole events leave, so that a stream that breaks has broken between two of them; an engine's word that it failed
(an error event, an `abort` ending, an end before the answer's) becomes an `EngineAborted` and never reaches the client.

The hot path is a chunk of text in one piece: three searches for a byte and three slices, nothing is parsed.
"""

from __future__ import annotations

import re
from typing import Final

from router.errors import EngineAborted, EngineError
from router.wire.chunks import CHOICES, must_go_on, read_chunk, without_ids
from router.wire.events import kind_of
from router.wire.progress import MAX_PROMPT_BYTES, Progress
from router.wire.shapes import Choice, Chunk

_BLANK: Final = re.compile(rb"\n\r?\n")  # what ends an event, also at lines that end in CR LF
# What a chunk of text has before its ids, and between its head and its text, in vLLM's order of fields.
_BEFORE_IDS: Final = {
    "chat": b'"finish_reason":null,"token_ids":[',
    "completions": b'"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":[',
}
_OPENING: Final = {
    "chat": b'"choices":[{"index":0,"delta":{"content":"',
    "completions": b'"choices":[{"index":0,"text":"',
}
_NOTHING: Final = b'"delta":{},'
_ERROR: Final = b'"error":'
_QUOTE: Final = 0x22
# Bytes of one event: the first has the ids of the prompt.
MAX_EVENT_BYTES: Final = MAX_PROMPT_BYTES + 64 * 1024


def tap(progress: Progress, api: str) -> TokenTap:
    """For the stream of `progress` from its beginning."""
    return TokenTap(progress, api) if progress.held is None else HoldingTap(progress, api)


class TokenTap:
    """Stands where an engine's stream comes in. Feed every piece in order, then `end`. Both raise EngineAborted.

    `failure`: what the next call will raise, where good events came in one piece with the engine's failure."""

    __slots__ = (
        "_before_ids", "_choices_at", "_opening", "_part", "_text_at", "_through", "failure", "progress",
    )  # fmt: skip

    def __init__(self, progress: Progress, api: str) -> None:
        self.progress = progress
        self._before_ids = _BEFORE_IDS[api]
        # Where text is kept every chunk is examined: none begins like this.
        self._opening = _OPENING[api] if not progress.keeps_text else b"\0"
        self._choices_at = len(progress.head)
        self._text_at = self._choices_at + len(self._opening)
        self._part = bytearray()  # of an event whose end has not come
        self._through = False  # an event was too long: pieces pass as they come
        self.failure: EngineError | None = None

    def feed(self, piece: bytes) -> bytes:
        """The piece as the client gets it, whole events only."""
        # One line and its end; looking for one byte takes a tenth of what looking for two takes.
        if piece[-2:] == b"\n\n" and piece.find(b"\n") == len(piece) - 2 and not self._part:
            return self._event(piece)
        return self._split(piece)

    def end(self) -> bytes:
        """The engine has ended the body in order: whether it had ended the answer is another question."""
        if self.failure is not None:
            raise self.failure
        if self.progress.head:
            self._must_be_finished()
        rest = bytes(self._part)
        self._part.clear()
        return rest

    def _split(self, piece: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        if self._through:
            return piece
        part, at = self._part, 0
        search_from = max(0, len(part) - 2)
        part += piece
        out: list[bytes] = []
        try:
            for blank in _BLANK.finditer(part, search_from):
                out.append(self._event(bytes(part[at : blank.end()])))
                at = blank.end()
        except EngineError as failure:
            if not any(out):
                raise
            self.failure = failure
        del part[:at]
        if len(part) > MAX_EVENT_BYTES:
            self._through = True
            self.progress.lose("length")
            out.append(bytes(part))
            part.clear()
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        """What goes out for one whole event."""
        start = event.rfind(b"[") + 1
        if not (event.startswith(self._opening, self._choices_at) and event.endswith(self._before_ids, 0, start)):
            return self._examine(event)
        end = event.find(b"]", start)
        progress = self.progress
        progress.add_ids(event[start:end])
        if event[self._text_at] != _QUOTE:
            progress.said, progress.last = len(progress.ids), event
        return event[: start - 1] + b"null" + event[end + 1 :]

    def _examine(self, event: bytes) -> bytes:
        """Any other event: the first, the last ones, errors, comments, and whatever an engine may think of."""
        if not event.startswith(b"data:"):
            return event
        if event[5:].strip() == b"[DONE]":
            self._must_be_finished()
            self.progress.done = True
            return event
        if _ERROR in event and kind_of(event, "chat")[1]:
            self.progress.lose("refused")  # the request's own fault: the client is told, and nobody goes on
            return event
        bare, prompt, ids = without_ids(event)
        chunk = read_chunk(bare)
        if chunk is None or chunk.choices is None or len(chunk.choices) > 1:
            self.progress.lose("format")
            return bare
        self._note_prompt(bare, prompt)
        if not chunk.choices:
            self._note_usage(chunk)
            return bare
        return bare if self._note(chunk.choices[0], bare, ids) else b""

    def _note_usage(self, chunk: Chunk) -> None:
        if chunk.has_usage:
            self._must_be_finished()
            self.progress.usage_sent = True

    def _must_be_finished(self) -> None:
        """Before the end of an answer comes the end of what it says, or the engine has given it up."""
        if not (self.progress.finished or self.progress.lost):
            raise EngineAborted("The engine ended its answer before it was complete.")

    def _note_prompt(self, event: bytes, prompt: bytes | None) -> None:
        progress = self.progress
        if not progress.head:
            progress.head = event[: max(0, event.find(CHOICES))]
            self._choices_at = len(progress.head)
            self._text_at = self._choices_at + len(self._opening)
            if b'"id":' not in progress.head or b'"model":' not in progress.head:
                progress.lose("format")
        if prompt is not None and not progress.lost:
            progress.prompt = prompt
            if len(prompt) > MAX_PROMPT_BYTES:
                progress.lose("length")

    def _note(self, choice: Choice, event: bytes, ids: bytes | None) -> bool:
        """Keeps what a chunk says. False: without ids it would not have been sent. Raises EngineAborted."""
        progress, said = self.progress, choice.said
        must_go_on(choice)
        if choice.delta is not None and choice.delta.role is not None and not said:
            return True
        if ids is not None:
            progress.add_ids(ids)
        elif said:
            progress.lose("ids")  # an engine that does not tell them
        if said is None and not choice.finish_reason:
            progress.lose("parser")  # what the client gets is not what the model wrote
            return ids is None or _NOTHING not in event
        if said:
            progress.said, progress.last = len(progress.ids), event
            if progress.keeps_text:
                progress.text.append(said)
        if choice.finish_reason:
            progress.finished, progress.said = True, len(progress.ids)
        return True


class HoldingTap(TokenTap):
    """Of a stream with stop strings: the last events with text are kept, unread (`router.wire.held_back`)."""

    __slots__ = ()

    def _event(self, event: bytes) -> bytes:
        progress = self.progress
        before = progress.last
        out = super()._event(event)
        if progress.last is not before and progress.held is not None:
            said = progress.said
            progress.held.note(said, progress.last, several=progress.merged == said)
        return out
