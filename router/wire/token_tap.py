"""A stream's token ids, taken out of it and kept, so that the stream can be continued elsewhere if its engine fails.

Floor: sans-IO. The gateway asks vLLM for `return_token_ids`, and the client gets the bytes that vLLM 0.32 would have
sent without it: ids become `null`, and a chunk that would not have been sent, as it has nothing but ids, is dropped.
Only whole events leave, so that a stream that breaks has broken between two of them; an engine's word that it failed
(an error event, an `abort` ending, an end before the answer's) becomes an `EngineAborted` and never reaches the client.

The hot path is a chunk of text in one piece: three searches and two slices, nothing is parsed. In a JSON string quotes
are escaped, so that a key with bare quotes is never text that a model wrote.
"""

from __future__ import annotations

import re
from array import array
from typing import Final

import msgspec

from router.errors import EngineAborted, EngineError
from router.wire.values import given

_BLANK: Final = re.compile(rb"\n\r?\n")  # what ends an event, also at lines that end in CR LF
_PROMPT: Final = b'"prompt_token_ids":['
_IDS: Final = b'"token_ids":['
# What a chunk of text has before its ids, and before its text, in vLLM's order of fields.
_BEFORE_IDS: Final = {
    "chat": b'"finish_reason":null,"token_ids":[',
    "completions": b'"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":[',
}
_BEFORE_TEXT: Final = {"chat": b'"delta":{"content":"', "completions": b'"text":"'}
CHOICES: Final = b'"choices":'
_QUOTE: Final = 0x22
# What is kept of one stream at most: 4 bytes a token, and a prompt's ids as they were written, some 6 bytes each.
# Beyond, it goes on but cannot be continued.
MAX_TOKENS: Final = 256 * 1024
MAX_PROMPT_BYTES: Final = 2 * 1024 * 1024
# Bytes of one event: the first has the ids of the prompt.
MAX_EVENT_BYTES: Final = MAX_PROMPT_BYTES + 64 * 1024
_GAVE_UP: Final = "The engine gave this request up."


class Progress:
    """What one stream has said so far, over all engines that had part in it.

    `head`: how each of its chunks begins, up to its choices. `prompt`: the prompt's ids, as JSON wrote them. `ids`: of
    the answer; the client has the text of the first `said`. `merged`: such a count at the end of a chunk of several
    tokens, of which the last ones' text may not have come. `last`: the event with the last text. `text`: all of it,
    where it is kept. `lost`: why it cannot be continued; empty while it can.
    """

    __slots__ = (
        "done", "finished", "head", "ids", "keeps_text", "last", "lost", "merged", "prompt", "said", "text",
        "usage_sent",
    )  # fmt: skip

    def __init__(self, *, keeps_text: bool = False) -> None:
        self.head = b""
        self.prompt = b""
        self.ids = array("I")
        self.said = 0
        self.merged = 0
        self.last = b""
        self.keeps_text = keeps_text
        self.text: list[str] = []
        self.lost = ""
        self.finished = False
        self.usage_sent = False
        self.done = False

    @property
    def prompt_tokens(self) -> int:
        return self.prompt.count(b",") + 1 if self.prompt else 0

    def lose(self, why: str) -> None:
        """From here on it cannot be continued: what was kept for that is let go."""
        self.lost = self.lost or why
        self.prompt, self.ids, self.text = b"", array("I"), []
        self.said = self.merged = 0

    def add_ids(self, raw: bytes) -> None:
        """The ids of one chunk, as JSON wrote them."""
        if self.lost:
            return
        try:
            if raw.isdigit():
                self.ids.append(int(raw))
            elif raw:
                before = len(self.ids)
                self.ids.extend(map(int, raw.split(b",")))
                if len(self.ids) > before + 1:
                    self.merged = len(self.ids)
        except (ValueError, OverflowError):
            self.lose("ids")
        if len(self.ids) > MAX_TOKENS:
            self.lose("length")

    def rewind(self) -> None:
        """Forgets the ids whose text nobody has: whoever goes on from here says them again."""
        del self.ids[self.said :]


class _Delta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def said(self) -> str | None:
        """The text that this chunk adds; None for one without (a role, a parser's markers, reasoning)."""
        return self.text if self.delta is None else self.delta.content


