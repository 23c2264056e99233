"""A profile places a request among what its filters leave, holds it back, says why, and explains without effects."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Decision
from policies.endpoint_state import EndpointState
from policies.filters import Available, BestRole, Seat
from policies.gate import Gate
from policies.pickers import LowestCost, RoundRobin
from policies.profile import RANKED, Profile
from policies.registry import PROFILES, make_profile
from policies.scorers.in_flight import InFlight
from policies.scorers.predicted_ttft import PredictedTtft
from policies.types import InferenceRequest, Rejection, RejectReason, Role
from policies.view import View
from policies.waiting import Waiting
from tests.policies.builders import PREFIX, load, make_fleet, make_request, make_state, rng, ttfts

AT_ONCE = "prompt-aware-at-once"


def prompt_aware() -> Profile:
    return make_profile("prompt-aware", rng())


def looked(profile: Profile, states: list[EndpointState], exclude: frozenset[str] = frozenset()) -> View:
    view = profile.look(states, 0.0, exclude)
    assert isinstance(view, View)
    return view


def decide(
    profile: Profile,
    states: list[EndpointState],
    exclude: frozenset[str] = frozenset(),
    request: InferenceRequest | None = None,
) -> Decision:
    asked = make_request(prompt_tokens=2000) if request is None else request
    decision = profile.place(Waiting(asked, exclude), looked(profile, states, exclude))
    assert isinstance(decision, Decision)
    return decision


def send(profile: Profile, states: list[EndpointState], request: InferenceRequest) -> EndpointState:
    choice = decide(profile, states, request=request).choice
    choice.state.reserve(request, choice.cached_tokens, choice.own_seconds, 0.0)
    return choice.state


def names(decision: Decision) -> list[str]:
    return [candidate.state.endpoint.name for candidate in decision.ranked]


@given(
    st.lists(st.tuples(st.sampled_from(Role), st.booleans(), st.booleans(), st.integers(0, 2)), min_size=1, max_size=8),
    st.frozensets(st.sampled_from([f"e{number}" for number in range(8)])),
    st.sampled_from(sorted(PROFILES)),
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
    view = make_profile(name, rng()).look(states, 0.0, exclude)
    if isinstance(view, Rejection):
        assert view.reason is (RejectReason.POOL_BUSY if usable else RejectReason.NO_ENDPOINT)
        return
    best = min(list(Role).index(one.endpoint.role) for one in usable)
    expected = [one for one in usable if list(Role).index(one.endpoint.role) == best and not one.full]
    assert [states[column] for column in view.open] == expected
    decision = make_profile(name, rng()).place(Waiting(make_request(), exclude), view)
    if decision is not None:
        named = {id(one.state) for one in decision.ranked}
        assert named <= {id(one) for one in expected}
        assert len(named) == len(decision.ranked) == min(len(expected), RANKED)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 4), st.booleans()), min_size=1, max_size=8))
def test_a_decision_names_the_choice_and_then_the_cheapest_of_the_open_endpoints(
    fleet: list[tuple[float, int, bool]],
) -> None:
    states = [make_state(f"e{number}", healthy=healthy) for number, (_, _, healthy) in enumerate(fleet)]
    for state, (pending, touched, _) in zip(states, fleet, strict=True):
        state.index.touch(PREFIX[:touched])
        load(state, pending)
    profile = make_profile(AT_ONCE, rng())
    view = profile.look(states, 0.0)
    if isinstance(view, Rejection):
        return
    decision = profile.place(Waiting(make_request()), view)
    assert decision is not None
    assert decision.choice.state is states[decision.column]
    assert len({id(one.state) for one in decision.ranked}) == min(len(view.open), RANKED)
    others = [one.cost for one in decision.ranked[1:]]
    explained = profile.explain(Waiting(make_request()), states, 0.0)
    rest = sorted(explained[column].candidate.cost for column in view.open if column != decision.column)
    assert others == pytest.approx(rest[: RANKED - 1])
    assert all(decision.choice.cost <= cost + 0.001 for cost in others)
    for one in decision.ranked:
        column = states.index(one.state)
        waiting = Waiting(make_request())
        view.refresh(waiting)
        assert (one.cached_tokens, one.own_seconds) == (waiting.cached[column], waiting.own[column])
        assert [one.ttft_seconds] == ttfts(view, waiting, [column])


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


def test_a_request_is_held_back_where_its_best_endpoint_has_enough_to_do_and_the_view_sees_it() -> None:
    states, profile = make_fleet(2), prompt_aware()
    for state in states:
        load(state, 5.0)
    states[1].index.touch(PREFIX)
    waiting, view = Waiting(make_request(prompt_tokens=2000)), looked(profile, states)
    assert profile.shut(view)
    assert profile.place(waiting, view) is None
    assert view.planned == [5.0, 5.0 + waiting.own[1]]
    assert view.waits == [5.0, 5.0]


def test_a_request_is_not_sent_to_a_worse_endpoint_only_because_the_gate_of_its_best_is_shut() -> None:
    """Waiting 0.5 s for the cached prefix is predicted to be faster than computing it elsewhere."""
    states, profile = make_fleet(2), prompt_aware()
    chain = tuple(range(400))
    states[0].index.touch(chain)
    load(states[0], 0.5)
    request = make_request(prompt_tokens=25_600, blocks=chain)
    view = looked(profile, states)
    assert profile.place(Waiting(request), view) is None
    assert view.planned[0] > 0.5
    assert view.planned[1] == 0.0


def test_the_same_profile_without_a_gate_sends_at_once_by_the_plain_time_to_first_token() -> None:
    states, profile = make_fleet(2), make_profile(AT_ONCE, rng())
    load(states[0], 5.0)
    load(states[1], 7.0)
    assert not profile.shut(looked(profile, states))
    choice = decide(profile, states).choice
    assert choice.state is states[0]
    assert choice.cost == pytest.approx(choice.ttft_seconds)


def test_a_request_held_back_takes_nobodys_turn() -> None:
    states, profile = make_fleet(1), Profile("turns", (), [], RoundRobin(), Gate())
    load(states[0], 5.0)
    assert profile.place(Waiting(make_request()), looked(profile, states)) is None
    assert isinstance(profile._picker, RoundRobin)
    assert profile._picker._credits == {}


def test_nothing_is_placed_in_a_view_without_an_open_endpoint() -> None:
    states, profile = [make_state(max_in_flight=1)], prompt_aware()
    view = looked(profile, states)
    load(states[0], 0.1)
    view.sent(0)
    assert profile.shut(view)
    assert profile.place(Waiting(make_request()), view) is None


def test_a_burst_of_one_prefix_spreads_as_every_dispatch_counts_at_once() -> None:
    states, profile = make_fleet(4), make_profile(AT_ONCE, rng())
    chosen = {send(profile, states, make_request(f"r{n}", prompt_tokens=32_000)).endpoint.name for n in range(40)}
    assert len(chosen) == 4
    assert max(one.in_flight for one in states) - min(one.in_flight for one in states) <= 2


@pytest.mark.parametrize(("name", "count"), [("prompt-aware", 16), (AT_ONCE, 80)])
def test_without_sharing_all_idle_endpoints_tie_and_affinity_does_not_pile_up(name: str, count: int) -> None:
    states, profile = make_fleet(4), make_profile(name, rng())
    for number in range(count):
        send(profile, states, make_request(f"r{number}", blocks=(number * 10, number * 10 + 1)))
    assert max(one.in_flight for one in states) - min(one.in_flight for one in states) <= 2


def test_failover_goes_to_the_next_hot_endpoint_and_then_to_the_warm_one() -> None:
    states = [make_state("hot-0"), make_state("hot-1"), make_state("warm", role=Role.WARM)]
    assert set(names(decide(prompt_aware(), states))) == {"hot-0", "hot-1"}
    assert names(decide(prompt_aware(), states, frozenset({"hot-0"}))) == ["hot-1"]
    assert names(decide(prompt_aware(), states, frozenset({"hot-0", "hot-1"}))) == ["warm"]


def test_hot_endpoints_that_are_merely_full_are_waited_for() -> None:
    states = [make_state("hot", max_in_flight=1), make_state("warm", role=Role.WARM)]
    load(states[0], 1.0)
    assert prompt_aware().look(states, 0.0) == Rejection(RejectReason.POOL_BUSY, detail="seat")


def test_hot_endpoints_whose_gate_is_shut_are_waited_for() -> None:
    states = [make_state("hot"), make_state("warm", role=Role.WARM)]
    load(states[0], 1.0)
    view = looked(prompt_aware(), states)
    assert view.open == [0]
    assert prompt_aware().shut(view)


@pytest.mark.parametrize("states", [[], [make_state(healthy=False)]])
def test_nothing_available_is_a_rejection_and_not_an_exception(states: list[EndpointState]) -> None:
    rejection = prompt_aware().look(states, 0.0)
    assert isinstance(rejection, Rejection)
    assert rejection.reason is RejectReason.NO_ENDPOINT


def test_a_fleet_with_room_is_not_shut() -> None:
    assert not prompt_aware().shut(looked(prompt_aware(), make_fleet(1)))


def test_costs_are_the_weighted_sum_of_the_scores() -> None:
    filters = (Available(), BestRole(), Seat())
    profile = Profile("mixed", filters, [(PredictedTtft(), 2.0), (InFlight(), 0.5)], LowestCost())
    states = make_fleet(2)
    load(states[0], 1.0)
    explained = profile.explain(Waiting(make_request()), states, 0.0)
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
    explained = prompt_aware().explain(Waiting(make_request(), frozenset({"tried"})), states, 0.0)
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
    explained = prompt_aware().explain(Waiting(make_request()), states, 0.0)
    assert explained[0].verdicts == (("not-tried", True), ("available", False))
    assert explained[1].accepted


def test_explaining_takes_nobodys_turn() -> None:
    states = make_fleet(3)
    asked, unasked = make_profile("round-robin", rng()), make_profile("round-robin", rng())
    turns = []
    for _ in range(5):
        asked.explain(Waiting(make_request()), states, 0.0)
        turns.append((names(decide(asked, states)), names(decide(unasked, states))))
    assert all(one == two for one, two in turns)


def test_an_explanation_says_whether_the_gate_would_send_at_once() -> None:
    states = make_fleet(2)
    load(states[0], 5.0)
    held = prompt_aware().explain(Waiting(make_request()), states, 0.0)
    assert [(one.accepted, one.at_once) for one in held] == [(True, False), (True, True)]
    without = make_profile(AT_ONCE, rng()).explain(Waiting(make_request()), states, 0.0)
    assert all(one.at_once for one in without)


def test_an_explanation_agrees_with_the_decision() -> None:
    states = make_fleet(3)
    states[1].index.touch(PREFIX)
    load(states[2], 0.2)
    explained = {one.endpoint: one.candidate for one in prompt_aware().explain(Waiting(make_request()), states, 0.0)}
    for one in decide(prompt_aware(), states, request=make_request()).ranked:
        assert explained[one.state.endpoint.name]._replace(scores=()) == one
