"""Response framing without sockets: h11 as the strict reference, any segmentation, fuzz."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.connection import Connection
from router.errors import BadEngineResponse, EngineClosed, EngineError
from router.response import Response
from router.timeouts import Timeouts

SAMPLES = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "samples").glob("*.http"))}
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
HEAD_BOUND = 4096


class MemoryTransport(asyncio.Transport):
    """Counts what a connection does to its socket; `unsent` is what it claims still to hold."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.unsent = 0
        self.paused = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return self.unsent

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def abort(self) -> None:
        self.aborted = True


class Shelf:
    """An owner that keeps every connection."""

    def __init__(self) -> None:
        self.kept: list[Connection] = []
        self.heard_at = 0.0

    def keep(self, connection: Connection) -> bool:
        self.kept.append(connection)
        return True

    def forget(self, connection: Connection) -> None:
        if connection in self.kept:
            self.kept.remove(connection)


@dataclass(frozen=True)
class Outcome:
    """What the gateway would see of a response. `status` 0: no head."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    error: type[Exception] | None
    kept: bool


class Line:
    """A connection on a memory transport with one exchange under way."""

    def __init__(self, *, bodiless: bool = False) -> None:
        self.shelf = Shelf()
        self.transport = MemoryTransport()
        self.connection = Connection(self.shelf, Timeouts(10, 10, 10, 100), HEAD_BOUND)
        self.connection.connection_made(self.transport)
        self.response = Response(self.connection)
        self.connection.start(self.response, b"", bodiless=bodiless, first_byte=10, started=0)

    def feed(self, segments: Sequence[bytes]) -> int:
        """Bytes taken before the connection closed itself."""
        taken = 0
        for segment in segments:
            if self.transport.aborted:
                break
            self.connection.data_received(segment)
            taken += len(segment)
        return taken

    async def outcome(self) -> Outcome:
        """After the peer's end of file."""
        kept = bool(self.shelf.kept)
        if not self.transport.aborted:
            self.connection.eof_received()
        self.connection.connection_lost(None)
        pieces: list[bytes] = []
        error: type[Exception] | None = None
        try:
            await self.response.started()
            await self.response.relay(pieces.append)
        except EngineError as failure:
            error = type(failure)
        response = self.response
        return Outcome(response.status, tuple(response.headers), b"".join(pieces), error, kept)


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


def receive(runner: asyncio.Runner, *segments: bytes, bodiless: bool = False) -> Outcome:
    async def scenario() -> Outcome:
        line = Line(bodiless=bodiless)
        line.feed(segments)
        return await line.outcome()

    return runner.run(scenario())


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[start:end] for start, end in pairwise(edges) if start < end]


