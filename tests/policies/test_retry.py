"""A retry happens only before the first byte, within the limit and for what the request did not cause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.retry import may_retry
from policies.types import FailureCause, Outcome

OUTCOMES = st.builds(
    Outcome,
    status=st.sampled_from([0, 200, 400, 404, 408, 429, 500, 501, 502, 503, 504]),
    failure=st.one_of(st.none(), st.sampled_from(FailureCause)),
    started=st.booleans(),
)


@given(OUTCOMES, st.integers(1, 5), st.integers(0, 5), st.floats(0, 10), st.floats(0, 10))
def test_nothing_is_retried_after_the_first_byte_the_limit_or_the_deadline(
    outcome: Outcome, attempts: int, limit: int, now: float, deadline: float
) -> None:
    if outcome.started or attempts >= limit or now >= deadline:
        assert not may_retry(outcome, attempts, limit, now, deadline)


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (Outcome(0, FailureCause.CONNECT), True),
        (Outcome(0, FailureCause.CLOSED), True),
        (Outcome(200, FailureCause.PROTOCOL), True),
        (Outcome(200, FailureCause.ENGINE_ABORT), True),
        (Outcome(500, FailureCause.STATUS), True),
        (Outcome(502, FailureCause.STATUS), True),
        (Outcome(503), True),
        (Outcome(0, FailureCause.TIMEOUT), True),
        (Outcome(0, FailureCause.HUNG), True),
        (Outcome(501, FailureCause.STATUS), False),
        (Outcome(504, FailureCause.STATUS), False),
        (Outcome(429, FailureCause.STATUS), False),
        (Outcome(400), False),
        (Outcome(200), False),
        (Outcome(0), False),
    ],
)
def test_only_what_the_request_did_not_cause_is_retried(outcome: Outcome, expected: bool) -> None:
    assert may_retry(outcome, attempts=1, limit=3, now=0.0, deadline=10.0) is expected


@pytest.mark.parametrize("cause", sorted(set(FailureCause) - {FailureCause.STATUS}))
def test_what_would_be_retried_is_not_once_a_byte_has_reached_the_client(cause: FailureCause) -> None:
    assert may_retry(Outcome(0, cause), 1, 3, 0.0, 10.0)
    assert not may_retry(Outcome(0, cause, started=True), 1, 3, 0.0, 10.0)
