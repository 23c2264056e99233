"""How full a pool is, what each lane may use of it, and who may begin to wait."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.saturation import DEFAULT_POLICIES, Door, LaneGate, LanePolicy, pool_load
from policies.endpoint_state import EndpointState, Reservation
from policies.gate import WAIT_SECONDS
from policies.types import Lane, Role
from tests.policies.builders import load, make_request, make_state

SHARES = st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted)
BATCH = DEFAULT_POLICIES[Lane.BATCH]


def decode(state: EndpointState, tokens: int, now: float = 0.0) -> Reservation:
    """A request of `tokens` in flight that decodes; 1 s later nothing is pending."""
    reservation = state.reserve(make_request(prompt_tokens=tokens, max_output_tokens=0, blocks=()), 0, 0.01, now)
    reservation.first_token(now)
    return reservation


# -- one number


def test_an_idle_pool_is_0_and_one_without_endpoints_1() -> None:
    assert pool_load([make_state("a"), make_state("b")], 0.0).saturation == 0.0
    assert pool_load([], 0.0).saturation == 1.0
    assert pool_load([make_state(healthy=False)], 0.0).saturation == 1.0


def test_the_largest_of_wait_kv_and_seats_counts_and_the_mean_over_endpoints() -> None:
    waits, kv, seats, idle = (
        make_state("waits", kv_capacity_tokens=100_000),
        make_state("kv", kv_capacity_tokens=1000),
        make_state("seats", max_in_flight=4),
        make_state("idle"),
    )
    load(waits, WAIT_SECONDS / 2)
    decode(kv, 800)
    decode(seats, 10)
    assert pool_load([waits], 0.0).saturation == pytest.approx(0.5)
    assert pool_load([kv], 0.0).saturation == pytest.approx(0.8)
    assert pool_load([seats], 0.0).saturation == pytest.approx(0.25)
    assert pool_load([waits, kv, seats, idle], 0.0).saturation == pytest.approx((0.5 + 0.8 + 0.25) / 4)


def test_one_long_prefill_does_not_make_a_pool_full() -> None:
    states = [make_state(f"e{number}") for number in range(8)]
    load(states[0], 13.0, tokens=75_000)
    assert pool_load(states, 0.0).saturation == pytest.approx(1 / 8)


def test_standbys_that_are_not_needed_are_no_room() -> None:
    hot, warm = make_state("hot", max_in_flight=1), make_state("warm", role=Role.WARM)
    decode(hot, 10)
    assert pool_load([hot, warm], 0.0).saturation == 1.0


def test_the_capacity_is_known_when_every_endpoints_is() -> None:
    known, unknown = make_state("a", kv_capacity_tokens=1000, max_in_flight=3), make_state("b", max_in_flight=4)
    assert pool_load([known], 0.0)[1:] == (1000, 3)
    assert pool_load([known, unknown], 0.0)[1:] == (None, 7)


# -- a lane's share


@given(st.floats(0.01, 2.0), SHARES, st.lists(st.floats(0.0, 3.0), min_size=2, max_size=20))
def test_the_share_falls_gradually_from_max_to_min_on_the_way_to_the_ceiling(
    ceiling: float, shares: list[float], saturations: list[float]
) -> None:
    least, most = shares
    policy = LanePolicy(ceiling, least, most)
    seen = [policy.share(saturation) for saturation in sorted(saturations)]
    assert all(first >= second for first, second in pairwise(seen))
    assert all(least - 1e-9 <= share <= most for share in seen)
    assert policy.share(0.0) == most
    assert policy.share(ceiling) == pytest.approx(least)
    assert policy.share(ceiling * 0.74) - policy.share(ceiling * 0.76) <= 0.05, "no cliff"


def test_without_a_ceiling_nothing_falls() -> None:
    assert LanePolicy(max_share=0.5).share(5.0) == 0.5
    assert not LanePolicy().limits


@pytest.mark.parametrize("values", [(0.0, 0.0, 1.0), (0.7, 0.5, 0.4), (0.7, -0.1, 1.0), (0.7, 0.0, 1.1)])
def test_a_policy_that_makes_no_sense_is_refused(values: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="min_share <= max_share"):
        LanePolicy(*values)


# -- the gate


def test_interactive_lanes_are_never_held_back() -> None:
    gate, state = LaneGate(), make_state(max_in_flight=1)
    decode(state, 10)
    gate.begin([state], 0.0)
    assert gate.allows(Lane.SHORT, 10**9)
    assert gate.allows(Lane.LONG, 10**9)


def send_batch(gate: LaneGate, state: EndpointState, tokens: int) -> Reservation | None:
    if not gate.allows(Lane.BATCH, tokens):
        return None
    gate.sent(Lane.BATCH, tokens)
    return decode(state, tokens)


def test_a_burst_of_batch_sees_itself_within_a_pass_and_leaves_room() -> None:
    gate, state = LaneGate(), make_state(kv_capacity_tokens=100_000)
    gate.begin([state], 0.0)
    while send_batch(gate, state, 1000) is not None:
        pass
    assert BATCH.ceiling / 2 < gate.load.saturation < BATCH.ceiling


def test_above_the_ceiling_batch_has_its_minimum_and_one_request_of_any_size() -> None:
    gate, state = LaneGate(), make_state(kv_capacity_tokens=100_000)
    decode(state, 90_000)
    gate.begin([state], 0.0)
    assert gate.allows(Lane.BATCH, 50_000)
    gate.sent(Lane.BATCH, 1000)
    assert gate.allows(Lane.BATCH, 1000)
    gate.sent(Lane.BATCH, 1000)
    assert not gate.allows(Lane.BATCH, 1)
    gate.ended(Lane.BATCH, 1000)
    assert gate.allows(Lane.BATCH, 1000)


def test_a_lane_without_a_minimum_stops_above_its_ceiling() -> None:
    gate, state = LaneGate({Lane.BATCH: LanePolicy(0.7, 0.0, 0.8)}), make_state(max_in_flight=1)
    decode(state, 10)
    gate.begin([state], 0.0)
    assert not gate.allows(Lane.BATCH, 1)


def test_seats_count_where_the_capacity_is_unknown() -> None:
    gate, state = LaneGate({Lane.BATCH: LanePolicy(inf, 0.0, 0.5)}), make_state(max_in_flight=4)
    gate.begin([state], 0.0)
    sent = 0
    while send_batch(gate, state, 10**6) is not None:
        sent += 1
    assert sent == 2


def test_an_interactive_lane_may_be_limited_too() -> None:
    gate, state = LaneGate({Lane.LONG: LanePolicy(max_share=0.5)}), make_state(kv_capacity_tokens=1000)
    gate.begin([state], 0.0)
    gate.sent(Lane.LONG, 400)
    assert gate.allows(Lane.LONG, 100)
    assert not gate.allows(Lane.LONG, 101)
    assert gate.allows(Lane.BATCH, 101)


@given(
    st.builds(LanePolicy, ceiling=st.floats(0.1, 1.0), min_share=st.floats(0.001, 0.1), max_share=st.floats(0.1, 1.0)),
    st.lists(st.tuples(st.sampled_from(["interactive", "batch", "end"]), st.integers(1, 3000)), max_size=60),
)
def test_batch_holds_no_more_than_its_share_unless_it_is_one_request_and_can_always_hold_one(
    policy: LanePolicy, steps: list[tuple[str, int]]
) -> None:
    gate, state = LaneGate({Lane.BATCH: policy}), make_state(kv_capacity_tokens=10_000, max_in_flight=40)
    flying: list[tuple[Reservation, int]] = []
    for what, tokens in steps:
        gate.begin([state], 0.0)
        if what == "interactive":
            decode(state, tokens)
        elif what == "end" and flying:
            reservation, size = flying.pop(0)
            reservation.release(0.0)
            gate.ended(Lane.BATCH, size)
        elif (sent := send_batch(gate, state, tokens)) is not None:
            flying.append((sent, tokens))
        assert gate.requests[Lane.BATCH] == len(flying)
        assert gate.tokens[Lane.BATCH] == sum(size for _, size in flying)
        assert len(flying) <= 1 or gate.tokens[Lane.BATCH] <= policy.max_share * 10_000
        assert flying or gate.allows(Lane.BATCH, tokens)


# -- the door


def test_each_lane_has_a_queue_of_its_own() -> None:
    door = Door({Lane.SHORT: 10, Lane.LONG: 10, Lane.BATCH: 20})
    assert not door.admits(Lane.SHORT, {Lane.SHORT: 10})
    assert door.admits(Lane.SHORT, {Lane.LONG: 10, Lane.BATCH: 20})
    assert door.admits(Lane.LONG, {Lane.SHORT: 9, Lane.BATCH: 20})
    assert not door.admits(Lane.BATCH, {Lane.BATCH: 20})
    assert door.admits(Lane.BATCH, {Lane.BATCH: 19})


@pytest.mark.parametrize("lane", [Lane.SHORT, Lane.LONG])
def test_batch_is_refused_first_when_an_interactive_queue_is_nearly_full(lane: Lane) -> None:
    door = Door({Lane.SHORT: 10, Lane.LONG: 10, Lane.BATCH: 20})
    assert door.admits(Lane.BATCH, {lane: 8})
    assert not door.admits(Lane.BATCH, {lane: 9})
    assert door.admits(lane, {lane: 9})


def test_long_requests_are_refused_before_short_ones_and_after_batch() -> None:
    door = Door({Lane.SHORT: 100, Lane.LONG: 100, Lane.BATCH: 100})
    admitted = [[door.admits(lane, {Lane.SHORT: waiting}) for lane in Lane] for waiting in (89, 90, 95, 100)]
    assert admitted == [[True, True, True], [True, True, False], [True, False, False], [False, False, False]]


def test_a_queue_for_one_takes_one_and_batch_too_while_it_is_empty() -> None:
    door = Door({Lane.SHORT: 1, Lane.LONG: 1, Lane.BATCH: 1})
    assert door.admits(Lane.SHORT, {})
    assert door.admits(Lane.BATCH, {})
    assert not door.admits(Lane.BATCH, {Lane.SHORT: 1})
