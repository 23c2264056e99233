"""What is unusually late is learned, only of short requests that show a first byte, and within a share of traffic."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.hedge import LEAST_SAMPLES, HedgePolicy
from policies.spread import STEP
from policies.types import InferenceRequest, Lane
from tests.policies.builders import make_request

SHORT = replace(make_request(), lane=Lane.SHORT, stream=True)


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


def test_a_copy_is_sent_after_the_pools_own_p99_and_not_before_that_means_something() -> None:
    policy = HedgePolicy(0.05)
    for number in range(LEAST_SAMPLES):
        assert policy.after(0.0) is None
        policy.observe(3.0 if number < LEAST_SAMPLES // 100 else 0.2)
    assert 0.2 <= (policy.after(0.0) or 0.0) <= 0.2 * STEP, "two of two hundred were later"
    policy.observe(3.0)
    policy.observe(3.0)
    assert 3.0 <= (policy.after(0.0) or 0.0) <= 3.0 * STEP, "two percent were"


def test_copies_stay_within_their_share() -> None:
    policy = learned(HedgePolicy(0.05))
    copies = 0
    for step in range(1000):
        policy.after(step / 100)
        if policy.left(step / 100):
            policy.sent(step / 100)
            copies += 1
    assert 45 <= copies <= 51
