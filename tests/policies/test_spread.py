"""Quantiles of what was seen lately."""

from __future__ import annotations

from math import ceil

from hypothesis import given
from hypothesis import strategies as st

from policies.spread import LEAST, MEMORY, MOST, STEP, Spread


def test_nothing_was_seen() -> None:
    assert Spread().quantile(0.99) == 0.0


@given(st.lists(st.floats(0.0, 2 * MOST), min_size=1, max_size=300), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_never_too_short_and_at_most_a_bucket_too_long(examples: list[float], share: float) -> None:
    spread = Spread()
    for seconds in examples:
        spread.learn(seconds)
    exact = sorted(examples)[max(0, ceil(share * len(examples) - 1e-9) - 1)]
    exact = min(max(exact, LEAST), MOST)
    assert exact * (1 - 1e-9) <= spread.quantile(share) <= exact * STEP * (1 + 1e-9)


def test_what_is_seen_now_replaces_what_was_seen_before() -> None:
    spread = Spread()
    for _ in range(2000):
        spread.learn(5.0)
    for _ in range(int(8 * MEMORY)):
        spread.learn(0.01)
    assert spread.quantile(0.99) < 0.012
    assert spread.seen <= MEMORY
