"""A stream of bytes gives the same frames however it is cut, and nothing after a bad one."""

from __future__ import annotations

import itertools
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from router.coordination.frames import Bound, CarriedSeat, First, Ping, Pong
from router.coordination.framing import (
    CARRY_BYTES,
    MAX_FRAME_BYTES,
    BadFrame,
    FrameReader,
    Unsayable,
    carries,
    encode,
    from_follower,
    from_owner,
)
from tests.router.coordination.builders import from_followers, from_owners, make_bound, make_seat, seats


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream, cut at these places."""
    places = sorted(cut % (len(stream) + 1) for cut in cuts)
    return [stream[start:end] for start, end in itertools.pairwise([0, *places, len(stream)])]


def read(reader: FrameReader[Any], data: list[bytes]) -> list[Struct]:
    return [frame for piece in data for frame in reader.feed(piece)]


cuts = st.lists(st.integers(0, 10**6), max_size=40)


@given(st.lists(from_followers, max_size=6), cuts)
def test_any_cutting_gives_the_frames_of_a_follower(frames: list[Struct], cuts: list[int]) -> None:
    stream = b"".join(map(encode, frames))
    assert read(FrameReader(from_follower()), pieces(stream, cuts)) == frames


@given(st.lists(from_owners, max_size=6), cuts)
def test_any_cutting_gives_the_frames_of_an_owner(frames: list[Struct], cuts: list[int]) -> None:
    stream = b"".join(map(encode, frames))
    assert read(FrameReader(from_owner()), pieces(stream, cuts)) == frames


def test_a_byte_at_a_time_is_a_cutting_too() -> None:
    frames = [make_bound(number) for number in range(1, 20)]
    stream = b"".join(map(encode, frames))
    assert read(FrameReader(from_owner()), [bytes((one,)) for one in stream]) == frames


@given(st.binary(max_size=200), cuts)
def test_whatever_comes_is_read_or_is_a_bad_frame_and_nothing_else(stream: bytes, cuts: list[int]) -> None:
    with suppress(BadFrame):
        read(FrameReader(from_owner()), pieces(stream, cuts))


@given(from_followers, st.data())
def test_one_changed_byte_is_read_or_is_a_bad_frame_and_nothing_else(frame: Struct, data: st.DataObject) -> None:
    stream = bytearray(encode(frame))
    stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    with suppress(BadFrame):
        read(FrameReader(from_follower()), [bytes(stream)])


def test_the_frames_before_a_bad_one_are_good() -> None:
    frames = FrameReader(from_follower()).feed(encode(First(1)) + encode(make_bound(1)))
    assert next(frames) == First(1)
    with pytest.raises(BadFrame):
        next(frames)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (b"\x92\x03\x01\x00", "not msgpack"),
        (b"\x92\x63\x01", "of an unknown kind"),
        (b"\x91\x03", "at least length 2"),
        (b"\x92\x03\xa6secret", "Expected `int`"),
        (b"\x80", "Expected `array`"),
        (b"\x93\x06\xa2\xff\xff\x01", "not msgpack"),
    ],
)
def test_a_bad_frame_says_why_and_quotes_nothing(body: bytes, reason: str) -> None:
    with pytest.raises(BadFrame, match=reason) as raised:
        read(FrameReader(from_follower()), [len(body).to_bytes(4, "big") + body])
    assert "secret" not in str(raised.value)


def test_a_length_that_no_frame_has_is_refused_before_anything_of_it_is_kept() -> None:
    with pytest.raises(BadFrame, match="4194305 bytes; 4194304 are allowed"):
        read(FrameReader(from_owner()), [(MAX_FRAME_BYTES + 1).to_bytes(4, "big")])


def test_the_longest_frame_passes_and_one_byte_more_is_not_sent() -> None:
    overhead = len(encode(make_bound(1, "e" * 70_000))) - 70_000
    longest = make_bound(1, "e" * (MAX_FRAME_BYTES + 4 - overhead))
    assert read(FrameReader(from_owner()), [encode(longest)]) == [longest]
    with pytest.raises(Unsayable, match="a Bound of 4194305 bytes"):
        encode(make_bound(1, longest.endpoint + "e"))


@pytest.mark.parametrize("frame", [make_bound(1, "half \ud800"), make_bound(2**64)])
def test_what_msgpack_cannot_write_is_not_sent_and_not_quoted(frame: Bound) -> None:
    with pytest.raises(Unsayable, match=r"a Bound that cannot be written \(\w+Error\)"):
        encode(frame)


@given(st.lists(seats, max_size=5))
def test_seats_are_carried_in_order_and_the_last_frame_says_that_it_is(some: list[CarriedSeat]) -> None:
    *before, last = carries("p", some)
    assert [seat for frame in (*before, last) for seat in frame.seats] == some
    assert (last.more, [frame.more for frame in before]) == (False, [True] * len(before))


def test_a_thousand_of_the_longest_seats_are_carried_in_frames_of_a_bearable_size() -> None:
    some = [make_seat(number, blocks=4096) for number in range(1, 1001)]
    frames = list(carries("p", some))
    assert sum(len(frame.seats) for frame in frames) == 1000
    assert max(len(encode(frame)) for frame in frames) < CARRY_BYTES + 1000


def test_frames_of_both_sides_are_small() -> None:
    """A figure to notice when a field is added: bytes on the wire of the smallest and of a usual one."""
    assert (len(encode(Ping(1))), len(encode(Pong(1)))) == (4 + 3, 4 + 5)
    assert isinstance(make_bound(1), Bound)
    assert len(encode(make_bound(1))) < 64
