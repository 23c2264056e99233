"""Response framing without sockets, case by case: what is refused, what is complete, the bounds, the pieces."""

from __future__ import annotations

import asyncio

import pytest

from router.errors import BadEngineResponse, EngineClosed
from router.response import HELD_BYTES
from router.wire.framing import frame
from tests.router.test_upstream_framing import CHUNKED, HEAD_BOUND, OK, Line, receive, runner

__all__ = ["runner"]  # the fixture


REFUSED = {
    "another_transfer_encoding": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked_twice": OK + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "differing_lengths": OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
    "a_negative_length": OK + b"content-length: -3\r\n\r\nabc",
    "an_upgrade": b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    "an_empty_line_first": b"\r\n" + OK + b"content-length: 0\r\n\r\n",
    "another_protocol": b"RTSP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "a_space_before_the_colon": OK + b"content-length : 0\r\n\r\n",
    "a_nul_in_a_value": OK + b"x: \0\r\ncontent-length: 0\r\n\r\n",
    "informational_heads_without_end": b"HTTP/1.1 103 Early Hints\r\n\r\n" * 9 + OK + b"content-length: 0\r\n\r\n",
    "a_status_line_of_another_kind": b"hello\r\n\r\n",
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_head_that_is_not_plain_http_is_refused(runner: asyncio.Runner, name: str) -> None:
    outcome = receive(runner, REFUSED[name])
    assert (outcome.status, outcome.error, outcome.kept) == (0, BadEngineResponse, False)


BROKEN_BODIES = {
    "a_chunk_size_that_is_no_number": (CHUNKED + b"3\r\nabc\r\nxyz\r\n", BadEngineResponse),
    "a_chunk_size_beyond_64_bits": (CHUNKED + b"3\r\nabc\r\nfffffffffffffffff\r\n", BadEngineResponse),
    "a_chunk_longer_than_its_size": (CHUNKED + b"3\r\nabcdef\r\n", BadEngineResponse),
    "framing_in_a_trailer": (CHUNKED + b"3\r\nabc\r\n0\r\ntransfer-encoding: chunked\r\n\r\n", BadEngineResponse),
    "end_of_file_inside_a_chunk": (CHUNKED + b"5\r\nabc", EngineClosed),
    "end_of_file_before_the_last_chunk": (CHUNKED + b"3\r\nabc\r\n", EngineClosed),
    "end_of_file_inside_the_length": (OK + b"content-length: 5\r\n\r\nabc", EngineClosed),
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_broken_body_is_delivered_as_far_as_it_is_good_and_then_fails(runner: asyncio.Runner, name: str) -> None:
    data, error = BROKEN_BODIES[name]
    outcome = receive(runner, data)
    assert (outcome.status, outcome.body, outcome.error, outcome.kept) == (200, b"abc", error, False)


ANSWERS = {
    # name: (bytes, body, may the connection be used again)
    "length": (OK + b"content-length: 3\r\n\r\nabc", b"abc", True),
    "chunked": (CHUNKED + b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", b"abc", True),
    "chunked_with_a_tab": (OK + b"transfer-encoding: chunked\t\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc", True),
    "chunked_with_a_trailer": (CHUNKED + b"3\r\nabc\r\n0\r\nx: y\r\n\r\n", b"abc", False),
    "until_end_of_file": (OK + b"\r\nabc", b"abc", False),
    "connection_close": (OK + b"connection: Close\r\ncontent-length: 3\r\n\r\nabc", b"abc", False),
    "connection_close_in_a_list": (OK + b"connection: x, close\r\ncontent-length: 3\r\n\r\nabc", b"abc", False),
    "chunked_and_connection_close": (
        OK + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"abc", False),
    "http_1_0": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", b"abc", False),
    "http_1_0_keep_alive": (
        b"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\ncontent-length: 3\r\n\r\nabc", b"abc", True),
    "no_content": (b"HTTP/1.1 204 No Content\r\n\r\n", b"", True),
    "not_modified_with_a_length": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", b"", True),
    "after_informational_heads": (
        b"HTTP/1.1 100 Continue\r\n\r\n" * 8 + OK + b"content-length: 3\r\n\r\nabc", b"abc", True),
    "bytes_after_the_length": (OK + b"content-length: 3\r\n\r\nabcX", b"abc", False),
    "an_empty_line_after_the_length": (OK + b"content-length: 3\r\n\r\nabc\r\n", b"abc", False),
    "bytes_after_the_last_chunk": (CHUNKED + b"3\r\nabc\r\n0\r\n\r\nX", b"abc", False),
    "an_empty_line_after_the_last_chunk": (CHUNKED + b"3\r\nabc\r\n0\r\n\r\n\r\n", b"abc", False),
    "a_second_response_after_the_length": (OK + b"content-length: 0\r\n\r\n" + OK + b"\r\nxyz", b"", False),
    "a_second_response_after_the_last_chunk": (
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + CHUNKED + b"3\r\nxyz\r\n0\r\n\r\n", b"abc", False),
    "a_second_response_with_a_length_after_the_last_chunk": (
        CHUNKED + b"3\r\nabc\r\n0\r\n\r\n" + OK + b"content-length: 3\r\n\r\nxyz", b"abc", False),
    "a_body_after_no_content": (b"HTTP/1.1 204 No Content\r\n\r\nabc", b"", False),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_complete_and_its_connection_kept_only_when_that_is_safe(
    runner: asyncio.Runner, name: str
) -> None:
    data, body, kept = ANSWERS[name]
    outcome = receive(runner, data)
    assert (outcome.body, outcome.error, outcome.kept) == (body, None, kept)


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
        [(b"content-length", b"3"), (b"content-length", b"3")],
        [(b"content-length", b"1" * 20)],
    ],
)
def test_two_framings_are_refused_even_if_the_parser_lets_them_through(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(BadEngineResponse):
        frame(1, 200, headers, False)


def test_the_answer_to_head_has_no_body_whatever_its_length_says(runner: asyncio.Runner) -> None:
    outcome = receive(runner, OK + b"content-length: 3\r\n\r\n", bodiless=True)
    assert (outcome.status, outcome.body, outcome.error, outcome.kept) == (200, b"", None, True)


FLOODS = {
    "a_head_without_end": OK + b"x: y\r\n" * 1_000_000,
    "a_header_name_without_end": OK + b"x" * 1_000_000,
    "a_chunk_extension_without_end": CHUNKED + b"3;" + b"x" * 1_000_000,
    "trailers_without_end": CHUNKED + b"0\r\n" + b"x: y\r\n" * 1_000_000,
    "a_trailer_without_end": CHUNKED + b"0\r\nx" + b"x" * 1_000_000,
    "a_chunk_size_without_end": CHUNKED + b"0" * 1_000_000,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_is_cut_off_at_the_header_bound(runner: asyncio.Runner, name: str) -> None:
    data = FLOODS[name]

    async def scenario() -> None:
        line = Line()
        taken = line.feed([data[i : i + 512] for i in range(0, len(data), 512)])
        assert taken <= HEAD_BOUND + len(CHUNKED) + 1024
        assert (await line.outcome()).error is BadEngineResponse

    runner.run(scenario())


def test_a_head_of_exactly_the_bound_is_read_and_one_byte_more_is_not(runner: asyncio.Runner) -> None:
    for size, status in ((HEAD_BOUND, 200), (HEAD_BOUND + 1, 0)):
        head = OK + b"content-length: 0\r\nx: "
        data = head + b"y" * (size - len(head) - 4) + b"\r\n\r\n"
        for segments in ([data], [data[:100], data[100:]]):
            assert receive(runner, *segments).status == status


# -- pieces and flow --------------------------------------------------------------------------------------------------


def test_what_one_segment_brings_is_one_piece_and_is_handed_over_at_once(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        line = Line()
        line.feed([CHUNKED + b"2\r\nab\r\n"])
        await line.response.started()
        pieces: list[bytes] = []
        relay = asyncio.create_task(line.response.relay(pieces.append))
        await asyncio.sleep(0)
        assert pieces == [b"ab"]
        line.feed([b"1\r\nc\r\n1\r\nd\r\n"])
        assert pieces == [b"ab", b"cd"]
        line.feed([b"3\r\ne"])
        assert pieces == [b"ab", b"cd", b"e"]
        line.feed([b"fg\r\n0\r\n\r\n"])
        assert pieces == [b"ab", b"cd", b"e", b"fg"]
        await relay
        line.connection.connection_lost(None)

    runner.run(scenario())


def test_a_body_nobody_reads_yet_is_kept_up_to_a_bound_and_then_the_engine_waits(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        line = Line()
        total = HELD_BYTES + 2000
        line.feed([OK + b"content-length: %d\r\n\r\n" % total, b"x" * HELD_BYTES])
        assert not line.transport.paused
        line.feed([b"y" * 1000])
        assert line.transport.paused
        pieces: list[bytes] = []
        relay = asyncio.create_task(line.response.relay(pieces.append))
        await asyncio.sleep(0)
        assert not line.transport.paused
        line.feed([b"z" * 1000])
        await relay
        assert b"".join(pieces) == b"x" * HELD_BYTES + b"y" * 1000 + b"z" * 1000
        line.connection.connection_lost(None)

    runner.run(scenario())


def test_a_connection_that_ends_while_paused_is_kept_unpaused(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        line = Line()
        line.feed([OK + b"content-length: %d\r\n\r\n" % (HELD_BYTES + 2), b"x" * (HELD_BYTES + 1)])
        assert line.transport.paused
        line.feed([b"y"])
        assert line.shelf.kept
        assert not line.transport.paused
        assert len(await line.response.read(HELD_BYTES * 2)) == HELD_BYTES + 2
        line.connection.connection_lost(None)

    runner.run(scenario())


def test_an_answer_before_the_request_was_taken_stands_but_costs_the_connection(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        line = Line()
        line.transport.unsent = 100_000
        line.feed([OK + b"content-length: 3\r\n\r\nabc"])
        assert not line.shelf.kept
        assert line.transport.aborted
        assert await line.response.read(10) == b"abc"
        line.connection.connection_lost(None)

    runner.run(scenario())


def test_bytes_on_an_idle_connection_close_it(runner: asyncio.Runner) -> None:
    async def scenario() -> None:
        line = Line()
        line.feed([OK + b"content-length: 0\r\n\r\n"])
        assert line.shelf.kept
        line.feed([b"HTTP/1.1 408 Request Timeout\r\n\r\n"])
        assert not line.shelf.kept
        assert line.transport.aborted
        line.connection.connection_lost(None)

    runner.run(scenario())