class Chunk(msgspec.Struct, gc=False):
    """An event of a stream, of either API."""

    choices: list[Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: str | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def has_usage(self) -> bool:
        return bytes(memoryview(self.usage)[:1]) == b"{"


_decode = msgspec.json.Decoder(Chunk).decode


class TokenTap:
    """Stands where an engine's stream comes in. Feed every piece in order, then `end`. Both raise EngineAborted."""

    __slots__ = ("_before_ids", "_before_text", "_chat", "_failure", "_part", "_skip", "_through", "progress")

    def __init__(self, progress: Progress, api: str) -> None:
        self.progress = progress
        self._chat = api == "chat"
        self._before_ids = _BEFORE_IDS[api]
        self._before_text = _BEFORE_TEXT[api]
        self._skip = len(progress.head)  # no text begins before this
        self._part = bytearray()  # of an event whose end has not come
        self._through = False  # an event was too long: pieces pass as they come
        self._failure: EngineError | None = None  # to be raised once what came before it is out

    def feed(self, piece: bytes) -> bytes:
        """The piece as the client gets it, whole events only."""
        if not self._part and piece.find(b"\n\n") == len(piece) - 2 >= 0:
            return self._event(piece)
        return self._split(piece)

    def end(self) -> bytes:
        """The engine has ended the body in order: whether it had ended the answer is another question."""
        if self._failure is not None:
            raise self._failure
        if self.progress.head:
            self._must_be_finished()
        rest = bytes(self._part)
        self._part.clear()
        return rest

    def _split(self, piece: bytes) -> bytes:
        if self._failure is not None:
            raise self._failure
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
            self._failure = failure
        del part[:at]
        if len(part) > MAX_EVENT_BYTES:
            self._through = True
            self.progress.lose("length")
            out.append(bytes(part))
            part.clear()
        return b"".join(out)

    def _event(self, event: bytes) -> bytes:
        """What goes out for one whole event."""
        at = event.rfind(self._before_ids)
        text = event.find(self._before_text, self._skip)
        progress = self.progress
        if at < 0 or text < 0 or progress.keeps_text or not progress.head:
            return self._examine(event)
        start = at + len(self._before_ids)
        end = event.find(b"]", start)
        progress.add_ids(event[start:end])
        if event[text + len(self._before_text)] != _QUOTE:
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
            self._skip = len(progress.head)
            if b'"id":' not in progress.head or b'"model":' not in progress.head:
                progress.lose("format")
        if prompt is not None and not progress.lost:
            progress.prompt = prompt
            if len(prompt) > MAX_PROMPT_BYTES:
                progress.lose("length")

    def _note(self, choice: Choice, event: bytes, ids: bytes | None) -> bool:
        """Keeps what a chunk says. False: without ids it would not have been sent. Raises EngineAborted."""
        progress, said = self.progress, choice.said
        if choice.finish_reason in ("abort", "error"):
            raise EngineAborted(_GAVE_UP)
        if choice.delta is not None and choice.delta.role is not None and not said:
            return True
        if ids is not None:
            progress.add_ids(ids)
        elif said:
            progress.lose("ids")  # an engine that does not tell them
        if said is None and not choice.finish_reason:
            progress.lose("parser")  # what the client gets is not what the model wrote
            return ids is None
        if said:
            progress.said, progress.last = len(progress.ids), event
            if progress.keeps_text:
                progress.text.append(said)
        if choice.finish_reason:
            progress.finished, progress.said = True, len(progress.ids)
        return True


def read_chunk(event: bytes) -> Chunk | None:
    """None for what is no chunk. Raises EngineAborted for an engine's error."""
    try:
        chunk = _decode(event.strip().removeprefix(b"data:"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # what has another shape is one of them too
        return None
    if given(chunk.error):
        raise EngineAborted(_GAVE_UP)
    return chunk


def without_ids(event: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """The event with null for its ids, and the ids of the prompt and of the answer as JSON wrote them, if there are."""
    bare, prompt = _cut(event, _PROMPT)
    bare, ids = _cut(bare, _IDS)
    return bare, prompt, ids


def _cut(event: bytes, key: bytes) -> tuple[bytes, bytes | None]:
    at = event.rfind(key)
    end = event.find(b"]", at)
    if at < 0 or end < 0:
        return event, None
    start = at + len(key)
    return event[: start - 1] + b"null" + event[end + 1 :], event[start:end]
