"""An endpoint that should have said something by now, and what that costs it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.scorers.predicted_ttft import PredictedTtft
from policies.silence import GRACE_SECONDS, PATIENCE, Silence
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
