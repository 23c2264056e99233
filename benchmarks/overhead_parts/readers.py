"""Reads and checks answers for the load generator, and requests for the backend: sans-IO, cheap when all is well.

The load generator shares a core with the backend, so the common case of each reader is a few bytes operations per
read; the careful parsing happens once per answer.
"""

import re

from benchmarks.overhead_parts.answers import (
    DONE,
    LAST_CHUNK,
    OK,
    BadAnswer,
    chat_body,
    dechunk,
    says,
    stream_body,
    told_tokens,
)

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"
_SHOWN = 200  # bytes of a wrong answer that go into an error message


def _check_body(body: bytes, expected: bytes) -> None:
    if body == expected:
        return
    events = f", {body.count(b'data: ')} events for {expected.count(b'data: ')}" if b"data: " in expected else ""
    where = next((i for i, (a, b) in enumerate(zip(body, expected, strict=False)) if a != b), len(expected))
    raise BadAnswer(f"body of {len(body)} bytes for {len(expected)}{events}, differs at {where}: {body[:_SHOWN]!r}")


class PlainAnswer:
    """One non-streamed answer: status 200 and exactly the canned chat body, by length or in chunks. Not `exact`: a body
    that says the same, of a gateway that writes every answer anew."""

    def __init__(self, exact: bool = True) -> None:
        self._exact = exact
        self._data = b""

    def feed(self, data: bytes) -> bool:
        """True when the answer is complete. Raises BadAnswer."""
        if self._data:
            data = self._data + data
        head, end, body = data.partition(_HEAD_END)
        if not data.startswith(OK[: len(data)]):
            raise BadAnswer(f"not a 200: {data[:_SHOWN]!r}")
        self._data = data
        return bool(end) and self._whole(head, body)

    def _whole(self, head: bytes, body: bytes) -> bool:
        if found := _CONTENT_LENGTH.search(head):
            if len(body) < int(found[1]):
                return False
        elif not _CHUNKED.search(head):
            raise BadAnswer(f"neither a length nor chunks: {head[:_SHOWN]!r}")
        elif not body.endswith(LAST_CHUNK):
            return False
        else:
            body = dechunk(body)
        if self._exact:
            _check_body(body, chat_body(told_tokens(body)))
        elif not says(body):
            raise BadAnswer(f"not the engine's text: {body[:_SHOWN]!r}")
        self._data = b""
        return True


class StreamAnswer:
    """One streamed answer: status 200, chunked, exactly the canned events with their [DONE]. Not `exact`: as many
    events as tokens at least and [DONE], of a gateway that writes every event anew."""

    def __init__(self, chunks: int, exact: bool = True) -> None:
        self._chunks = chunks
        self._exact = exact
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._in_body = False
        self._parts: list[bytes] = []
        self._tail = b""
        self.reads = 0
        """Reads that carried body bytes: fewer than the chunks means that the gateway held chunks back."""

    def feed(self, data: bytes) -> bool:
        """True when the stream is complete; then `reads` says how it came. Raises BadAnswer."""
        if not self._in_body:
            data = self._past_head(data)
            if not data:
                return False
        self._parts.append(data)
        self.reads += 1
        self._tail = data if len(data) >= len(LAST_CHUNK) else self._tail[-len(LAST_CHUNK) :] + data
        if not self._tail.endswith(LAST_CHUNK):
            return False
        body = dechunk(b"".join(self._parts))
        if self._exact:
            _check_body(body, stream_body(self._chunks, told_tokens(body)))
        elif not body.rstrip().endswith(DONE.rstrip()) or body.count(b"data: ") < self._chunks:
            raise BadAnswer(f"{body.count(b'data: ')} events for {self._chunks} tokens and [DONE]")
        return True

    def next(self) -> None:
        """Forgets the finished answer and waits for another on the same connection."""
        self._reset()

    def _past_head(self, data: bytes) -> bytes:
        self._head += data
        if not self._head.startswith(OK[: len(self._head)]):
            raise BadAnswer(f"not a 200: {self._head[:_SHOWN]!r}")
        head, end, body = self._head.partition(_HEAD_END)
        if end and not _CHUNKED.search(head):
            raise BadAnswer(f"a stream that is not chunked: {head[:_SHOWN]!r}")
        self._in_body = bool(end)
        return body


class OpenStream(StreamAnswer):
    """A stream that is looked at before it ends: how many chunks have come, and whether they were right so far."""

    def __init__(self) -> None:
        super().__init__(0)
        self.chunks = 0

    def feed(self, data: bytes) -> bool:
        """Never complete. Raises BadAnswer."""
        if not self._in_body:
            data = self._past_head(data)
        if data:
            self._parts.append(data)
            self.reads += 1
            self.chunks += data.count(b"data: ")
        return False

    def check(self, chunks: int) -> None:
        """Whether all whole chunks so far are the beginning of a stream of so many. Raises BadAnswer."""
        framed = b"".join(self._parts)
        whole = framed[: framed.rfind(b"\n\n\r\n") + 4] if b"\n\n\r\n" in framed else b""
        body = dechunk(whole + LAST_CHUNK)
        _check_body(body, stream_body(chunks)[: len(body)])


class RequestReader:
    """Cuts what a gateway sends to the backend into requests.

    Raises ValueError for a request body in chunks: no gateway here sends one.
    """

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[tuple[bytes, bytes]]:
        """The requests that are complete now, each as (request line, body)."""
        data = self._data + data if self._data else data
        requests = []
        while (end := data.find(_HEAD_END)) >= 0:
            head = data[:end]
            found = _CONTENT_LENGTH.search(head)
            if found is None and _CHUNKED.search(head):
                raise ValueError("request body in chunks")
            whole = end + 4 + (int(found[1]) if found else 0)
            if len(data) < whole:
                break
            requests.append((head[: head.find(b"\r\n")], data[end + 4 : whole]))
            data = data[whole:]
        self._data = data
        return requests
