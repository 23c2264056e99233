"""Warm endpoints help full hot ones, up to their share."""

from __future__ import annotations

from policies.endpoint_state import EndpointState
from policies.overflow import Overflow
from policies.types import Role
from tests.policies.builders import load, make_state


def fleet(hot: int, warm: int, *, most: int = 10) -> list[EndpointState]:
    """Two endpoints with so many requests in flight."""
    states = [make_state("hot", max_in_flight=most), make_state("warm", role=Role.WARM, max_in_flight=most)]
    for state, count in zip(states, (hot, warm), strict=True):
        for _ in range(count):
            load(state, 0.0)
    return states


def kept(states: list[EndpointState], share: float = 0.2) -> list[str]:
    return [state.endpoint.name for state in Overflow(share, above=0.9).keep(states, 0.0)]


def test_below_the_bound_only_hot_endpoints_serve() -> None:
    assert kept(fleet(8, 0)) == ["hot"]


def test_from_the_bound_on_the_warm_one_helps_until_it_has_its_share() -> None:
    assert kept(fleet(9, 0)) == ["hot", "warm"]
    assert kept(fleet(9, 1)) == ["hot", "warm"]
    assert kept(fleet(10, 3)) == ["hot"], "3 of 14 are more than a fifth"
    assert kept(fleet(10, 3), share=0.5) == ["hot", "warm"]


def test_without_hot_endpoints_it_is_as_ever() -> None:
    assert kept(fleet(0, 0)[1:]) == ["warm"]
    assert kept([]) == []
