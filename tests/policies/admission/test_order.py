"""The shortest goes first, tiers and lanes count, and age wins in the end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.admission.order import AGEING, BATCH_SECONDS, TIER_SECONDS, ShortestPrefillFirst
from policies.admission.queue import Queue
from policies.endpoint_state import EndpointState
from policies.filters import Available
from policies.types import InferenceRequest, Lane
from policies.view import View
from policies.waiting import Waiting
from tests.policies.builders import PREFIX, make_fleet, make_request, make_state

REQUESTS = st.builds(
    make_request,
    prompt_tokens=st.integers(1, 100_000),
    tier_priority=st.integers(0, 3),
    lane=st.sampled_from(Lane),
    arrived_at=st.floats(0.0, 1000.0),
)


def order(
    waiting: list[InferenceRequest], now: float = 0.0, states: list[EndpointState] | None = None, window: int = 64
) -> list[str]:
    fleet = make_fleet(2) if states is None else states
    queue = Queue(ShortestPrefillFirst())
    for request in waiting:
        queue.add(Waiting(request), fleet)
    usable = Available().keep(fleet, now)
    view = View(fleet, [column for column, state in enumerate(fleet) if state in usable], now)
    return [one.request.id for one in queue.next(view, window)]


@given(REQUESTS, REQUESTS, st.floats(0.0, 1000.0), st.floats(0.0, 30.0), st.floats(0.0, 30.0))
def test_a_key_that_never_changes_orders_as_the_formula_with_the_age_does(
    one: InferenceRequest, two: InferenceRequest, now: float, own_one: float, own_two: float
) -> None:
    def formula(request: InferenceRequest, own: float) -> float:
        behind = BATCH_SECONDS if request.lane is Lane.BATCH else 0.0
        return own + behind + TIER_SECONDS * request.tier_priority - AGEING * (now - request.arrived_at)

    standing = ShortestPrefillFirst().standing
    difference = formula(one, own_one) - formula(two, own_two)
    assert abs((standing(one) + own_one) - (standing(two) + own_two) - difference) < 1e-9


@given(st.integers(1, 75_000), st.integers(0, 3), st.sampled_from(Lane))
def test_any_request_comes_before_a_fresh_one_in_the_end(tokens: int, tier: int, lane: Lane) -> None:
    old = make_request("old", prompt_tokens=tokens, blocks=(), tier_priority=tier, lane=lane, arrived_at=0.0)
    now = 700.0  # (15 s of lane + 1.5 s of tier + 13 s of prefill) / 0.05
    fresh = make_request("fresh", prompt_tokens=1, blocks=(), arrived_at=now)
    assert order([fresh, old], now) == ["old", "fresh"]


def test_a_shorter_prompt_goes_before_a_longer_one_that_came_earlier() -> None:
    long = make_request("long", prompt_tokens=30_000, blocks=(), arrived_at=0.0)
    short = make_request("short", prompt_tokens=300, blocks=(), arrived_at=5.0)
    assert order([long, short], 5.0) == ["short", "long"]


def test_a_cached_prompt_counts_by_what_is_left_of_it() -> None:
    states = make_fleet(2)
    states[1].index.touch(PREFIX)
    cached = make_request("cached", prompt_tokens=300)
    new = make_request("new", prompt_tokens=200, blocks=())
    assert order([new, cached], states=states) == ["cached", "new"]


def test_a_prefix_held_by_an_endpoint_that_is_down_does_not_count() -> None:
    down = make_state("down", healthy=False)
    down.index.touch(PREFIX)
    cached = make_request("cached", prompt_tokens=300)
    new = make_request("new", prompt_tokens=200, blocks=())
    assert order([new, cached], states=[down, make_state("up")]) == ["new", "cached"]


def test_the_batch_lane_stands_behind_even_the_longest_usual_prompt() -> None:
    batch = make_request("batch", prompt_tokens=1, lane=Lane.BATCH, blocks=())
    long = make_request("long", prompt_tokens=75_000, lane=Lane.LONG, blocks=())
    assert order([batch, long]) == ["long", "batch"]


def test_a_batch_request_is_level_with_a_fresh_one_before_sdks_give_up() -> None:
    assert BATCH_SECONDS / 0.05 < 600


def test_a_better_tier_goes_first_among_prompts_of_like_size() -> None:
    silver = make_request("silver", tier_priority=2, prompt_tokens=1000, blocks=())
    platinum = make_request("platinum", tier_priority=0, prompt_tokens=3000, blocks=())
    assert order([silver, platinum]) == ["platinum", "silver"]


def test_a_worse_tier_catches_up_by_waiting() -> None:
    silver = make_request("silver", tier_priority=1, blocks=(), arrived_at=0.0)
    now = TIER_SECONDS / 0.05 + 1
    gold = make_request("gold", tier_priority=0, blocks=(), arrived_at=now)
    assert order([gold, silver], now) == ["silver", "gold"]


def test_equals_keep_the_order_in_which_they_were_given() -> None:
    waiting = [make_request(f"r{number}", blocks=()) for number in range(5)]
    assert order(waiting) == ["r0", "r1", "r2", "r3", "r4"]


def test_a_long_batch_queue_does_not_hide_interactive_requests_from_the_window() -> None:
    batch = [make_request(f"b{number}", lane=Lane.BATCH, blocks=()) for number in range(100)]
    late = make_request("late", blocks=(), arrived_at=10.0)
    first = order([*batch, late], 10.0, window=64)
    assert first[0] == "late"
    assert len(first) == 64


def test_an_order_without_endpoints_falls_back_to_age() -> None:
    one = make_request("one", arrived_at=2.0)
    two = make_request("two", arrived_at=1.0)
    assert order([one, two], 3.0, states=[]) == ["two", "one"]


def test_the_weights_of_age_tier_and_batch_can_be_set() -> None:
    request = make_request(tier_priority=2, lane=Lane.BATCH, arrived_at=10.0)
    assert ShortestPrefillFirst(ageing=0.5, tier_seconds=3.0, batch_seconds=7.0).standing(request) == 7.0 + 6.0 + 5.0
