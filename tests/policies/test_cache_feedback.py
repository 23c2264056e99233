"""What engines report of their caches sets the size of the index: down fast, up slowly, and to what is really there."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from policies.cache_feedback import (
    FOUND_SHARE,
    GROW,
    GROW_MOST,
    JUDGED,
    LEAST_FACTOR,
    MOST_FACTOR,
    PREDICTED_SHARE,
    SHRINK,
    TOLERANCE_SHARE,
    TOLERANCE_TOKENS,
    CacheFeedback,
)
from policies.endpoint_state import INDEX_SHARE, EndpointState
from policies.reservation import EngineReport
from tests.policies.builders import make_request, make_state
from tests.policies.lru_engine import Served

TOKENS = st.integers(0, 100_000)


def indexed(blocks: int) -> EndpointState:
    state = make_state()
    state.size_index(blocks)
    return state


def chain(name: int, length: int) -> tuple[int, ...]:
    return tuple(hash((name, place)) for place in range(length))


def answer(state: EndpointState, blocks: tuple[int, ...], found: int, *, now: float = 0.0) -> None:
    """A request of these blocks is served, and the engine says what it found; the prediction is what the index has."""
    request = make_request(prompt_tokens=64 * len(blocks) + 10, blocks=blocks)
    reservation = state.reserve(request, 64 * state.index.match(blocks), 0.1, now)
    reservation.first_token(now)
    reservation.release(now, EngineReport(request.prompt_tokens, found, 10))


# -- one answer


@given(TOKENS, TOKENS, TOKENS)
def test_a_report_is_a_phantom_hit_a_missed_hit_or_close_enough(prompt: int, predicted: int, found: int) -> None:
    close = max(TOLERANCE_TOKENS, TOLERANCE_SHARE * prompt)
    expected = 0 if abs(found - predicted) <= close else 1 if found > predicted else -1
    assert CacheFeedback().answered(prompt, predicted, found) == expected


@given(st.lists(st.one_of(st.none(), st.floats(0.0, 3.0)), max_size=400))
def test_the_factor_stays_within_its_bounds_and_no_phantom_hit_raises_it(steps: list[float | None]) -> None:
    feedback = CacheFeedback()
    for at_most in steps:
        before = feedback.factor
        if at_most is None:
            feedback.missed()
            assert before <= feedback.factor <= before * (1 + GROW_MOST) + 1e-12
        else:
            feedback.phantom(at_most)
            assert feedback.factor <= before
            assert before - feedback.factor <= SHRINK * before + 1e-12, "one report moves it a part of the way"
        assert LEAST_FACTOR <= feedback.factor <= MOST_FACTOR


def test_the_factor_reaches_its_bounds() -> None:
    feedback = CacheFeedback()
    for _ in range(100):
        feedback.missed()
    assert feedback.factor == MOST_FACTOR
    for _ in range(100):
        feedback.phantom(0.0)
    assert feedback.factor == pytest.approx(LEAST_FACTOR, rel=0.01)


def test_one_phantom_hit_undoes_several_missed_ones() -> None:
    feedback = CacheFeedback()
    for _ in range(5):
        feedback.missed()
    feedback.phantom(0.0)
    assert feedback.factor < 1.0


def test_missed_hits_without_a_phantom_hit_between_them_count_more_and_more() -> None:
    feedback, factors = CacheFeedback(), [1.0]
    for _ in range(12):
        feedback.missed()
        factors.append(feedback.factor)
    steps = [after / before - 1 for before, after in pairwise(factors)]
    assert steps[0] == pytest.approx(GROW)
    assert steps == sorted(steps)
    assert steps[-1] > 3 * GROW
    feedback.phantom(0.9)
    before = feedback.factor
    feedback.missed()
    assert feedback.factor == pytest.approx(before * (1 + GROW)), "carefully again"


def test_a_phantom_hit_forgets_what_is_as_old_and_shrinks_the_index_towards_what_is_left() -> None:
    state = indexed(100)
    for name in range(4):
        answer(state, chain(name, 20), 0)
    answer(state, chain(1, 20), 0)  # the engine does not have what was used before the chains 2 and 3
    assert [state.index.match(chain(name, 20)) for name in range(4)] == [0, 20, 20, 20]
    assert state.feedback.factor == pytest.approx(1.0 + SHRINK * (60 / 100 - 1.0)), "what is newer, and its own"
    assert state.index.capacity == int(100 * state.feedback.factor)


def test_phantom_hits_take_the_factor_to_what_fits_and_not_below() -> None:
    state, truth = indexed(1000), 300
    for number in range(200):
        cached = [chain(one, 10) for one in range(max(0, number - truth // 10 + 1), number)]
        blocks = cached[0] if number % 2 and cached else chain(number - 60, 10)
        answer(state, blocks, 64 * 10 if blocks in cached else 0)
    assert state.feedback.factor < 0.5


def test_the_index_grows_only_where_the_engine_has_what_a_full_index_has_let_go() -> None:
    state = indexed(40)
    answer(state, chain(0, 20), 0)
    answer(state, chain(1, 15), 64 * 15)  # served by others before us: no index could have known
    assert state.feedback.factor == 1.0
    answer(state, chain(2, 15), 0)
    assert state.index.match(chain(0, 20)) < 20
    answer(state, chain(0, 20), 64 * 20)
    assert state.feedback.factor == pytest.approx(1 + GROW)


def test_what_was_let_go_long_ago_is_no_sign_that_the_index_is_too_small() -> None:
    state = indexed(40)
    for name in range(12):
        answer(state, chain(name, 10), 0)
    answer(state, chain(0, 10), 64 * 10)
    assert state.feedback.factor == 1.0


def test_right_predictions_change_nothing() -> None:
    state = indexed(100)
    for name in range(30):
        answer(state, chain(name % 3, 20), 64 * 20 if name >= 3 else 0)
    assert (state.feedback.factor, state.index.capacity) == (1.0, 100)


def test_another_engine_process_begins_with_an_empty_index_and_without_prejudice() -> None:
    state = indexed(100)
    for _ in range(9):
        answer(state, chain(1, 20), 0)
    assert state.feedback.factor < 0.9
    state.restarted()
    assert (state.feedback.factor, state.index.capacity, len(state.index)) == (1.0, 100, 0)
    assert state.feedback.judged == 0


def test_what_was_learned_holds_for_a_size_that_is_told_later() -> None:
    state = indexed(100)
    answer(state, chain(1, 20), 0)
    answer(state, chain(1, 20), 0)
    state.size_index(1000)
    assert state.index.capacity == int(1000 * state.feedback.factor) < 1000


# -- counters


def scraped(state: EndpointState, *shares: float, predicted: float, asked: int = 10_000) -> None:
    """Readings of the counters, before each of which so much was asked, predicted and found."""
    queries = hits = 0.0
    state.scraped_cache(queries, hits)
    for share in shares:
        state.feedback.dispatched(asked, int(asked * predicted))
        queries, hits = queries + asked, hits + asked * share
        state.scraped_cache(queries, hits)


def test_counters_are_gone_by_where_answers_say_nothing() -> None:
    state = indexed(100)
    scraped(state, 0.1, 0.1, predicted=0.5)
    assert state.feedback.factor == pytest.approx((1 - SHRINK) ** 2, abs=0.02)
    assert state.index.capacity == int(100 * state.feedback.factor)


def test_counters_grow_only_a_full_index() -> None:
    empty, full = indexed(100), indexed(100)
    full.index.touch(chain(1, 100))
    for state in (empty, full):
        scraped(state, 0.9, predicted=0.5)
    assert (empty.feedback.factor, full.feedback.factor) == (1.0, pytest.approx(1 + GROW))


def test_counters_that_agree_change_nothing() -> None:
    state = indexed(100)
    scraped(state, 0.45, 0.55, 0.5, predicted=0.5)
    assert state.feedback.factor == 1.0


def test_counters_say_nothing_once_answers_report() -> None:
    state = indexed(100)
    answer(state, chain(1, 20), 0)
    judged = state.feedback.judged
    scraped(state, 0.0, 0.0, 0.0, predicted=0.9)
    assert (state.feedback.factor, state.feedback.judged) == (1.0, judged)


@pytest.mark.parametrize("before", [(1000.0, 0.0), (1000.0, 500.0)])
def test_counters_that_fell_are_of_another_process_and_start_anew(before: tuple[float, float]) -> None:
    feedback = CacheFeedback()
    assert feedback.scraped(*before) == 0
    feedback.dispatched(1000, 900)
    assert feedback.scraped(200.0, 0.0) == 0, "of a process that began meanwhile"
    feedback.dispatched(1000, 500)
    assert feedback.scraped(1200.0, 500.0) == 0, "as predicted: what the old one was asked is forgotten"
    feedback.dispatched(1000, 500)
    assert feedback.scraped(2200.0, 500.0) == -1


def test_without_counters_or_traffic_nothing_is_judged() -> None:
    feedback = CacheFeedback()
    feedback.dispatched(1000, 900)
    for queries, hits in ((None, None), (100.0, None), (100.0, 10.0), (100.0, 10.0)):
        assert feedback.scraped(queries, hits) == 0
    assert feedback.judged == 0


# -- affinity that is useless


@given(st.integers(1, 2 * JUDGED), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_affinity_is_useless_when_much_is_predicted_and_little_of_it_found(
    answers: int, predicted: float, found: float
) -> None:
    feedback = CacheFeedback()
    for _ in range(answers):
        feedback.answered(10_000, predicted * 10_000, int(found * 10_000))
    if abs(predicted - PREDICTED_SHARE) > 0.001 and abs(found - FOUND_SHARE * predicted) > 0.001:
        worth = predicted > PREDICTED_SHARE and found < FOUND_SHARE * predicted
        assert feedback.useless == (answers >= JUDGED and worth)


def test_affinity_that_was_useless_is_not_for_ever() -> None:
    feedback = CacheFeedback()
    for _ in range(200):
        feedback.answered(10_000, 9000, 0)
    assert feedback.useless
    for _ in range(400):
        feedback.answered(10_000, 9000, 9000)
    assert not feedback.useless


# -- all together


# A run takes half a second; the same ones every time, as bounds on what chance does must not fail by chance.
@settings(max_examples=12, phases=[Phase.explicit, Phase.generate], derandomize=True)
@given(
    st.integers(0, 10**6),
    st.floats(0.5, 3.0),
    st.floats(1.3, 4.0),
    st.integers(1, 6),
    st.sampled_from([(1, 20), (3, 60), (8, 150)]),
)
def test_whatever_size_is_believed_the_index_comes_to_what_the_engine_holds_and_predictions_are_right(
    seed: int, believed: float, live: float, concurrency: int, shared: tuple[int, int]
) -> None:
    tokens = 48_000
    state = make_state()
    state.learn_kv_capacity(int(believed * tokens))
    served = Served(state, tokens, Random(seed), live, *shared, concurrency)
    served.serve(1000)
    reached = state.index.capacity * 64 / tokens
    possible = min(1.0, MOST_FACTOR * INDEX_SHARE * believed)
    assert 0.85 * possible <= reached <= 1.15
    last = served.turns[-250:]
    prompts = sum(turn.prompt for turn in last)
    assert sum(max(0, turn.predicted - turn.found) for turn in last) <= 0.08 * prompts, "phantom hits"
    if possible == 1.0:
        assert sum(max(0, turn.found - turn.predicted) for turn in last) <= 0.12 * prompts, "missed hits"
    assert not state.feedback.useless


@pytest.mark.parametrize("believed", [1.25, 3.0])
def test_counters_alone_shrink_an_index_that_is_too_large(believed: float) -> None:
    tokens = 48_000
    state = make_state()
    state.learn_kv_capacity(int(believed * tokens))
    served = Served(state, tokens, Random(1), reports=False, scrape_every=20)
    served.serve(1000)
    assert 0.8 <= state.index.capacity * 64 / tokens <= 1.15


def test_an_engine_that_caches_nothing_makes_the_index_as_small_as_it_gets_and_affinity_useless() -> None:
    state = make_state()
    state.learn_kv_capacity(48_000)
    served = Served(state, 0, Random(1), concurrency=1)
    served.serve(600)
    assert state.feedback.factor < 0.3
    assert state.feedback.useless
