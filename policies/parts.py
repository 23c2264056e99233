"""What profiles are composed of, by name: filters, scorers and pickers, each with its parameters and their bounds.

Floor: `policies`, pure. Explicit tables, no registration by import: what exists can be read here. The configuration's
keys and the tables of policies/README.md are made from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType
from typing import Generic, TypeVar

from policies.filters import Available, BestRole, Seat
from policies.interface import Filter, Picker, Scorer
from policies.pickers import BOUND, TIE, BoundedLoad, LowestCost, PowerOfTwo, RandomPicker, RoundRobin
from policies.scorers.engine_load import STALE_SECONDS, EngineLoad
from policies.scorers.engine_waiting import EngineWaiting
from policies.scorers.hourly_cost import HourlyCost
from policies.scorers.in_flight import InFlight
from policies.scorers.kv_usage import KvUsage
from policies.scorers.outstanding_tokens import OutstandingTokens
from policies.scorers.predicted_ttft import STICKINESS, PredictedTtft
from policies.scorers.session import SessionRank
from policies.scorers.uncached_share import UncachedShare

T = TypeVar("T", covariant=True)
Given = Mapping[str, float]  # parameters by name


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a part takes, from `least` to `most`, both allowed."""

    default: float
    least: float
    most: float
    text: str


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """How to make one. `make` gets every parameter; `text` and the parameters' are for people."""

    text: str
    make: Callable[[Given, Random], T]
    parameters: Mapping[str, Parameter] = field(default_factory=lambda: MappingProxyType({}))

    def build(self, name: str, given: Given, rng: Random) -> T:
        """A new one. `name` is what messages call it. Raises ValueError for an unknown parameter or one out of
        bounds."""
        for parameter, value in given.items():
            bounds = self.parameters.get(parameter)
            if bounds is None:
                known = ", ".join(self.parameters) or "none"
                raise ValueError(f"{name}: unknown parameter {parameter!r}; known: {known}")
            if not bounds.least <= value <= bounds.most:
                raise ValueError(f"{name}: {parameter} must be from {bounds.least:g} to {bounds.most:g}, not {value:g}")
        return self.make({key: given.get(key, one.default) for key, one in self.parameters.items()}, rng)


_STALE = Parameter(STALE_SECONDS, 0.1, 3600.0, "Seconds after which what an engine reported counts no more.")

FILTERS: Mapping[str, Part[Filter]] = MappingProxyType(
    {
        "available": Part("Healthy, awake and not draining.", lambda given, rng: Available()),
        "best-role": Part("The hot ones if any is left, else the warm, else the cold.", lambda given, rng: BestRole()),
        "seat": Part(
            "With fewer requests in flight than `max_in_flight`, or than its slow start while others have room.",
            lambda given, rng: Seat(),
        ),
    }
)

SCORERS: Mapping[str, Part[Scorer]] = MappingProxyType(
    {
        "predicted-ttft": Part(
            "Predicted seconds to the first token, and more of them for own work.",
            lambda given, rng: PredictedTtft(given["stickiness"]),
            {"stickiness": Parameter(STICKINESS, 0.0, 100.0, "How much more own work counts where all are busy.")},
        ),
        "uncached-share": Part(
            "Share of the prompt that is predicted not to be in the cache, 0 to 1.", lambda given, rng: UncachedShare()
        ),
        "session": Part(
            "0 at the session's own endpoint, 1 at the next in its order, and so on.", lambda given, rng: SessionRank()
        ),
        "outstanding-tokens": Part(
            "Tokens to be computed there with this request, per weight.", lambda given, rng: OutstandingTokens()
        ),
        "in-flight": Part("Requests in flight there with this one, per weight.", lambda given, rng: InFlight()),
        "engine-load": Part(
            "The same and what other clients of the engine have there, as it reports.",
            lambda given, rng: EngineLoad(given["stale_seconds"]),
            {"stale_seconds": _STALE},
        ),
        "engine-waiting": Part(
            "Requests that wait inside the engine, as it reports; pending prefills where that is stale.",
            lambda given, rng: EngineWaiting(given["stale_seconds"]),
            {"stale_seconds": _STALE},
        ),
        "kv-usage": Part(
            "Share of its KV cache in use, 0 to 1: the larger of what it reports and what was sent.",
            lambda given, rng: KvUsage(given["stale_seconds"]),
            {"stale_seconds": _STALE},
        ),
        "hourly-cost": Part("What the endpoint costs an hour, as configured.", lambda given, rng: HourlyCost()),
    }
)

PICKERS: Mapping[str, Part[Picker]] = MappingProxyType(
    {
        "lowest-cost": Part(
            "The lowest cost; near ties by a hash of the prefix.",
            lambda given, rng: LowestCost(given["tie_seconds"]),
            {"tie_seconds": Parameter(TIE, 0.0, 1000.0, "Costs this close together are equal.")},
        ),
        "bounded-load": Part(
            "The lowest cost among those with at most `bound` times their share of what is in flight.",
            lambda given, rng: BoundedLoad(given["bound"]),
            {"bound": Parameter(BOUND, 1.0, 100.0, "Times the mean, by weight, that one may have.")},
        ),
        "power-of-two": Part("The lower cost of two at random, by weight.", lambda given, rng: PowerOfTwo(rng)),
        "round-robin": Part("Each in turn, by weight; costs do not matter.", lambda given, rng: RoundRobin()),
        "random": Part("Any, by weight; costs do not matter.", lambda given, rng: RandomPicker(rng)),
    }
)

# These choose without costs; with any other a profile needs a scorer.
COSTLESS = frozenset({"round-robin", "random"})


def find(kind: str, table: Mapping[str, Part[T]], name: str) -> Part[T]:
    """The part. Raises ValueError, which lists the known names of this `kind`."""
    part = table.get(name)
    if part is None:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(table)}")
    return part
