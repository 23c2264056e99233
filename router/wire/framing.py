"""HTTP/1.1 response framing: what a head says, where a body ends, and what of the bytes is body.

Floor: sans-IO. Bytes in, heads and pieces out; whatever could be read in two ways is a BadEngineResponse.

Heads and chunked bodies go through llhttp (httptools) in its strict mode; bodies of known length are counted by the
connection, so that what follows a message is never taken for part of it. A head is parsed in one go, when all of it
is here, so the result does not depend on how the bytes were cut.
"""

from __future__ import annotations

import re
from typing import Final

import httptools

from router.errors import BadEngineResponse
from router.wire.http import Header

Headers = list[Header]

# Where a connection is; the last three say how a body ends. Plain ints: compared once per piece, an enum costs more.
IDLE, HEAD, LENGTH, CHUNKED, UNTIL_EOF = range(5)

MAX_INFORMATIONAL: Final = 8  # 1xx heads before the answer; an engine that sends more is looping
MAX_LENGTH_DIGITS: Final = 19  # a body below 10^19 bytes; keeps int() away from digits without end
CHUNK_OVERHEAD: Final = 24  # bytes; a chunk's size line and line ends without extensions (16 hex digits + 2 CRLF)

STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?\r\n")
CHUNKED_HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
VERSION: Final = b"HTTP/1."
BARE_LF: Final = re.compile(rb"(?<!\r)\n")


class Head:
    """A response's head, and llhttp's callbacks to fill it.

    `length`: as declared, None when it was not; `mode`: how the body ends; `kept`: may the connection be used again.
    """

    __slots__ = ("headers", "kept", "length", "mode", "status")

    length: int | None
    mode: int
    kept: bool

    def __init__(self, status: int) -> None:
        self.status = status
        self.headers: Headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.strip(b" \t")))


class HeadReader:
    """Reads the heads of one connection's responses, each of at most `max_bytes`."""

    __slots__ = ("_held", "_informational", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._held = bytearray()
        self._informational = 0  # 1xx heads since the last final one

    def read(self, data: bytes, bodiless: bool) -> tuple[Head, bytes] | None:
        """Skip 1xx heads and return the final one and what follows it; None: it is not all here yet.

        `bodiless`: the response is to HEAD. After a BadEngineResponse the reader is of no use any more.
        """
        while (cut := self._cut(data)) is not None:
            text, data = cut
            line = STATUS_LINE.match(text)
            if line is None:
                raise BadEngineResponse("The engine's status line is not valid HTTP/1.1.")
            status = int(line[2])
            if status == 101:
                raise BadEngineResponse("The engine switched protocols without being asked.")
            head = Head(status)
            try:
                httptools.HttpResponseParser(head).feed_data(text)
            except httptools.HttpParserError:
                raise BadEngineResponse("The engine's response head is not valid HTTP.") from None
            head.length, head.mode, head.kept = frame(int(line[1]), status, head.headers, bodiless)
            if status >= 200:
                self._informational = 0
                return head, data
            self._informational += 1
            if self._informational > MAX_INFORMATIONAL:
                raise BadEngineResponse("The engine sent informational responses without end.")
        return None

    def _cut(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Split at the end of a head; None: it is not all here yet, and was kept."""
        held = self._held
        seen = 0
        if held:
            seen = max(len(held) - 3, 0)
            held += data
        end = (held or data).find(b"\r\n\r\n", seen) + 4
        if (end if end > 3 else len(held or data)) > self._max_bytes:
            raise BadEngineResponse("The engine's response head is too large.")
        if end > 3:
            if held:
                data = bytes(held)
                held.clear()
            return data[:end], data[end:]
        if not held:
            held += data
        if not (held.startswith(VERSION) or VERSION.startswith(held)) or BARE_LF.search(held, seen):
            raise BadEngineResponse("The engine's response head is not valid HTTP.")
        return None


def frame(minor: int, status: int, headers: Headers, bodiless: bool) -> tuple[int | None, int, bool]:
    """How a body ends, by RFC 9112 section 6.3: (declared length, mode, may the connection be kept).

    Raises BadEngineResponse for whatever could be read in two ways; llhttp has seen to it that a length is digits.
    """
    length: int | None = None
    chunked = False
    options: set[bytes] = set()
    for name, value in headers:
        if name == b"content-length":
            if length is not None or len(value) > MAX_LENGTH_DIGITS:
                raise BadEngineResponse("The engine declared no usable body length.")
            length = int(value)
        elif name == b"transfer-encoding":
            if chunked or minor == 0 or value.lower() != b"chunked":
                raise BadEngineResponse("The engine used a transfer encoding other than chunked.")
            chunked = True
        elif name == b"connection":
            options.update(option.strip(b" \t") for option in value.lower().split(b","))
    if chunked and length is not None:
        raise BadEngineResponse("The engine framed its response in two ways.")
    kept = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    if bodiless or status in (204, 304):
        return 0, LENGTH, kept
    if chunked:
        return None, CHUNKED, kept
    return (None, UNTIL_EOF, False) if length is None else (length, LENGTH, kept)


class _ChunkEvents:
    """llhttp's callbacks for a chunked body. `on_body` is list.append itself: no Python frame per chunk."""

    __slots__ = ("begun", "complete", "on_body", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self.begun = self.complete = False

    def on_message_begin(self) -> None:
        if self.complete:  # stops the parser before a second message's bytes can join the first's
            raise ValueError("bytes after the end of the message")

    def on_header(self, name: bytes, _value: bytes) -> None:
        if self.begun and name.lower() == b"transfer-encoding":
            raise ValueError("framing in a trailer")

    def on_message_complete(self) -> None:
        self.complete = True


class ChunkedBody:
    """Decodes one chunked body. Size lines, extensions and trailers may have `slack` bytes beyond the plain ones.

    `over`: nothing more can come; then `whole`: the last chunk is here; `clean`: and nothing came after it.
    """

    # The parser refers to the events and not to this object: a cycle would leave each body to the garbage collector.
    __slots__ = ("_events", "_parse", "_slack", "clean", "over", "whole")

    def __init__(self, slack: int) -> None:
        events = self._events = _ChunkEvents()
        # The parser begins with a head of our own: were it given the engine's, the two could disagree about whether
        # the body is chunked (llhttp does not take `chunked` and a tab for it).
        parse = self._parse = httptools.HttpResponseParser(events).feed_data
        parse(CHUNKED_HEAD)
        events.begun = True
        self._slack = slack
        self.over = self.whole = self.clean = False

    def feed(self, data: bytes) -> bytes:
        """What of the body is in `data`: in one piece, as far as it is good, perhaps nothing."""
        events = self._events
        broken = False
        try:
            self._parse(data)
        except httptools.HttpParserError:
            broken = True
        pieces = events.pieces
        count = len(pieces)
        piece = pieces[0] if count == 1 else b"".join(pieces)
        pieces.clear()
        self._slack += len(piece) + CHUNK_OVERHEAD * count - len(data)
        if events.complete:
            self.over = self.whole = True
            # Only the bare last chunk at the very end: then not even an empty line came after it.
            self.clean = not broken and data.endswith(LAST_CHUNK)
        elif broken or self._slack < 0:
            self.over = True
        return piece
