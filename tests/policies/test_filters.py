"""Each filter removes exactly what its name says and keeps the order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint_state import EndpointState
from policies.filters import USUAL, Available, BestRole, NotTried, Seat, usual_columns
from policies.pickers import LowestCost
from policies.profile import Profile
from policies.types import Role
from policies.view import View
from tests.policies.builders import load, make_fleet, make_state


def names(states: object) -> list[str]:
    assert isinstance(states, list | tuple)
    return [state.endpoint.name for state in states]


def roles(*given: Role) -> list[EndpointState]:
    return [make_state(f"{role}-{number}", role=role) for number, role in enumerate(given)]


def test_available_keeps_healthy_awake_and_not_draining_endpoints() -> None:
    fleet = [*make_fleet(3), make_state("ill", healthy=False), make_state("well")]
    fleet[0].sleeping = True
    fleet[1].draining = True
    assert names(Available().keep(fleet, 0.0)) == ["e2", "well"]


def test_not_tried_removes_the_named_endpoints() -> None:
    assert names(NotTried(frozenset({"e1", "unheard-of"})).keep(make_fleet(3), 0.0)) == ["e0", "e2"]


def test_best_role_prefers_hot_then_warm_then_cold() -> None:
    keep = BestRole().keep
    assert names(keep(roles(Role.COLD, Role.HOT, Role.WARM, Role.HOT), 0.0)) == ["hot-1", "hot-3"]
    assert names(keep(roles(Role.COLD, Role.WARM), 0.0)) == ["warm-1"]
    assert names(keep(roles(Role.COLD), 0.0)) == ["cold-0"]
    assert names(keep([], 0.0)) == []


def test_best_role_follows_the_ranks_that_a_standbys_level_gives() -> None:
    hot, warm, cold = fleet = roles(Role.HOT, Role.WARM, Role.COLD)
    hot.rank, warm.rank = 1, 0
    assert names(BestRole().keep(fleet, 0.0)) == ["warm-1"]
    assert names(BestRole().keep([hot, cold], 0.0)) == ["hot-0"], "better than nobody"
    hot.rank = 0
    assert names(BestRole().keep(fleet, 0.0)) == ["hot-0", "warm-1"]


def test_seat_removes_full_endpoints() -> None:
    fleet = make_fleet(2, max_in_flight=1)
    load(fleet[0], 0.1)
    assert names(Seat().keep(fleet, 0.0)) == ["e1"]


ENDPOINTS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(Role),
            "healthy": st.booleans(),
            "sleeping": st.booleans(),
            "in_flight": st.integers(0, 2),
            "starting": st.integers(0, 4).map(lambda one: not one),
        }
    ),
    max_size=5,
)


def made(role: Role, *, healthy: bool, sleeping: bool, in_flight: int, starting: bool) -> EndpointState:
    state = make_state(f"{role}", role=role, healthy=healthy, max_in_flight=2)
    state.sleeping = sleeping
    for _ in range(in_flight):
        load(state, 0.1)
    if starting:
        state.health.slow_start.seconds = 10.0
        state.health.slow_start.begin(0.0)
    return state


@given(ENDPOINTS)
def test_the_usual_filters_in_one_loop_keep_what_they_keep_one_after_the_other(given: list[dict[str, object]]) -> None:
    states = [made(**one) for one in given]  # type: ignore[arg-type]  # drawn from a dictionary
    kept = states
    for one in USUAL:
        kept = list(one().keep(kept, 1.0))
    columns = usual_columns(states, 1.0)
    if columns:
        assert [states[column] for column in columns] == kept
    else:
        assert not kept or any(state.health.slow_start.since is not None for state in states)


@pytest.mark.interpreted("it makes a subclass")
@given(ENDPOINTS)
def test_a_profile_of_the_usual_filters_looks_at_what_each_of_them_would_keep(given: list[dict[str, object]]) -> None:
    states = [made(**one) for one in given]  # type: ignore[arg-type]  # drawn from a dictionary

    class Other(Seat):
        """The same filter, but not the usual one."""

    usual, others = (
        Profile("p", [Available(), BestRole(), last()], [], LowestCost()).look(states, 1.0) for last in (Seat, Other)
    )
    assert isinstance(usual, View) == isinstance(others, View)
    if isinstance(usual, View) and isinstance(others, View):
        assert usual.open == others.open
    else:
        assert usual == others
