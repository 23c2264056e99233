"""Profiles are found by name; an unknown name is told what is known."""

from __future__ import annotations

import pytest

from policies.decision import Decision
from policies.registry import PROFILES, make_profile
from tests.policies.builders import make_fleet, make_request, rng


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_registered_profile_decides_under_its_own_name(name: str) -> None:
    decision = make_profile(name, rng()).rank(make_request(), make_fleet(3), 0.0)
    assert isinstance(decision, Decision)
    assert decision.profile == name
    assert len(decision.ranked) == 3


def test_the_names_in_the_documentation_are_registered() -> None:
    assert {"prompt-aware", "least-outstanding", "round-robin", "random"} <= set(PROFILES)


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"unknown routing profile 'magic'; known: prompt-aware, .*random"):
        make_profile("magic", rng())


def test_every_call_makes_a_profile_of_its_own() -> None:
    states, request = make_fleet(2), make_request()
    firsts = [make_profile("round-robin", rng()).rank(request, states, 0.0) for _ in range(2)]
    assert firsts[0] == firsts[1]