def reference(data: bytes) -> Outcome:
    """The same response through h11. `kept` is not compared."""
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    peer.send(h11.Request(method="POST", target="/", headers=[("host", "engine"), ("content-length", "0")]))
    peer.send(h11.EndOfMessage())
    status, headers, body = 0, (), b""
    try:
        peer.receive_data(data)
        if data:
            peer.receive_data(b"")
        while not isinstance(event := peer.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA or isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
                return Outcome(status, headers, body, EngineClosed, False)
            if isinstance(event, h11.Response):
                status, headers = event.status_code, tuple(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
    except h11.RemoteProtocolError:
        return Outcome(status, headers, body, BadEngineResponse, False)
    return Outcome(status, headers, body, None, False)


def folded(headers: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """h11 lower-cases the value of transfer-encoding; here it stays as received."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in headers]


# -- generated responses ----------------------------------------------------------------------------------------------

names = st.sampled_from([b"Server", b"X-Request-Id", b"vary", b"content-type", b"x~`|!", b"Upgrade"])
values = st.sampled_from([b"", b"a", b"  a b\t", b"\tq=1, \x80\xff", b"no-cache", b"x" * 300])
fields = st.lists(st.tuples(names, values), max_size=4)


@st.composite
def bodies(draw: st.DrawFn, status: int) -> tuple[bytes, bytes]:
    """(framing headers, framed body)"""
    if status in (204, 304):
        return draw(st.sampled_from([b"", b"Content-Length: 5\r\n"])), b""
    pieces = draw(st.lists(st.binary(min_size=1, max_size=80), max_size=5))
    kind = draw(st.sampled_from(["length", "chunked", "eof"]))
    if kind == "length":
        body = b"".join(pieces)
        return b"Content-Length: %d \r\n" % len(body), body
    if kind == "eof":
        return b"", b"".join(pieces)
    extension = draw(st.sampled_from([b"", b"", b";a", b';a="b c"']))
    trailers = draw(st.sampled_from([b"", b"", b"X-Checksum: 1\r\n"]))
    chunks = b"".join(b"%X%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    return b"Transfer-Encoding: Chunked\r\n", chunks + b"0%b\r\n%b\r\n" % (extension, trailers)


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    early = draw(st.sampled_from([b"", b"", b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"]))
    status = draw(st.sampled_from([200, 201, 204, 304, 400, 404, 429, 500, 503]))
    reason = draw(st.sampled_from([b"", b" ", b" OK", b" Really \t not"]))
    framing, body = draw(bodies(status))
    lines = b"".join(b"%b:%b\r\n" % field for field in draw(fields))
    connection = draw(st.sampled_from([b"", b"Connection: close\r\n", b"Connection: keep-alive\r\n"]))
    return early + b"HTTP/1.1 %d%b\r\n" % (status, reason) + lines + connection + framing + b"\r\n" + body


NASTY = [
    b"\r\n", b"\n", b"\r", b" ", b"\t", b"\0", b"\x0b", b"\x7f", b":", b";", b",", b"0", b"-1", b"+", b"0x",
    b"ffffffffffffffffff", b"Content-Length: 3\r\n", b"Content-Length: 3, 3\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n", b"Transfer-Encoding: chunked, identity\r\n", b"Connection: close\r\n",
    b" folded\r\n", b"HTTP/1.0 200 OK\r\n\r\n",
    b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", b"0\r\n\r\n", b"HTTP/2.0 ", b"600 ",
]  # fmt: skip


@st.composite
def mutants(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.one_of(responses(), st.sampled_from(list(SAMPLES.values())))))
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(data)))
        near_break = data.find(b"\r\n", place)
        if near_break >= 0 and draw(st.booleans()):
            place = near_break + draw(st.sampled_from([0, 1, 2]))
        removed = draw(st.sampled_from([0, 0, 1, 2, 7]))
        data[place : place + removed] = draw(st.sampled_from([b"", *NASTY]))
    return bytes(data)


# -- properties -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAMPLES)
def test_a_recorded_answer_of_vllm_reads_as_h11_reads_it(runner: asyncio.Runner, name: str) -> None:
    ours, theirs = receive(runner, SAMPLES[name]), reference(SAMPLES[name])
    assert (ours.status, list(ours.headers), ours.body, ours.error) == (200, list(theirs.headers), theirs.body, None)
    assert ours.kept
    assert len(theirs.headers) > 3


@given(data=responses(), places=st.lists(st.integers(0, 2000), max_size=12))
@settings(max_examples=250, deadline=None)
def test_a_valid_response_reads_as_h11_reads_it_however_it_is_cut(
    runner: asyncio.Runner, data: bytes, places: list[int]
) -> None:
    ours, theirs = receive(runner, *cut(data, places)), reference(data)
    assert ours.error is None
    assert theirs.error is None
    assert (ours.status, folded(ours.headers), ours.body) == (theirs.status, folded(theirs.headers), theirs.body)


@given(data=st.one_of(responses(), mutants()), places=st.lists(st.integers(0, 2000), max_size=12))
@settings(max_examples=300, deadline=None)
def test_any_segmentation_of_the_same_bytes_gives_the_same_result(
    runner: asyncio.Runner, data: bytes, places: list[int]
) -> None:
    whole, pieces = receive(runner, data), receive(runner, *cut(data, places))
    # Whether the connection is kept may differ in one direction: data cut inside the last chunk is not trusted.
    assert (pieces.status, pieces.headers, pieces.body, pieces.error) == (
        whole.status,
        whole.headers,
        whole.body,
        whole.error,
    )
    assert whole.kept or not pieces.kept


@pytest.mark.parametrize("name", SAMPLES)
def test_a_recorded_answer_byte_by_byte_gives_the_same_result(runner: asyncio.Runner, name: str) -> None:
    data = SAMPLES[name]
    whole, pieces = receive(runner, data), receive(runner, *(data[i : i + 1] for i in range(len(data))))
    assert (pieces.status, pieces.headers, pieces.body, pieces.error) == (200, whole.headers, whole.body, None)


@given(data=mutants())
@settings(max_examples=600, deadline=None)
def test_nothing_is_delivered_that_h11_would_not_deliver(runner: asyncio.Runner, data: bytes) -> None:
    """What is stricter here than in h11 is listed, case by case, in `test_stricter_than_h11_on_purpose`."""
    compare(receive(runner, data), reference(data))


def compare(ours: Outcome, theirs: Outcome) -> None:
    if ours.status == 0:
        assert ours.error is not None
        return
    assert (ours.status, folded(ours.headers)) == (theirs.status, folded(theirs.headers))
    if ours.error is None:
        assert (ours.body, None) == (theirs.body, theirs.error)
    elif theirs.error is None:
        assert theirs.body.startswith(ours.body)


STRICTER = {
    "a_header_folded_over_two_lines": OK + b"x: a\r\n b\r\ncontent-length: 3\r\n\r\nabc",
    "line_ends_without_cr": b"HTTP/1.1 200 OK\ncontent-length: 3\n\nabc",
    "one_header_line_without_cr": OK + b"content-length: 3\n\r\nabc",
    "the_same_length_twice": OK + b"content-length: 3\r\ncontent-length: 3\r\n\r\nabc",
    "the_same_length_twice_in_a_list": OK + b"content-length: 3, 3\r\n\r\nabc",
    "length_and_chunked": OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunked_with_a_tab_and_length": OK
    + b"transfer-encoding: chunked\t\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a_status_above_599": b"HTTP/1.1 600 Odd\r\ncontent-length: 3\r\n\r\nabc",
    "a_control_character_in_the_reason": b"HTTP/1.1 200 O\x01K\r\ncontent-length: 3\r\n\r\nabc",
    "a_control_character_in_a_value": OK + b"x: a\x01b\r\ncontent-length: 3\r\n\r\nabc",
    "another_major_version": b"HTTP/2.0 200 OK\r\ncontent-length: 3\r\n\r\nabc",
    "chunked_under_http_1_0": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "a_length_of_20_digits": OK + b"content-length: 00000000000000000003\r\n\r\nabc",
}
STRICTER_IN_THE_BODY = {
    "a_space_after_a_chunk_size": CHUNKED + b"3\r\nabc\r\n3 \r\ndef\r\n0\r\n\r\n",
    "a_control_character_in_an_extension": CHUNKED + b"3\r\nabc\r\n3;a\x01\r\ndef\r\n0\r\n\r\n",
    "a_length_in_a_trailer": CHUNKED + b"3\r\nabc\r\n0\r\ncontent-length: 3\r\n\r\n",
    "an_extension_of_no_name": CHUNKED + b"3\r\nabc\r\n3;\r\ndef\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", [*STRICTER, *STRICTER_IN_THE_BODY])
def test_stricter_than_h11_on_purpose(runner: asyncio.Runner, name: str) -> None:
    in_body = name in STRICTER_IN_THE_BODY
    data = (STRICTER_IN_THE_BODY if in_body else STRICTER)[name]
    ours, theirs = receive(runner, data), reference(data)
    assert (ours.status, ours.error) == (200 if in_body else 0, BadEngineResponse)
    assert theirs.error is None
    assert theirs.body.startswith(b"abc")


def test_random_and_mutated_bytes_end_in_an_answer_or_an_engine_error_and_nothing_else(runner: asyncio.Runner) -> None:
    rng = random.Random(20261122)
    bases = [*SAMPLES.values(), *STRICTER.values(), *STRICTER_IN_THE_BODY.values()]
    for _ in range(1500):
        data = bytearray(rng.choice(bases) if rng.random() < 0.9 else rng.randbytes(rng.randrange(200)))
        for _ in range(rng.randrange(6)):
            place = rng.randrange(len(data) + 1)
            data[place : place + rng.randrange(3)] = rng.choice([b"", rng.randbytes(2), rng.choice(NASTY)])
        pieces = cut(bytes(data), [rng.randrange(2000) for _ in range(rng.randrange(8))])
        outcome = receive(runner, *pieces)
        assert outcome.error is None or issubclass(outcome.error, EngineError)
        assert len(outcome.body) <= len(data)
        compare(outcome, reference(bytes(data)))
