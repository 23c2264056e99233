"""Frames with every field set by default, and strategies for all of them."""

from __future__ import annotations

from hypothesis import strategies as st

from policies.types import FailureCause, InferenceRequest, Lane, Tier
from router.coordination.asked import AskedRequest, AskedTier
from router.coordination.frames import (
    Aside,
    Ask,
    Bound,
    Cancel,
    CarriedSeat,
    Carry,
    Done,
    Ended,
    Fence,
    First,
    Held,
    Known,
    NotMine,
    Ping,
    Pong,
    Ranked,
    Refused,
)
from tests.policies.builders import make_request

SECRET = b"0123456789abcdef0123456789abcdef"

words = st.text(max_size=12)
ids = st.integers(1, 2**63 - 1)
counts = st.integers(0, 2**63 - 1)
seconds = st.floats(0, 1e9)
numbers = st.floats(allow_nan=False)
maybe_count = st.none() | counts

tiers = st.builds(Tier, words, st.integers(0, 9), seconds, st.booleans(), seconds, counts)
requests = st.builds(
    InferenceRequest,
    id=words,
    tenant=words,
    tier_priority=st.integers(0, 9),
    model=words,
    api=words,
    lane=st.sampled_from(Lane),
    prompt_tokens=counts,
    max_output_tokens=counts,
    prefix_blocks=st.lists(st.integers(0, 2**64 - 1), max_size=8).map(tuple),
    tokens_per_block=seconds,
    stream=st.booleans(),
    arrived_at=st.floats(0, 1e6),
    deadline=st.floats(0, 1e6),
    session=st.none() | st.text(st.characters(), max_size=12),  # half characters too
    weight=st.floats(0.001, 1e6),
    choices=st.integers(1, 1000),
    tier=tiers,
)
asked_tiers = st.builds(AskedTier, words, st.integers(0, 9), seconds, st.booleans(), seconds, counts)
asked = st.builds(AskedRequest.of, requests, st.just(1e6))
outcomes = st.builds(
    Ended,
    st.integers(0, 599),
    st.none() | st.sampled_from(FailureCause),
    st.booleans(),
    st.none() | seconds,
    st.none() | seconds,
    maybe_count,
    maybe_count,
    maybe_count,
)
seats = st.builds(CarriedSeat, ids, asked, words, counts, seconds, seconds, st.booleans())
ranked = st.builds(Ranked, words, numbers, counts, seconds, numbers)
from_followers = (
    st.builds(Ask, ids, words, asked, st.lists(words, max_size=3).map(tuple), st.booleans())
    | st.builds(Cancel, ids)
    | st.builds(First, ids)
    | st.builds(Done, ids, st.none() | outcomes)
    | st.builds(Carry, words, st.lists(seats, max_size=3).map(tuple), st.booleans())
    | st.builds(Fence, words, counts)
    | st.builds(Ping, counts)
)
from_owners = (
    st.builds(
        Bound,
        ids,
        counts,
        words,
        counts,
        seconds,
        numbers,
        numbers,
        counts,
        st.none() | st.integers(-(2**31), 2**31),
        st.none() | words,
        st.lists(ranked, max_size=3).map(tuple),
    )
    | st.builds(Refused, ids, words, words, st.none() | numbers, st.integers(400, 599), st.booleans())
    | st.builds(Held, ids, numbers)
    | st.builds(Aside, ids)
    | st.builds(NotMine, ids, words, counts)
    | st.builds(
        Pong, counts, st.lists(st.builds(Known, words, counts, st.booleans()), max_size=3).map(tuple), st.booleans()
    )
)


def make_asked(id: str = "r", *, blocks: int = 4) -> AskedRequest:
    return AskedRequest.of(make_request(id, blocks=tuple(range(blocks))), 1.0)


def make_bound(id: int, endpoint: str = "e0") -> Bound:
    return Bound(id, 1, endpoint, 0, 0.1, 0.2, 0.0, 0)


def make_seat(id: int, *, blocks: int = 4) -> CarriedSeat:
    return CarriedSeat(id, make_asked(blocks=blocks), "e0", 0, 0.1, 0.2, False)
