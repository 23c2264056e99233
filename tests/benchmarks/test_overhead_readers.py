"""The benchmark's readers: a right answer is accepted however it is cut, and a wrong one never is."""

import json
import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.overhead_parts.answers import (
    CHAT_BODY,
    DONE,
    LAST_CHUNK,
    STREAM_HEAD,
    BadAnswer,
    chat_body,
    dechunk,
    http_answer,
    http_chunk,
    prompt_tokens,
    stream_body,
    stream_events,
    stream_writes,
)
from benchmarks.overhead_parts.readers import OpenStream, PlainAnswer, RequestReader, StreamAnswer

CHUNKS = 5
PLAIN = http_answer(CHAT_BODY)
STREAM = b"".join(stream_writes(CHUNKS))


def cut(data: bytes, at: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted({min(place, len(data)) for place in at}), len(data)]
    return [data[a:b] for a, b in pairwise(edges) if a < b]


def completions(reader: PlainAnswer | StreamAnswer, parts: Sequence[bytes]) -> list[bool]:
    return [reader.feed(part) for part in parts]


def only_last(parts: Sequence[bytes]) -> list[bool]:
    return [False] * (len(parts) - 1) + [True]


cuts = st.lists(st.integers(1, 4000), max_size=8)


@given(cuts)
def test_a_plain_answer_is_complete_exactly_at_its_last_byte(at: list[int]) -> None:
    parts = cut(PLAIN, at)
    assert completions(PlainAnswer(), parts) == only_last(parts)


@given(cuts)
def test_a_stream_is_complete_exactly_at_its_last_byte(at: list[int]) -> None:
    parts = cut(STREAM, at)
    assert completions(StreamAnswer(CHUNKS), parts) == only_last(parts)


@given(cuts, st.integers(0, len(CHAT_BODY)))
def test_a_plain_answer_may_come_in_chunks(at: list[int], middle: int) -> None:
    parts = [part for part in (CHAT_BODY[:middle], CHAT_BODY[middle:]) if part]
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = head + b"".join(map(http_chunk, parts)) + LAST_CHUNK
    reads = cut(answer, at)
    assert completions(PlainAnswer(), reads) == only_last(reads)


def test_readers_take_one_answer_after_the_other() -> None:
    plain, stream = PlainAnswer(), StreamAnswer(CHUNKS)
    for _ in range(3):
        assert plain.feed(PLAIN)
        assert stream.feed(STREAM)
        assert stream.reads == 1
        stream.next()


def test_a_stream_counts_the_reads_that_carried_its_body() -> None:
    reader = StreamAnswer(CHUNKS)
    for write in (STREAM_HEAD, stream_writes(CHUNKS)[0].removeprefix(STREAM_HEAD), *stream_writes(CHUNKS)[1:]):
        reader.feed(write)
    assert reader.reads == CHUNKS


def test_a_header_that_ends_like_a_last_chunk_does_not_end_the_stream() -> None:
    reader = StreamAnswer(CHUNKS)
    assert not reader.feed(STREAM_HEAD.removesuffix(b"\r\n") + b"x-promptlane-queue-ms: 0\r\n\r\n")
    assert reader.feed(STREAM.removeprefix(STREAM_HEAD))


def _where(body: bytes, place: int) -> str:
    """Where a changed byte is seen: at its place. But readers take the number of prompt tokens from the answer: another
    one is seen where the answer to such a prompt would go on otherwise."""
    told = re.search(rb'"prompt_tokens":(\d+)', body)
    assert told is not None
    return r"differs at \d+:" if told.start(1) <= place < told.end(1) else f"differs at {place}:"


@given(st.integers(0, len(CHAT_BODY) - 1))
def test_a_changed_byte_of_a_plain_body_is_seen(place: int) -> None:
    body = bytearray(CHAT_BODY)
    body[place] ^= 1
    with pytest.raises(BadAnswer, match=_where(CHAT_BODY, place)):
        PlainAnswer().feed(http_answer(bytes(body)))


@given(st.integers(0, len(stream_body(CHUNKS)) - 1))
def test_a_changed_byte_of_a_stream_is_seen(place: int) -> None:
    body = bytearray(stream_body(CHUNKS))
    body[place] ^= 1
    with pytest.raises(BadAnswer, match=_where(stream_body(CHUNKS), place)):
        StreamAnswer(CHUNKS).feed(STREAM_HEAD + http_chunk(bytes(body)) + LAST_CHUNK)


@pytest.mark.parametrize("lost", range(CHUNKS + 3))
def test_a_lost_event_is_seen_with_the_count_of_events(lost: int) -> None:
    events = [event for moment in stream_events(CHUNKS) for event in moment]
    assert events[-1] == DONE
    del events[lost]
    with pytest.raises(BadAnswer, match=f"{CHUNKS + 2} events for {CHUNKS + 3}"):
        StreamAnswer(CHUNKS).feed(STREAM_HEAD + b"".join(map(http_chunk, events)) + LAST_CHUNK)


