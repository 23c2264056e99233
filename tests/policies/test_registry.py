"""Profiles are found by name; an unknown name is told what is known."""

from __future__ import annotations

import pytest

from policies.decision import Decision
from policies.endpoint_state import EndpointState
from policies.profile import Profile
from policies.registry import PROFILES, make_profile
from policies.types import Rejection
from policies.waiting import Waiting
from tests.policies.builders import load, make_fleet, make_request, rng


def place(profile: Profile, states: list[EndpointState]) -> Decision | None:
    view = profile.look(states, 0.0)
    assert not isinstance(view, Rejection)
    return profile.place(Waiting(make_request()), view)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_registered_profile_decides_under_its_own_name(name: str) -> None:
    decision = place(make_profile(name, rng()), make_fleet(3))
    assert decision is not None
    assert decision.profile == name
    assert len(decision.ranked) == 3


def test_the_names_in_the_documentation_are_registered() -> None:
    assert {"prompt-aware", "least-outstanding", "round-robin", "random"} <= set(PROFILES)


def test_only_the_profile_of_the_study_holds_requests_back() -> None:
    """The others are what engines get from any load balancer: at once."""
    holding = set()
    for name in PROFILES:
        states = make_fleet(2)
        for state in states:
            load(state, 5.0)
        if place(make_profile(name, rng()), states) is None:
            holding.add(name)
    assert holding == {"prompt-aware"}


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown routing profile 'magic'; known: prompt-aware, .*random"):
        make_profile("magic", rng())


def test_every_call_makes_a_profile_of_its_own() -> None:
    states = make_fleet(2)
    first, second = (place(make_profile("round-robin", rng()), states) for _ in range(2))
    assert first.ranked == second.ranked
