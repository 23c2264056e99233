"""Reads and checks one streamed chat answer of a simulated engine: bytes only, no sockets.

While the stream runs a read costs a few bytes operations; the careful look comes once, when it is complete.
"""

from __future__ import annotations

import re

import msgspec

from benchmarks.overhead_parts.answers import LAST_CHUNK, MODEL, OK, BadAnswer, dechunk

_EVENT_STREAM = re.compile(rb"\r\ncontent-type: *text/event-stream", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_DONE = b"data: [DONE]"
_SHOWN = 200  # bytes of a wrong answer that go into an error message


class _Delta(msgspec.Struct):
    content: str
    role: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class _Chunk(msgspec.Struct):
    id: str
    model: str
    choices: list[_Choice]
    usage: _Usage | None = None


_decode = msgspec.json.Decoder(_Chunk).decode


class ChatStream:
    """One answer of `tokens` tokens: status 200, chunked, every event well-formed, usage chunk and [DONE] at the end.

    `begun`: the head is here. `feed` raises BadAnswer, which says what is wrong.
    """

    def __init__(self, tokens: int) -> None:
        self.begun = False
        self._tokens = tokens
        self._head = b""
        self._parts: list[bytes] = []
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """True when the answer is complete, and was found right."""
        if not self.begun:
            data = self._past_head(data)
        if not data:
            return False
        self._parts.append(data)
        self._tail = data if len(data) >= len(LAST_CHUNK) else self._tail[-len(LAST_CHUNK) :] + data
        if not self._tail.endswith(LAST_CHUNK):
            return False
        check(dechunk(b"".join(self._parts)), self._tokens)
        return True

    def _past_head(self, data: bytes) -> bytes:
        self._head += data
        if not self._head.startswith(OK[: len(self._head)]):
            raise BadAnswer(f"not a 200: {self._head[:_SHOWN]!r}")
        head, end, body = self._head.partition(_HEAD_END)
        if end and not (_CHUNKED.search(head) and _EVENT_STREAM.search(head)):
            raise BadAnswer(f"no event stream in chunks: {head[:_SHOWN]!r}")
        self.begun = bool(end)
        return body


def check(body: bytes, tokens: int) -> None:
    """A whole stream's body, without HTTP framing. Raises BadAnswer."""
    *events, rest = body.split(b"\n\n")
    if rest or not events or events.pop() != _DONE:
        raise BadAnswer(f"does not end with [DONE]: {body[-_SHOWN:]!r}")
    chunks = [_chunk(event) for event in events]
    if len(chunks) != tokens + 2:  # the role, then one a token, then the usage
        raise BadAnswer(f"{len(chunks)} chunks for {tokens} tokens")
    if len({chunk.id for chunk in chunks}) != 1 or {chunk.model for chunk in chunks} != {MODEL}:
        raise BadAnswer("chunks of different answers or models in one stream")
    _check_usage(chunks.pop(), tokens)
    _check_text(chunks)


def _chunk(event: bytes) -> _Chunk:
    if not event.startswith(b"data: "):
        raise BadAnswer(f"not an event: {event[:_SHOWN]!r}")
    try:
        return _decode(event[6:])
    except msgspec.DecodeError as error:  # a ValidationError too, which an error event of the stream ends up as
        raise BadAnswer(f"not a chunk ({error}): {event[:_SHOWN]!r}") from None


def _check_usage(last: _Chunk, tokens: int) -> None:
    usage = last.usage
    if last.choices or usage is None:
        raise BadAnswer("no usage chunk before [DONE]")
    if usage.completion_tokens != tokens or usage.total_tokens != usage.prompt_tokens + tokens:
        raise BadAnswer(f"usage of {usage.completion_tokens} of {usage.total_tokens} tokens for {tokens} asked for")


def _check_text(chunks: list[_Chunk]) -> None:
    if any(len(chunk.choices) != 1 or chunk.usage is not None for chunk in chunks):
        raise BadAnswer("not one choice a chunk, or a second usage")
    first, *choices = [chunk.choices[0] for chunk in chunks]
    if first.delta.role != "assistant" or not all(choice.delta.content for choice in choices):
        raise BadAnswer("no role at first, or a chunk without text")
    reasons = [choice.finish_reason for choice in (first, *choices)]
    if reasons != [None] * len(choices) + ["length"]:
        raise BadAnswer(f"finish reasons {set(reasons)}")
