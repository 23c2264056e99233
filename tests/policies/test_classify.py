"""The lane follows size and shape; a client can only move its request down."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.classify import classify
from policies.types import Lane

ASKED = st.one_of(st.none(), st.sampled_from(Lane))
DEPTH = {Lane.SHORT: 0, Lane.LONG: 1, Lane.BATCH: 2}


def lane(
    tokens: int = 10,
    *,
    asked: Lane | None = None,
    flex: bool = False,
    prompts: int = 1,
    n: int = 1,
    threshold: int = 2048,
) -> Lane:
    return classify(tokens, threshold, asked=asked, flex=flex, prompts=prompts, n=n, batch_prompts=8, batch_n=4)


@given(st.integers(0, 10_000), ASKED, st.booleans(), st.integers(1, 20), st.integers(1, 10))
def test_asking_for_a_lane_never_moves_a_request_up(
    tokens: int, asked: Lane | None, flex: bool, prompts: int, n: int
) -> None:
    unasked = lane(tokens, flex=flex, prompts=prompts, n=n)
    assert DEPTH[lane(tokens, asked=asked, flex=flex, prompts=prompts, n=n)] >= DEPTH[unasked]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (lane(2048), Lane.SHORT),
        (lane(2049), Lane.LONG),
        (lane(2049, asked=Lane.SHORT), Lane.LONG),
        (lane(asked=Lane.LONG), Lane.LONG),
        (lane(asked=Lane.BATCH), Lane.BATCH),
        (lane(flex=True), Lane.BATCH),
        (lane(prompts=7), Lane.SHORT),
        (lane(prompts=8), Lane.BATCH),
        (lane(n=4), Lane.SHORT),
        (lane(n=5), Lane.BATCH),
        (lane(n=5, asked=Lane.LONG), Lane.BATCH),
        (lane(100, threshold=99), Lane.LONG),
    ],
)
def test_the_lane_is_batch_by_wish_or_shape_then_long_by_size(found: Lane, expected: Lane) -> None:
    assert found is expected
