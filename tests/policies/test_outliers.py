"""Who fails far more often than the others is taken out, and never so many that the rest falls over."""

from __future__ import annotations

import pytest

from policies.endpoint_state import EndpointState
from policies.health import CALM_SECONDS, Cause
from policies.outliers import WINDOW_SECONDS, Fellows
from policies.types import FailureCause, Outcome, Role
from tests.policies.builders import make_fleet, make_state

GOOD = Outcome(status=200)
FAILED = Outcome(status=0, failure=FailureCause.CLOSED)


def pool(count: int, share: float = 0.5) -> list[EndpointState]:
    states = make_fleet(count)
    Fellows(states, share).join()
    return states


def serve(state: EndpointState, good: int, failed: int, now: float = 0.0) -> None:
    """So many of each, never two failures one after the other unless there is nothing else."""
    for number in range(good + failed):
        state.health.record(FAILED if number % 2 and failed > number // 2 else GOOD, now)


def test_an_endpoint_that_fails_far_more_often_than_the_others_is_taken_out_though_it_never_fails_in_a_row() -> None:
    first, *others = pool(3)
    for other in others:
        serve(other, 20, 0)
    serve(first, 20, 8)
    assert first.health.cause is Cause.OUTLIER
    assert first.status(0.0) == "outlier"
    assert not any(other.health.ejected for other in others)


def test_where_all_fail_alike_nobody_is_an_outlier() -> None:
    states = pool(3)
    for _ in range(10):
        for state in states:
            serve(state, 3, 1)
    assert not any(state.health.ejected for state in states)


def test_a_few_failures_or_nobody_to_compare_with_say_nothing() -> None:
    first, second = pool(2)
    serve(first, 10, 10)
    assert not first.health.ejected, "the other has served nothing yet"
    serve(second, 30, 0)
    third, fourth = pool(2)
    serve(fourth, 30, 0)
    serve(third, 5, 4)
    assert not third.health.ejected


def test_what_was_long_ago_counts_no_more() -> None:
    first, second = pool(2)
    serve(first, 8, 4)
    serve(second, 30, 0, now=2 * WINDOW_SECONDS)
    serve(first, 20, 4, now=2 * WINDOW_SECONDS)
    assert not first.health.ejected


def test_its_time_out_doubles_until_it_has_served_well_for_a_while() -> None:
    first, second = pool(2)
    now, times = 0.0, []
    for _ in range(3):
        serve(second, 20, 0, now)
        serve(first, 20, 8, now)
        wait = first.health.retry_after(now)
        assert wait is not None
        times.append(wait)
        now += wait
        first.health.on_dispatch(now)
        first.health.record(GOOD, now)
        assert not first.health.ejected
    assert times == [1.0, 2.0, 4.0]
    now += CALM_SECONDS
    first.health.record(GOOD, now)
    serve(second, 20, 0, now)
    serve(first, 20, 8, now)
    assert first.health.retry_after(now) == 1.0


@pytest.mark.parametrize(
    ("endpoints", "share", "out"),
    [(1, 0.5, 0), (1, 1.0, 0), (2, 0.5, 1), (2, 1.0, 1), (3, 0.5, 1), (4, 0.5, 2), (4, 0, 0)],
)
def test_never_more_than_the_share_and_somebody_always_stays(endpoints: int, share: float, out: int) -> None:
    states = pool(endpoints, share)
    for state in states:
        for _ in range(10):
            state.health.record(FAILED, 0.0)
    assert sum(state.health.ejected for state in states) == out
    assert any(state.available(0.0) for state in states)


def test_who_could_not_be_ejected_is_when_another_has_come_back() -> None:
    first, second = pool(2)
    for state in (first, second):
        for _ in range(3):
            state.health.record(FAILED, 0.0)
    assert (first.health.ejected, second.health.ejected) == (True, False)
    first.health.on_dispatch(1.0)
    first.health.record(GOOD, 1.0)
    second.health.record(FAILED, 1.0)
    assert (first.health.ejected, second.health.ejected) == (False, True)


@pytest.mark.parametrize(("role", "ejected"), [(Role.HOT, False), (Role.WARM, True), (Role.COLD, True)])
def test_a_standby_that_does_not_run_yet_lets_a_failing_endpoint_go_and_a_dead_one_does_not(
    role: Role, ejected: bool
) -> None:
    failing, other = make_state("e0"), make_state("e1", role=role, healthy=False)
    Fellows([failing, other]).join()
    assert failing.health.eject(Cause.HUNG, 0.0) is ejected
