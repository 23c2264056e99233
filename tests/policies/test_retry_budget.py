"""The retry budget over time: never more than its share and reserve, and all of both where they are needed."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from policies.retry import MOST_DELAY, WINDOW_SECONDS, Budget, RetryPolicy, Verdict, reached
from policies.sliding import SLOTS
from policies.types import FailureCause, Outcome

SLOT = WINDOW_SECONDS / SLOTS


class BudgetOverTime(RuleBasedStateMachine):
    """The budget beside a list of all that ever happened."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(share=0.2, reserve=3)
        self.now = 0.0
        self.requests: list[float] = []
        self.taken: list[float] = []

    @rule(seconds=st.floats(0, 1.5 * WINDOW_SECONDS))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(count=st.integers(1, 30))
    def requests_are_sent(self, count: int) -> None:
        for _ in range(count):
            self.budget.note(self.now)
            self.requests.append(self.now)

    @rule(count=st.integers(1, 12))
    def attempts_fail(self, count: int) -> None:
        for _ in range(count):
            allowed = 3 + 0.2 * len(self.within(self.requests))
            granted = self.budget.take(self.now)
            assert granted == (len(self.within(self.taken)) < allowed)
            if granted:
                self.taken.append(self.now)

    def within(self, times: list[float]) -> list[float]:
        """Those of the slots that the window has now."""
        newest = int(self.now / SLOT)
        return [one for one in times if int(one / SLOT) > newest - SLOTS]

    @invariant()
    def no_stretch_of_time_has_more_than_its_share_and_the_reserve(self) -> None:
        since = self.now - (WINDOW_SECONDS - SLOT)
        taken = sum(one > since for one in self.taken)
        # The last of them was granted within that time, for the traffic of the window before it.
        assert taken < 3 + 0.2 * sum(one > since - WINDOW_SECONDS for one in self.requests) + 1


TestBudgetOverTime = BudgetOverTime.TestCase


def test_the_death_of_an_engine_with_all_its_seats_taken_is_repeated_completely_though_there_was_little_traffic() -> (
    None
):
    budget = Budget(share=0.1, reserve=200)
    for _ in range(200):
        budget.note(0.0)
    assert all(budget.take(90.0) for _ in range(200))
    assert not budget.take(90.0)
    assert all(budget.take(90.0 + 1.1 * WINDOW_SECONDS) for _ in range(200)), "and the next one too"


def test_where_everything_fails_the_load_grows_by_a_tenth() -> None:
    budget = Budget(share=0.1, reserve=0)
    repeated = 0
    for step in range(10_000):
        budget.note(step / 100)
        repeated += budget.take(step / 100)
    assert 950 <= repeated <= 1050


# -- when


def policy(return_seconds: float = 5.0, retries: int = 2) -> RetryPolicy:
    return RetryPolicy(retries, Budget(0.1, 10), return_seconds, Random(1))


def test_the_first_retry_is_at_once_and_later_ones_wait_longer_and_longer_with_jitter() -> None:
    one = policy()
    assert one.delay(0) == 0.0
    waits = [[one.delay(retries) for _ in range(200)] for retries in (1, 2, 3, 50)]
    assert all(len(set(row)) == 200 for row in waits)
    for row, longest in zip(waits, (0.05, 0.1, 0.2, MOST_DELAY), strict=True):
        assert longest / 2 <= min(row)
        assert max(row) <= longest


@pytest.mark.parametrize(("deadline", "verdict"), [(10.06, Verdict.RETRY), (10.05, Verdict.NO), (10.0, Verdict.NO)])
def test_a_retry_that_would_begin_past_the_deadline_is_none_and_costs_nothing(
    deadline: float, verdict: Verdict
) -> None:
    one = policy()
    failed = Outcome(500, FailureCause.STATUS)
    assert one.judge(failed, 1, now=10.0, delay=0.05, deadline=deadline) is verdict
    left = sum(one.budget.take(10.0) for _ in range(20))
    assert left == (9 if verdict is Verdict.RETRY else 10)


@given(st.integers(0, 100), st.floats(0, 100), st.floats(0, 100), st.floats(0, 200))
def test_no_request_waits_for_an_endpoint_to_return_beyond_its_bound_or_its_deadline(
    rounds: int, since: float, waited: float, deadline: float
) -> None:
    now = since + waited
    delay = policy().return_delay(rounds, since, now, deadline)
    if delay is not None:
        assert 0 < delay <= MOST_DELAY
        assert now + delay < min(since + 5.0, deadline)


@pytest.mark.parametrize(("return_seconds", "retries"), [(0.0, 2), (5.0, 0)])
def test_where_nothing_is_to_be_retried_nobody_waits_either(return_seconds: float, retries: int) -> None:
    assert policy(return_seconds, retries).return_delay(0, 0.0, 0.0, 100.0) is None


def test_only_a_refused_connection_costs_nothing() -> None:
    assert [cause for cause in FailureCause if not reached(Outcome(0, cause))] == [FailureCause.CONNECT]