@pytest.mark.parametrize("reader", [PlainAnswer, lambda: StreamAnswer(CHUNKS)])
@pytest.mark.parametrize("answer", [http_answer(CHAT_BODY, "503 Service Unavailable"), b"HTTP/1.1 50", b"SSH-2.0"])
def test_anything_but_a_200_is_refused_at_once(reader: type[PlainAnswer], answer: bytes) -> None:
    with pytest.raises(BadAnswer, match="not a 200"):
        reader().feed(answer)


def test_an_answer_without_framing_is_refused() -> None:
    unframed = b"HTTP/1.1 200 OK\r\n\r\n" + CHAT_BODY
    with pytest.raises(BadAnswer, match="neither a length nor chunks"):
        PlainAnswer().feed(unframed)
    with pytest.raises(BadAnswer, match="not chunked"):
        StreamAnswer(CHUNKS).feed(unframed)


@pytest.mark.parametrize(
    "framed",
    [
        b"5\r\nhell\r\n0\r\n\r\n",
        b"zz\r\nhello\r\n0\r\n\r\n",
        b"5\r\nhello\r\n",
        b"5\r\nhello\r\n0\r\n\r\n0\r\n\r\n",
        b"5\r\nhelloXX0\r\n\r\n",
    ],
)
def test_broken_chunk_framing_is_refused(framed: bytes) -> None:
    with pytest.raises(BadAnswer):
        dechunk(framed)


def test_a_stream_has_as_many_moments_as_chunks_and_one_done() -> None:
    for chunks in (2, 3, 64):
        assert len(stream_events(chunks)) == len(stream_writes(chunks)) == chunks
        assert stream_body(chunks).count(DONE) == 1
        assert stream_body(chunks).endswith(DONE)
    with pytest.raises(ValueError, match="at least 2"):
        stream_events(1)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5), cuts)
def test_requests_are_cut_apart_wherever_the_reads_end(sent: list[bytes], at: list[int]) -> None:
    stream = b"".join(b"POST /x HTTP/1.1\r\nhost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in sent)
    stream += b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n"
    reader = RequestReader()
    found = [request for part in cut(stream, at) for request in reader.feed(part)]
    assert found == [(b"POST /x HTTP/1.1", body) for body in sent] + [(b"GET /health HTTP/1.1", b"")]


def test_a_request_body_in_chunks_is_an_error_and_not_a_silent_wait() -> None:
    with pytest.raises(ValueError, match="in chunks"):
        RequestReader().feed(b"POST /x HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n")


@given(cuts, st.integers(0, len(STREAM) - 1))
def test_a_stream_is_right_so_far_wherever_it_is_looked_at(at: list[int], end: int) -> None:
    reader = OpenStream()
    for part in cut(STREAM[:end], at):
        assert not reader.feed(part)
    reader.check(CHUNKS)
    assert reader.chunks <= CHUNKS + 3


def test_a_wrong_event_of_an_open_stream_is_seen() -> None:
    reader = OpenStream()
    reader.feed(STREAM_HEAD + http_chunk(b"data: {}\n\n"))
    with pytest.raises(BadAnswer, match="differs at 7"):
        reader.check(CHUNKS)


def test_what_an_engine_says_of_a_longer_prompt_is_accepted_and_nothing_else() -> None:
    long = http_answer(chat_body(prompt_tokens(44_444)))
    assert PlainAnswer().feed(long)
    assert prompt_tokens(44_444) == 11_000
    assert StreamAnswer(CHUNKS).feed(b"".join(stream_writes(CHUNKS, tokens=11_000)))
    for wrong in (long.replace(b"11000", b"11001"), long.replace(b"11000", b"12000")):
        with pytest.raises(BadAnswer):
            PlainAnswer().feed(wrong)


def test_of_a_gateway_that_writes_answers_anew_the_text_is_checked() -> None:
    said = json.loads(CHAT_BODY)["choices"][0]["message"]["content"]
    assert PlainAnswer(exact=False).feed(http_answer(json.dumps({"x": said}).encode()))
    with pytest.raises(BadAnswer, match="not the engine's text"):
        PlainAnswer(exact=False).feed(http_answer(b"{}"))
    events = [b"data: {}\n\n"] * CHUNKS
    assert StreamAnswer(CHUNKS, exact=False).feed(STREAM_HEAD + http_chunk(b"".join([*events, DONE])) + LAST_CHUNK)
    for fewer in ([*events[2:], DONE], events):
        with pytest.raises(BadAnswer, match="events for 5 tokens"):
            StreamAnswer(CHUNKS, exact=False).feed(STREAM_HEAD + http_chunk(b"".join(fewer)) + LAST_CHUNK)
