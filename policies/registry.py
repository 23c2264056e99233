"""The routing profiles by name.

Floor: `policies`, pure. An explicit table, no registration by import: what exists can be read here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from types import MappingProxyType

from policies.filters import Available, BestRole, Seat
from policies.interface import Picker, Scorer
from policies.pickers import LowestCost, RandomPicker, RoundRobin
from policies.profile import Profile
from policies.scorers.in_flight import InFlight
from policies.scorers.outstanding_tokens import OutstandingTokens
from policies.scorers.predicted_ttft import PredictedTtft


def prompt_aware(rng: Random) -> Profile:
    """Where the first token is predicted to come first: load and cached prefixes in one number, seconds."""
    return _profile("prompt-aware", [(PredictedTtft(), 1.0)], LowestCost())


def least_outstanding(rng: Random) -> Profile:
    """Where the fewest tokens are outstanding, caches ignored."""
    return _profile("least-outstanding", [(OutstandingTokens(), 1.0)], LowestCost())


def least_in_flight(rng: Random) -> Profile:
    """Where the fewest requests are in flight."""
    return _profile("least-in-flight", [(InFlight(), 1.0)], LowestCost())


def round_robin(rng: Random) -> Profile:
    """Each endpoint in turn."""
    return _profile("round-robin", [], RoundRobin())


def random_choice(rng: Random) -> Profile:
    """Any endpoint."""
    return _profile("random", [], RandomPicker(rng))


PROFILES: Mapping[str, Callable[[Random], Profile]] = MappingProxyType(
    {
        "prompt-aware": prompt_aware,
        "least-outstanding": least_outstanding,
        "least-in-flight": least_in_flight,
        "round-robin": round_robin,
        "random": random_choice,
    }
)


def make_profile(name: str, rng: Random) -> Profile:
    """A new profile, for one pool. Raises ValueError, which lists the known names."""
    factory = PROFILES.get(name)
    if factory is None:
        raise ValueError(f"unknown routing profile {name!r}; known: {', '.join(PROFILES)}")
    return factory(rng)


def _profile(name: str, scorers: list[tuple[Scorer, float]], picker: Picker) -> Profile:
    return Profile(name, (Available(), BestRole(), Seat()), scorers, picker)
