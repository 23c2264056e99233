"""An endpoint that should have said something by now, and what that costs it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.scorers.predicted_ttft import PredictedTtft
from policies.silence import (
    CANARY_MARGIN,
    ENOUGH,
    GRACE_SECONDS,
    LEAST_QUIET,
    PATIENCE,
    PRIOR_SECONDS,
    SUSPECT_MARGIN,
    TRUST_SECONDS,
    WARMED_UP,
    Silence,
    introduce,
)
from policies.spread import STEP
from tests.policies.builders import make_request, make_state, make_view, make_waiting

DUE = PATIENCE * 1.0 + GRACE_SECONDS  # of what is predicted to take a second


def test_an_endpoint_that_owes_nothing_is_never_late() -> None:
    assert Silence().overdue(1e9) == 0.0


def test_it_is_late_from_the_patience_for_what_was_predicted_on() -> None:
    silence = Silence()
    silence.expects(1, 1.0, now=100.0)
    assert silence.overdue(100.0 + DUE) == 0.0
    assert silence.overdue(100.0 + DUE + 3.0) == 3.0


def test_the_first_that_is_due_counts_and_one_that_comes_later_excuses_nothing() -> None:
    silence = Silence()
    silence.expects(1, 1.0, now=0.0)
    silence.expects(2, 50.0, now=1.0)
    silence.expects(3, 1.0, now=DUE + 5.0)
    assert silence.overdue(DUE + 5.0) == 5.0


def test_a_sign_by_any_request_is_one_of_the_engine() -> None:
    """One answer that is much longer than expected is no hung engine."""
    silence = Silence()
    silence.expects(1, 1.0, now=0.0)
    silence.expects(2, 1.0, now=0.0)
    silence.heard(2, now=60.0)
    assert silence.overdue(60.0) == silence.overdue(60.0 + GRACE_SECONDS) == 0.0
    assert silence.overdue(61.0 + GRACE_SECONDS) == 1.0


def test_time_in_which_nothing_was_owed_does_not_count() -> None:
    silence = Silence()
    silence.expects(1, 1.0, now=0.0)
    silence.left(1)
    silence.expects(2, 1.0, now=500.0)
    assert silence.overdue(500.0 + DUE) == 0.0


@given(
    st.lists(st.tuples(st.sampled_from(["sent", "heard", "left"]), st.integers(0, 5), st.floats(0, 10)), max_size=40)
)
def test_nobody_is_late_by_more_than_since_it_was_last_heard(steps: list[tuple[str, int, float]]) -> None:
    silence, now, heard, owed = Silence(), 0.0, 0.0, set[int]()
    for what, key, passed in steps:
        now += passed
        assert 0.0 <= silence.overdue(now) <= max(0.0, now - heard)
        if what == "sent":
            heard = heard if owed else now
            owed.add(key)
            silence.expects(key, 0.0, now)
        elif what == "heard":
            heard = now
            owed.discard(key)
            silence.heard(key, now)
        else:
            owed.discard(key)
            silence.left(key)
        assert len(silence) == len(owed)


def test_a_late_endpoint_costs_as_much_more_as_it_is_late_and_nobody_is_held_for_it() -> None:
    late, well = make_state("late"), make_state("well")
    for state in (late, well):
        state.reserve(make_request(), 0, 0.01, 0.0)
    well.silence.heard(0, 100.0)
    view = make_view([late, well], now=100.0)
    costs = PredictedTtft().score(make_waiting([late, well]), view)
    assert costs[0] - costs[1] > 90.0
    assert max(view.planned) < 0.1


def test_a_stream_owes_its_first_token_and_an_answer_in_one_piece_its_end() -> None:
    for stream in (True, False):
        state = make_state()
        request = replace(make_request(max_output_tokens=10_000), stream=stream)
        reservation = state.reserve(request, 0, 0.01, 0.0)
        reservation.first_token(1.0, seen=stream)
        assert len(state.silence) == (0 if stream else 1)
        assert state.silence.overdue(10.0) == 0.0, "an answer of 10,000 tokens takes longer"
        reservation.release(1000.0)
        assert len(state.silence) == 0


def taught(*seconds: float, wholes: bool = False) -> Silence:
    """It has seen each of these 30 times; the last sign came at 0."""
    silence = Silence()
    for took in seconds * 30:
        silence.expects(1, took, -took, first=not wholes)
        silence.heard(1, 0.0)
    return silence


def first_suspicion(silence: Silence, *, streams: bool = False, within: float = 60.0) -> float | None:
    """When a watcher that looks a hundred times a second would first suspect it."""
    return next((at / 100 for at in range(int(within * 100)) if silence.suspicious(at / 100, streams)), None)


def shown(silence: Silence, seconds: float, times: int, *, first: bool = True) -> None:
    """So many answers, each so long after it was sent."""
    for _ in range(times):
        silence.expects(1, seconds, 0.0, first=first)
        silence.heard(1, seconds)


def test_until_enough_first_tokens_were_seen_they_may_take_seconds_and_fewer_with_each() -> None:
    silence = Silence()
    assert silence.first_token_seconds == PRIOR_SECONDS
    reckoned = [PRIOR_SECONDS]
    for _ in range(ENOUGH):
        shown(silence, 0.2, 1)
        reckoned.append(silence.first_token_seconds)
    assert reckoned == sorted(reckoned, reverse=True)
    assert reckoned[ENOUGH // 2] == PRIOR_SECONDS / 2
    assert 0.2 <= silence.first_token_seconds <= 0.2 * STEP
    silence.forget()
    assert silence.first_token_seconds == PRIOR_SECONDS


def test_of_an_endpoint_little_is_known_of_the_slowest_of_its_fellows_is_the_measure_once_it_has_warmed_up() -> None:
    few, fast, slow, new = Silence(), taught(0.02), taught(0.3), Silence()
    introduce([few, fast, slow, new])
    shown(few, 0.02, WARMED_UP - 1)
    assert few.first_token_seconds > 4.0, "its first answers may wait for what it compiles"
    shown(few, 0.02, 1)
    assert few.first_token_seconds == slow.first_token_seconds
    shown(few, 1.0, 1)
    assert few.first_token_seconds >= 1.0, "its own are never held against it"
    assert fast.first_token_seconds <= 0.02 * STEP, "who knows enough asks nobody"
    few.forget()
    assert few.first_token_seconds == PRIOR_SECONDS, "another process has not warmed up"


def test_fellows_of_whom_little_is_known_say_nothing() -> None:
    few, other = Silence(), Silence()
    introduce([few, other])
    shown(other, 0.02, ENOUGH - 1)
    shown(few, 0.02, WARMED_UP)
    assert few.first_token_seconds == PRIOR_SECONDS * (1 - WARMED_UP / ENOUGH)


def test_answers_in_one_piece_warm_an_engine_up_too() -> None:
    few, other = Silence(), taught(0.3)
    introduce([few, other])
    shown(few, 4.0, WARMED_UP, first=False)
    assert few.first_token_seconds == other.first_token_seconds


def test_an_engine_that_owes_a_first_token_is_suspected_when_that_is_later_than_any_before() -> None:
    for p99 in (0.02, 0.5, 3.0):
        silence = taught(p99)
        silence.expects(2, 0.01, 0.0)
        at = first_suspicion(silence)
        assert at is not None
        assert max(LEAST_QUIET, p99) <= at <= max(LEAST_QUIET, STEP * p99 + SUSPECT_MARGIN) + 0.01


@given(st.floats(0.001, 20.0))
def test_suspicion_and_canary_together_take_no_longer_than_twice_the_p99_and_a_second(p99: float) -> None:
    silence = taught(p99)
    silence.expects(2, 0.01, 0.0)
    learned = silence.first_token_seconds
    at = first_suspicion(silence)
    assert at is not None
    looks = 0.35  # a tenth of a second between two, and as much as the gateway may be late
    assert at + silence.canary_seconds(0.0, at) + looks <= 2 * learned + 1.0


@given(st.floats(0.001, 20.0))
def test_an_engine_that_hangs_right_after_a_good_canary_is_found_in_the_same_time(p99: float) -> None:
    silence = taught(p99)
    silence.expects(2, 0.01, -100.0)
    silence.alive(0.0)
    at = first_suspicion(silence)
    assert at is not None
    assert at + silence.canary_seconds(0.0, at) + 0.25 <= 2 * silence.first_token_seconds + 1.0


def test_what_is_predicted_to_take_long_may_take_long() -> None:
    silence = taught(0.02)
    silence.expects(2, 7.0, 0.0)
    at = first_suspicion(silence)
    assert at is not None
    assert at >= 7.0
    assert silence.canary_seconds(12.0, 2.0) == 10.0 + CANARY_MARGIN, "what must be done by now is not waited for again"


def test_any_sign_of_work_clears_it() -> None:
    silence = taught(0.02)
    silence.expects(2, 0.01, 0.0)
    silence.spoke(4.0)
    assert not silence.suspicious(4.2, streams=True)
    assert silence.suspicious(4.4, streams=True)
    silence.alive(4.5)
    assert silence.alive_since(4.4)
    assert not silence.suspicious(4.5 + TRUST_SECONDS - 0.01, streams=True)
    assert silence.suspicious(4.5 + TRUST_SECONDS, streams=True)


def test_streams_under_way_that_say_nothing_are_suspicious_though_no_first_token_is_owed() -> None:
    silence = taught(1.0)
    assert first_suspicion(silence) is None
    at = first_suspicion(silence, streams=True)
    assert at is not None
    assert at >= 1.0, "prefills of others hold decodes up for as long as a first token takes"
    for piece in range(ENOUGH + 2):
        silence.spoke(piece * 0.1)
    quiet_from = (ENOUGH + 1) * 0.1
    assert not silence.suspicious(quiet_from + 0.2, streams=True)
    assert silence.suspicious(quiet_from + 0.2 * STEP + SUSPECT_MARGIN + 0.01, streams=True), "it never paused so long"


def test_nothing_is_suspicious_where_nothing_is_owed() -> None:
    silence = taught(0.02)
    assert first_suspicion(silence) is None
    silence.expects(2, 0.01, 100.0)
    silence.left(2)
    assert not silence.suspicious(200.0, streams=False)


def test_one_that_has_left_takes_its_age_with_it() -> None:
    silence = taught(1.0)
    silence.expects(2, 0.01, 0.0)
    silence.expects(3, 0.01, 9.0)
    silence.left(2)
    assert not silence.suspicious(9.9, streams=False), "the other has waited for less than a second"
    assert silence.suspicious(10.5, streams=False)


def test_where_only_whole_answers_are_seen_their_times_are_the_measure() -> None:
    silence = taught(2.0, wholes=True)
    assert 2.0 <= silence.first_token_seconds <= 2.0 * STEP
    silence.expects(2, 0.5, 0.0, first=False)
    at = first_suspicion(silence)
    assert at is not None
    assert 2.0 <= at <= 2.0 * STEP + SUSPECT_MARGIN + 0.01
