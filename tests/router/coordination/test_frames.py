"""Every frame is read as it was written, and only by the side that it is meant for."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, ValidationError
from msgspec.msgpack import encode

from policies.types import FailureCause, Outcome
from router.coordination.frames import Ended, First, FromFollower, FromOwner, Known, Ping, Pong
from router.coordination.framing import from_follower, from_owner
from tests.router.coordination.builders import from_followers, from_owners

maybe_seconds = st.none() | st.floats(0, 1e6)
maybe_tokens = st.none() | st.integers(0, 10**9)
outcomes = st.builds(
    Outcome,
    st.integers(0, 599),
    st.none() | st.sampled_from(FailureCause),
    st.booleans(),
    maybe_seconds,
    maybe_seconds,
    maybe_tokens,
    maybe_tokens,
    maybe_tokens,
)


@given(from_followers)
def test_what_a_follower_says_is_read_as_it_was_said(frame: Struct) -> None:
    assert from_follower().decode(encode(frame)) == frame


@given(from_owners)
def test_what_an_owner_says_is_read_as_it_was_said(frame: Struct) -> None:
    assert from_owner().decode(encode(frame)) == frame


@given(from_followers)
def test_an_owner_s_frames_are_not_a_follower_s(frame: Struct) -> None:
    with pytest.raises(ValidationError):
        from_owner().decode(encode(frame))


@given(outcomes)
def test_an_outcome_is_told_whole(outcome: Outcome) -> None:
    told = msgspec.msgpack.decode(encode(Ended.of(outcome)), type=Ended)
    assert told.outcome() == outcome


def test_an_outcome_is_told_field_by_field_as_policies_has_it() -> None:
    assert Ended.__struct_fields__ == tuple(one.name for one in fields(Outcome))


def test_no_two_kinds_of_frames_have_one_number() -> None:
    kinds = get_args(FromFollower) + get_args(FromOwner)
    assert len({kind.__struct_config__.tag for kind in kinds}) == len(kinds) == 13


def test_a_field_that_a_newer_replica_adds_at_the_end_is_passed_over() -> None:
    assert from_follower().decode(encode([Ping.__struct_config__.tag, 5, "new"])) == Ping(5)


def test_a_pong_of_an_older_replica_and_for_an_older_one_is_read() -> None:
    tag = Pong.__struct_config__.tag
    assert from_owner().decode(encode([tag, 5])) == Pong(5)

    class Older(Struct, array_like=True, frozen=True, tag=21):
        n: int

    assert msgspec.msgpack.decode(encode(Pong(5, (Known("p", 7, True),))), type=Older) == Older(5)


def test_a_request_s_number_is_never_below_one() -> None:
    with pytest.raises(ValidationError):
        from_follower().decode(encode(First(0)))
