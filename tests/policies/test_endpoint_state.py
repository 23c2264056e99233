"""What a dispatch charges leaves with it exactly once: no counter leaks, none goes below zero."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.cost import Rates
from policies.endpoint_state import EndpointState
from policies.reservation import Reservation
from policies.types import InferenceRequest, Outcome
from tests.policies.builders import PREFIX, chain_of, learn_rates, make_request, make_state

# Per step: what to do, to which of the requests so far, and the size of a new one.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "first_token", "release"]),
        st.integers(0, 30),
        st.integers(0, 100_000),
        st.floats(0.0, 1e6),
    ),
    max_size=60,
)
SUMS = ("pending_prefill_seconds", "outstanding_tokens", "context_tokens", "decode_tokens", "kv_tokens")

# Prompts of a tree, so that they share beginnings, with a last piece shorter than a block.
PROMPTS = st.tuples(st.lists(st.integers(0, 1), max_size=6), st.integers(0, 63), st.integers(0, 2000))
KV_STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "first_token", "release"]), st.integers(0, 30), PROMPTS), max_size=40
)


def prompt(path: list[int], rest: int, output: int, size: float = 64.0) -> InferenceRequest:
    tokens = int(len(path) * size) + rest
    return make_request(prompt_tokens=tokens, max_output_tokens=output, blocks=chain_of(path), tokens_per_block=size)


def check_bounds(state: EndpointState) -> None:
    assert 0 <= state.pending_prefills <= state.in_flight
    for name in SUMS:
        assert getattr(state, name) >= 0.0
    if not state.pending_prefills:
        assert state.pending_prefill_seconds == 0.0
    if not state.in_flight:
        assert all(getattr(state, name) == 0.0 for name in SUMS)


def run(state: EndpointState, steps: list[tuple[str, int, int, float]]) -> list[Reservation]:
    reservations: list[Reservation] = []
    for now, (action, which, tokens, seconds) in enumerate(steps):
        if action == "reserve":
            request = make_request(prompt_tokens=tokens, max_output_tokens=tokens % 777)
            reservations.append(state.reserve(request, tokens // 3, seconds, float(now)))
        elif reservations:
            getattr(reservations[which % len(reservations)], action)(float(now))
        check_bounds(state)
    return reservations


@given(STEPS)
def test_sums_are_never_negative_and_all_return_to_exactly_zero(steps: list[tuple[str, int, int, float]]) -> None:
    state = make_state()
    for reservation in run(state, steps):
        reservation.release(100.0)
        check_bounds(state)
    assert state.in_flight == state.pending_prefills == 0


@given(STEPS)
def test_repeated_calls_change_nothing(steps: list[tuple[str, int, int, float]]) -> None:
    once, twice = make_state(), make_state()
    run(once, steps)
    reservations: list[Reservation] = []
    for now, (action, which, tokens, seconds) in enumerate(steps):
        if action == "reserve":
            request = make_request(prompt_tokens=tokens, max_output_tokens=tokens % 777)
            reservations.append(twice.reserve(request, tokens // 3, seconds, float(now)))
        elif reservations:
            for _ in range(3):
                getattr(reservations[which % len(reservations)], action)(float(now))
    assert [getattr(once, name) for name in SUMS] == [getattr(twice, name) for name in SUMS]
    assert (once.in_flight, once.pending_prefills) == (twice.in_flight, twice.pending_prefills)


@given(KV_STEPS, st.sampled_from([2, 4, 100]))
def test_kv_tokens_are_the_distinct_blocks_in_flight_and_the_rest_of_each_request(
    steps: list[tuple[str, int, tuple[list[int], int, int]]], capacity: int
) -> None:
    state = make_state()
    state.index.resize(capacity)
    live: list[Reservation] = []
    for now, (action, which, drawn) in enumerate(steps):
        if action == "reserve":
            request = prompt(*drawn)
            before, added = state.kv_tokens, state.added_kv(request)
            live.append(state.reserve(request, 0, 0.1, float(now)))
            assert state.kv_tokens == before + added, "what the gate reckoned with"
        elif live and action == "first_token":
            live[which % len(live)].first_token(float(now))
        elif live:
            live.pop(which % len(live)).release(float(now))
        heads = [one.request.prefix_blocks[:capacity] for one in live]  # what is beyond is nobody's to share
        rest = sum(
            one.request.prompt_tokens - 64 * len(head) + one.output_tokens
            for one, head in zip(live, heads, strict=True)
        )
        assert state.kv_tokens == rest + 64 * len({block for head in heads for block in head})


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["reserve", "reserve", "first_token", "release", "clear", "resize", "restart"]),
            st.integers(0, 30),
            PROMPTS,
            st.floats(10.0, 100.0),
        ),
        max_size=40,
    )
)
def test_kv_tokens_are_never_negative_and_nothing_when_idle_whatever_becomes_of_index_and_calibration(
    steps: list[tuple[str, int, tuple[list[int], int, int], float]],
) -> None:
    state = make_state()
    reservations: list[Reservation] = []
    for now, (action, which, drawn, size) in enumerate(steps):
        if action == "reserve":
            reservations.append(state.reserve(prompt(*drawn, size=size), 0, 0.1, float(now)))
        elif action == "clear":
            state.index.clear()
        elif action == "restart":
            state.restarted()
        elif action == "resize":
            state.index.resize(which)
        elif reservations:
            getattr(reservations[which % len(reservations)], action)(float(now))
        check_bounds(state)
    for reservation in reservations:
        reservation.release(100.0)
        check_bounds(state)
    assert (state.in_flight, state.kv_tokens, state.index.held) == (0, 0.0, 0)


def test_the_version_changes_with_the_index_and_with_the_rates() -> None:
    state = make_state()
    versions = [state.index.version]
    state.index.touch(PREFIX)
    versions.append(state.index.version)
    learn_rates(state, Rates(prefill=1e-3))
    versions.append(state.index.version)
    state.reserve(make_request(), 0, 0.1, now=0.0).release(1.0)
    versions.append(state.index.version)
    assert len(set(versions)) == 4
    assert state.rates == Rates(prefill=1e-3)


def test_a_request_that_ends_before_its_first_token_leaves_no_affinity_and_one_that_began_to_answer_does() -> None:
    state = make_state()
    state.reserve(make_request(), 0, 0.1, now=0.0).release(1.0)
    assert state.index.match(PREFIX) == 0
    answered = state.reserve(make_request(), 0, 0.1, now=0.0)
    answered.first_token(1.0)
    answered.release(2.0)
    assert state.index.match(PREFIX) == 4


def test_a_dispatch_is_seen_at_once_in_load_and_affinity() -> None:
    state = make_state()
    state.reserve(make_request(prompt_tokens=256, max_output_tokens=100), 64, 0.5, now=3.0)
    assert (state.in_flight, state.pending_prefills, state.pending_prefill_seconds) == (1, 1, 0.5)
    assert state.outstanding_tokens == 192 + 100
    assert state.context_tokens == 256
    assert state.index.match(PREFIX) == 4


def test_a_first_token_ends_the_prefill_and_begins_the_decode() -> None:
    state = make_state()
    state.reserve(make_request(prompt_tokens=256, max_output_tokens=100), 64, 0.5, now=3.0).first_token(4.0)
    assert (state.in_flight, state.pending_prefills, state.pending_prefill_seconds) == (1, 0, 0.0)
    assert state.outstanding_tokens == 100
    assert state.context_tokens == state.decode_tokens == 306
    assert state.last_first_token_at == 4.0


def test_a_first_token_after_the_release_is_ignored() -> None:
    state = make_state()
    reservation = state.reserve(make_request(), 0, 0.5, now=0.0)
    reservation.release(1.0)
    reservation.first_token(2.0)
    check_bounds(state)
    assert state.last_first_token_at is None


def test_a_wrong_belief_of_more_cached_tokens_than_the_prompt_has_charges_nothing_negative() -> None:
    state = make_state()
    state.reserve(make_request(prompt_tokens=10, max_output_tokens=5), 64, 0.1, now=0.0)
    assert state.outstanding_tokens == 5


def test_an_endpoint_is_full_at_its_configured_number() -> None:
    state = make_state(max_in_flight=1)
    reservation = state.reserve(make_request(), 0, 0.1, now=0.0)
    assert state.full
    reservation.release(1.0)
    assert not state.full


def test_available_means_healthy_awake_and_not_draining() -> None:
    state = make_state()
    assert state.available(0.0)
    state.sleeping = True
    assert not state.available(0.0)
    state.sleeping, state.draining = False, True
    assert not state.available(0.0)
    assert not make_state(healthy=False).available(0.0)


def test_a_dispatch_to_a_half_open_circuit_is_its_one_trial() -> None:
    state = make_state()
    for _ in range(3):
        state.health.record(Outcome(status=503), 0.0)
    assert state.available(1.0)
    state.reserve(make_request(), 0, 0.1, now=1.0)
    assert not state.available(1.0)


def test_a_prefill_believed_to_be_done_is_no_proof_of_health() -> None:
    state = make_state()
    for _ in range(3):
        state.health.record(Outcome(status=503), 0.0)
    state.reserve(make_request(), 0, 0.1, now=1.0).first_token(1.5)
    assert not state.available(1.5)


def test_the_index_is_bounded_below_the_cache_of_the_engine() -> None:
    state = make_state()
    unknown = state.index.capacity
    state.learn_kv_capacity(64_000, tokens_per_block=64.0)
    assert state.kv_capacity_tokens == 64_000
    assert unknown < state.index.capacity < 1000
    state.learn_kv_capacity(64_000, tokens_per_block=64.0, share=0.5)
    assert state.index.capacity == 500


def test_of_a_configured_and_a_learned_capacity_the_smaller_counts() -> None:
    state = make_state(kv_capacity_tokens=10_000)
    assert state.kv_capacity_tokens == 10_000
    state.learn_kv_capacity(400_000)
    assert state.kv_capacity_tokens == 10_000
    state.learn_kv_capacity(5_000)
    assert state.kv_capacity_tokens == 5_000


def test_a_weight_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="weight must be above 0"):
        make_state(weight=0.0)
