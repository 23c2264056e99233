"""What is unusually late is learned, only of short requests that show a first byte, and within a share of traffic."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.hedge import LEAST_SAMPLES, MOST_SAMPLES, HedgePolicy, Quantile
from policies.types import InferenceRequest, Lane
from tests.policies.builders import make_request

SHORT = replace(make_request(), lane=Lane.SHORT, stream=True)


@given(st.lists(st.floats(0.001, 100.0), min_size=LEAST_SAMPLES, max_size=LEAST_SAMPLES + 50))
def test_a_quantile_is_right_to_a_tenth(durations: list[float]) -> None:
    tracker = Quantile(0.9)
    for one in durations:
        tracker.observe(one)
    exact = sorted(durations)[ceil(0.9 * len(durations) - 1e-9) - 1]
    value = tracker.value()
    assert value is not None
    assert exact * 0.999 <= value <= exact * 1.1001


def test_nothing_is_known_of_too_few_and_what_is_old_loses_its_weight() -> None:
    tracker = Quantile(0.5)
    for _ in range(LEAST_SAMPLES - 1):
        tracker.observe(1.0)
    assert tracker.value() is None
    for _ in range(2 * MOST_SAMPLES):
        tracker.observe(1.0)
    for _ in range(MOST_SAMPLES):
        tracker.observe(0.1)
    assert tracker.value() == pytest.approx(0.1, rel=0.1), "as many are older and longer"


def test_what_is_longer_than_all_that_is_told_apart_harms_nobody() -> None:
    tracker = Quantile(0.5)
    for _ in range(LEAST_SAMPLES):
        tracker.observe(1e9)
    assert (tracker.value() or 0) > 900


def learned(policy: HedgePolicy) -> HedgePolicy:
    for _ in range(LEAST_SAMPLES):
        policy.observe(0.2)
    return policy


@pytest.mark.parametrize(
    ("request_", "hedged"),
    [
        (SHORT, True),
        (replace(SHORT, lane=Lane.LONG), False),
        (replace(SHORT, lane=Lane.BATCH), False),
        (replace(SHORT, stream=False, max_output_tokens=9), False),
        (replace(SHORT, stream=False, max_output_tokens=0), True),
    ],
    ids=["short", "long", "batch", "in one piece", "no output"],
)
def test_only_short_requests_that_show_a_first_byte_are_sent_twice(request_: InferenceRequest, hedged: bool) -> None:
    assert HedgePolicy(0.05).covers(request_) is hedged


def test_a_copy_is_sent_after_what_was_learned_and_not_before_anything_is() -> None:
    assert HedgePolicy(0.05).after(0.0) is None
    assert learned(HedgePolicy(0.05)).after(0.0) == pytest.approx(0.2, rel=0.1)


def test_copies_stay_within_their_share() -> None:
    policy = learned(HedgePolicy(0.05))
    copies = 0
    for step in range(1000):
        policy.after(step / 100)
        if policy.left(step / 100):
            policy.sent(step / 100)
            copies += 1
    assert 45 <= copies <= 51
