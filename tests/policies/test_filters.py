"""Each filter removes exactly what its name says and keeps the order."""

from __future__ import annotations

from policies.endpoint_state import EndpointState
from policies.filters import Available, BestRole, NotTried, Seat
from policies.types import Role
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
