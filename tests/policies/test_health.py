"""One failed probe ejects nobody; failures in a row do, for a time; and every endpoint can come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.health import MAX_OPEN_SECONDS, TRIAL_SECONDS, EndpointHealth
from policies.types import FailureCause, Outcome

GOOD = Outcome(status=200)
REFUSED = Outcome(status=0, failure=FailureCause.CONNECT)
BAD_REQUEST = Outcome(status=400)
CLIENT_LEFT = Outcome(status=0)

STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 5.0),
        st.sampled_from(
            ["good probe", "bad probe", "dispatch", "first token", GOOD, REFUSED, BAD_REQUEST, CLIENT_LEFT]
        ),
    ),
    max_size=60,
)


def healthy() -> EndpointHealth:
    return EndpointHealth(assume_healthy=True)


def opened(now: float = 0.0) -> EndpointHealth:
    health = healthy()
    for _ in range(3):
        health.record(REFUSED, now)
    return health


def apply(health: EndpointHealth, step: str | Outcome, now: float) -> None:
    if isinstance(step, Outcome):
        health.record(step, now)
    elif step == "dispatch":
        health.on_dispatch(now)
    elif step == "first token":
        health.on_first_token(now)
    else:
        health.probe(step == "good probe", now)


@given(STEPS)
def test_every_endpoint_can_come_back_whatever_has_happened(steps: list[tuple[float, str | Outcome]]) -> None:
    health, now = healthy(), 0.0
    for elapsed, step in steps:
        now += elapsed
        apply(health, step, now)
    health.probe(True, now)
    now += max(MAX_OPEN_SECONDS, TRIAL_SECONDS)
    assert health.admits(now)
    health.on_dispatch(now)
    health.record(GOOD, now)
    assert health.state(now) == "healthy"
    assert health.admits(now)


@given(STEPS)
def test_only_a_healthy_or_half_open_endpoint_admits(steps: list[tuple[float, str | Outcome]]) -> None:
    health, now = EndpointHealth(), 0.0
    for elapsed, step in steps:
        now += elapsed
        apply(health, step, now)
        assert not health.admits(now) or health.state(now) in {"healthy", "half-open"}
        assert health.admits(now) or health.state(now) != "healthy"


@given(
    st.lists(st.sampled_from([BAD_REQUEST, CLIENT_LEFT, Outcome(status=404), Outcome(status=501), GOOD]), max_size=30)
)
def test_what_the_client_caused_never_opens_the_circuit(outcomes: list[Outcome]) -> None:
    health = healthy()
    for outcome in outcomes:
        health.record(outcome, 0.0)
    assert health.admits(0.0)


def test_an_endpoint_is_unknown_until_its_first_good_probe() -> None:
    health = EndpointHealth(healthy_after=3)
    assert health.state(0.0) == "unknown"
    assert not health.admits(0.0)
    health.probe(True, 1.0)
    assert health.state(1.0) == "healthy"
    assert health.admits(1.0)


def test_one_failed_probe_ejects_nobody_and_two_in_a_row_do() -> None:
    health = healthy()
    health.probe(False, 1.0)
    assert health.admits(1.0)
    health.probe(True, 2.0)
    health.probe(False, 3.0)
    assert health.admits(3.0)
    health.probe(False, 4.0)
    assert health.state(4.0) == "unhealthy"
    assert not health.admits(4.0)


def test_an_unhealthy_endpoint_returns_after_the_configured_number_of_good_probes() -> None:
    health = EndpointHealth(assume_healthy=True, healthy_after=2)
    health.probe(False, 0.0)
    health.probe(False, 0.0)
    health.probe(True, 1.0)
    assert not health.admits(1.0)
    health.probe(True, 2.0)
    assert health.admits(2.0)


@pytest.mark.parametrize(
    "outcome",
    [
        REFUSED,
        Outcome(status=200, failure=FailureCause.CLOSED, started=True),
        Outcome(status=0, failure=FailureCause.TIMEOUT),
        Outcome(status=200, failure=FailureCause.PROTOCOL),
        Outcome(status=200, failure=FailureCause.ENGINE_ABORT),
        Outcome(status=500, failure=FailureCause.STATUS),
        Outcome(status=503),
    ],
)
def test_three_failures_of_the_engine_in_a_row_open_the_circuit(outcome: Outcome) -> None:
    health = healthy()
    health.record(outcome, 0.0)
    health.record(outcome, 0.0)
    assert health.admits(0.0)
    health.record(outcome, 0.0)
    assert health.state(0.0) == "open"
    assert not health.admits(0.0)


def test_good_probes_must_come_in_a_row() -> None:
    health = EndpointHealth(assume_healthy=True, healthy_after=2)
    for ok in (False, False, True, False, True):
        health.probe(ok, 0.0)
    assert health.state(0.0) == "unhealthy"


def test_a_success_of_a_request_sent_before_it_opened_does_not_close_the_circuit() -> None:
    health = opened()
    health.record(GOOD, 0.5)
    assert health.state(0.5) == "open"


def test_a_success_between_failures_keeps_the_circuit_closed() -> None:
    health = healthy()
    for _ in range(5):
        health.record(REFUSED, 0.0)
        health.record(REFUSED, 0.0)
        health.record(GOOD, 0.0)
    assert health.admits(0.0)


def test_an_error_status_after_output_began_does_not_count() -> None:
    health = healthy()
    for _ in range(5):
        health.record(Outcome(status=500, failure=FailureCause.STATUS, started=True), 0.0)
    assert health.admits(0.0)


def test_after_a_second_one_request_goes_through_and_its_success_closes() -> None:
    health = opened()
    assert not health.admits(0.99)
    assert health.retry_after(0.25) == 0.75
    assert health.state(1.0) == "half-open"
    assert health.admits(1.0)
    health.on_dispatch(1.0)
    assert not health.admits(1.0)
    health.record(GOOD, 1.5)
    assert health.state(1.5) == "healthy"
    assert health.retry_after(1.5) is None


def test_the_open_time_doubles_with_every_failed_trial_up_to_30_seconds() -> None:
    health, now, times = opened(), 0.0, []
    for _ in range(7):
        wait = health.retry_after(now)
        assert wait is not None
        times.append(wait)
        now += wait
        health.on_dispatch(now)
        health.record(REFUSED, now)
    assert times == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_failures_of_requests_sent_before_it_opened_do_not_lengthen_the_outage() -> None:
    health = opened()
    for _ in range(50):
        health.record(REFUSED, 0.5)
    assert health.admits(1.0)


def test_a_good_probe_does_not_shorten_the_open_time() -> None:
    health = opened()
    health.probe(True, 0.1)
    assert not health.admits(0.5)
    assert health.admits(1.0)


def test_a_request_that_tells_nothing_leaves_the_trial_to_the_next() -> None:
    health = opened()
    health.on_dispatch(1.0)
    health.record(BAD_REQUEST, 1.1)
    assert health.state(1.1) == "half-open"
    assert health.admits(1.1)


def test_a_trial_that_never_reports_does_not_keep_an_endpoint_out() -> None:
    health = opened()
    health.on_dispatch(1.0)
    assert not health.admits(1.0 + TRIAL_SECONDS - 0.1)
    assert health.admits(1.0 + TRIAL_SECONDS)


def test_a_first_token_closes_on_trust_and_the_next_failure_opens_again_for_longer() -> None:
    health = opened()
    health.on_dispatch(1.0)
    health.on_first_token(1.2)
    assert health.admits(1.2)
    health.record(Outcome(status=200, failure=FailureCause.CLOSED, started=True), 2.0)
    assert health.retry_after(2.0) == 2.0
