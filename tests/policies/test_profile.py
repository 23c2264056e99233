"""A profile ranks what its filters leave, says why when they leave nothing, and explains without side effects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Decision
from policies.endpoint_state import EndpointState
from policies.filters import Available, BestRole, Seat
from policies.pickers import LowestCost
from policies.profile import Profile
from policies.registry import make_profile
from policies.scorers.in_flight import InFlight
from policies.scorers.predicted_ttft import PredictedTtft
from policies.types import Rejection, RejectReason, Role
from tests.policies.builders import PREFIX, load, make_fleet, make_request, make_state, rng


def prompt_aware() -> Profile:
    return make_profile("prompt-aware", rng())


def decide(profile: Profile, states: list[EndpointState], exclude: frozenset[str] = frozenset()) -> Decision:
    decision = profile.rank(make_request(prompt_tokens=2000), states, 0.0, exclude)
    assert isinstance(decision, Decision)
    return decision


def names(decision: Decision) -> list[str]:
    return [candidate.state.endpoint.name for candidate in decision.ranked]


@given(
    st.lists(st.tuples(st.sampled_from(Role), st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=8),
    st.frozensets(st.sampled_from([f"e{number}" for number in range(8)])),
    st.sampled_from(["prompt-aware", "least-outstanding", "least-in-flight", "round-robin", "random"]),
)
def test_a_request_only_ever_goes_to_an_available_untried_endpoint_with_a_seat(
    fleet: list[tuple[Role, bool, bool, int]], exclude: frozenset[str], name: str
) -> None:
    states = []
    for number, (role, healthy, sleeping, busy) in enumerate(fleet):
        state = make_state(f"e{number}", role=role, healthy=healthy, max_in_flight=2)
        state.sleeping = sleeping
        for _ in range(busy):
            load(state, 0.1)
        states.append(state)
    usable = [one for one in states if one.available(0.0) and one.endpoint.name not in exclude]
    decision = make_profile(name, rng()).rank(make_request(), states, 0.0, exclude)
    if isinstance(decision, Rejection):
        assert decision.reason is (RejectReason.POOL_BUSY if usable else RejectReason.NO_ENDPOINT)
        return
    best = min(list(Role).index(one.endpoint.role) for one in usable)
    expected = [one for one in usable if list(Role).index(one.endpoint.role) == best and not one.full]
    assert {one.state.endpoint.name for one in decision.ranked} == {one.endpoint.name for one in expected}


def test_the_endpoint_that_holds_the_prefix_wins_when_all_are_idle() -> None:
    states = make_fleet(4)
    states[2].index.touch(PREFIX)
    choice = decide(prompt_aware(), states).choice
    assert choice.state is states[2]
    assert choice.cached_tokens == 256


def test_affinity_gives_way_when_its_endpoint_is_busy() -> None:
    states = make_fleet(2)
    states[0].index.touch(PREFIX)
    load(states[0], 5.0)
    assert decide(prompt_aware(), states).choice.state is states[1]


def test_a_burst_of_one_prefix_spreads_as_every_dispatch_counts_at_once() -> None:
    states, profile = make_fleet(4), prompt_aware()
    chosen = set()
    for number in range(40):
        request = make_request(f"r{number}", prompt_tokens=32_000)
        decision = profile.rank(request, states, 0.0)
        assert isinstance(decision, Decision)
        choice = decision.choice
        choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, 0.0)
        chosen.add(choice.state.endpoint.name)
    assert len(chosen) == 4
    assert max(one.in_flight for one in states) - min(one.in_flight for one in states) <= 2


def test_without_sharing_all_idle_endpoints_tie_and_affinity_does_not_pile_up() -> None:
    states, profile = make_fleet(4), prompt_aware()
    for number in range(80):
        request = make_request(f"r{number}", blocks=(number * 10, number * 10 + 1))
        decision = profile.rank(request, states, 0.0)
        assert isinstance(decision, Decision)
        decision.choice.state.reserve(request, 0, decision.choice.own_seconds, 0.0)
    assert max(one.in_flight for one in states) - min(one.in_flight for one in states) <= 2


def test_failover_goes_to_the_next_hot_endpoint_and_then_to_the_warm_one() -> None:
    states = [make_state("hot-0"), make_state("hot-1"), make_state("warm", role=Role.WARM)]
    assert set(names(decide(prompt_aware(), states))) == {"hot-0", "hot-1"}
    assert names(decide(prompt_aware(), states, frozenset({"hot-0"}))) == ["hot-1"]
    assert names(decide(prompt_aware(), states, frozenset({"hot-0", "hot-1"}))) == ["warm"]


def test_hot_endpoints_that_are_merely_full_are_waited_for() -> None:
    states = [make_state("hot", max_in_flight=1), make_state("warm", role=Role.WARM)]
    load(states[0], 1.0)
    rejection = prompt_aware().rank(make_request(), states, 0.0)
    assert rejection == Rejection(RejectReason.POOL_BUSY, detail="seat")
    assert prompt_aware().blocked(states, 0.0) == rejection


@pytest.mark.parametrize("states", [[], [make_state(healthy=False)]])
def test_nothing_available_is_a_rejection_and_not_an_exception(states: list[EndpointState]) -> None:
    rejection = prompt_aware().rank(make_request(), states, 0.0)
    assert isinstance(rejection, Rejection)
    assert rejection.reason is RejectReason.NO_ENDPOINT


def test_a_fleet_with_room_is_not_blocked() -> None:
    assert prompt_aware().blocked(make_fleet(1), 0.0) is None


def test_costs_are_the_weighted_sum_of_the_scores() -> None:
    filters = (Available(), BestRole(), Seat())
    profile = Profile("mixed", filters, [(PredictedTtft(), 2.0), (InFlight(), 0.5)], LowestCost())
    states = make_fleet(2)
    load(states[0], 1.0)
    explained = profile.explain(make_request(), states, 0.0)
    for one in explained:
        scores = dict(one.candidate.scores)
        assert set(scores) == {"predicted-ttft", "in-flight"}
        assert one.candidate.cost == pytest.approx(2.0 * scores["predicted-ttft"] + 0.5 * scores["in-flight"])
    assert dict(explained[0].candidate.scores)["in-flight"] == 2


def test_the_hot_path_makes_no_score_tables() -> None:
    assert decide(prompt_aware(), make_fleet(2)).choice.scores == ()


def test_an_explanation_says_which_filter_refused_each_endpoint() -> None:
    states = [
        make_state("tried"),
        make_state("ill", healthy=False),
        make_state("warm", role=Role.WARM),
        make_state("full", max_in_flight=1),
        make_state("good"),
    ]
    load(states[3], 1.0)
    explained = prompt_aware().explain(make_request(), states, 0.0, frozenset({"tried"}))
    refused_by = {one.endpoint: [name for name, passed in one.verdicts if not passed] for one in explained}
    assert refused_by == {
        "tried": ["not-tried"],
        "ill": ["available"],
        "warm": ["best-role"],
        "full": ["seat"],
        "good": [],
    }
    assert [one.endpoint for one in explained if one.accepted] == ["good"]


def test_an_explanation_asks_later_filters_only_about_what_is_left() -> None:
    states = [make_state("ill", healthy=False), make_state("warm", role=Role.WARM)]
    explained = prompt_aware().explain(make_request(), states, 0.0)
    assert explained[0].verdicts == (("not-tried", True), ("available", False))
    assert explained[1].accepted


def test_explaining_takes_nobodys_turn() -> None:
    states = make_fleet(3)
    asked, unasked = make_profile("round-robin", rng()), make_profile("round-robin", rng())
    turns = []
    for _ in range(5):
        asked.explain(make_request(), states, 0.0)
        turns.append((names(decide(asked, states)), names(decide(unasked, states))))
    assert all(one == two for one, two in turns)
