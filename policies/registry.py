"""The routing profiles by name, and how one is put together from its parts.

Floor: `policies`, pure. Profiles are data, so that what exists can be read here, and the table in
policies/README.md is made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from types import MappingProxyType

from policies.gate import Gate
from policies.parts import COSTLESS, FILTERS, PICKERS, SCORERS, Given, find
from policies.profile import Profile
from policies.scorers.predicted_ttft import STICKINESS

DEFAULT_FILTERS = ("available", "best-role", "seat")
DEFAULT_PICKER = "lowest-cost"
# Without these a request could go to an engine that cannot answer it, or to more of them than the operator allows.
NEEDED_FILTERS = frozenset({"available", "seat"})


@dataclass(frozen=True, slots=True)
class PartSpec:
    """A part by name; parameters that are not given have their defaults."""

    name: str
    parameters: Given = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ProfileSpec:
    """A profile as data. `scorers`: each with its weight. `gate`: None sends at once. `engine_priority`: engines are
    told in which order to serve what they were sent (`policies.priority`). `text` is for people."""

    text: str
    scorers: tuple[tuple[PartSpec, float], ...] = ()
    picker: PartSpec = PartSpec(DEFAULT_PICKER)
    gate: Gate | None = None
    engine_priority: bool = False
    filters: tuple[str, ...] = DEFAULT_FILTERS


def prompt_aware(gate: Gate | None = Gate(), stickiness: float = STICKINESS) -> ProfileSpec:  # noqa: B008 - frozen
    """Policy D+F+L of facts/routing.md; without a gate policy B, in which λ is 0."""
    if gate is None:
        return PROFILES["prompt-aware-at-once"]
    return ProfileSpec(
        "Waits at the gateway, shortest prefill first, until an engine is nearly free; then where the first token is "
        "predicted to come first.",
        ((PartSpec("predicted-ttft", {"stickiness": stickiness}), 1.0),),
        gate=gate,
    )


PROFILES: Mapping[str, ProfileSpec] = MappingProxyType(
    {
        "prompt-aware": prompt_aware(),
        "prompt-aware-at-once": ProfileSpec(
            "The same, sent at once: engines order what they have by the priority that the gateway sends.",
            ((PartSpec("predicted-ttft", {"stickiness": 0.0}), 1.0),),
            engine_priority=True,
        ),
        "prefix-affinity": ProfileSpec(
            "The longest predicted cached prefix, at an endpoint without too many requests.",
            ((PartSpec("uncached-share"), 1.0),),
            PartSpec("bounded-load"),
        ),
        "session-affinity": ProfileSpec(
            "The endpoint that the session hashes to, or the next in its order without too many requests.",
            ((PartSpec("session"), 1.0),),
            PartSpec("bounded-load"),
        ),
        "power-of-two": ProfileSpec(
            "Of two endpoints at random the one with fewer tokens outstanding.",
            ((PartSpec("outstanding-tokens"), 1.0),),
            PartSpec("power-of-two"),
        ),
        "least-load": ProfileSpec(
            "The fewest requests, also those of an engine's other clients.", ((PartSpec("engine-load"), 1.0),)
        ),
        "least-outstanding": ProfileSpec(
            "The fewest tokens outstanding, caches ignored.", ((PartSpec("outstanding-tokens"), 1.0),)
        ),
        "least-in-flight": ProfileSpec("The fewest requests in flight.", ((PartSpec("in-flight"), 1.0),)),
        "round-robin": ProfileSpec("Each endpoint in turn.", picker=PartSpec("round-robin")),
        "random": ProfileSpec("Any endpoint.", picker=PartSpec("random")),
    }
)

_NO_SPECS: Mapping[str, ProfileSpec] = MappingProxyType({})


def make_profile(name: str, rng: Random, own: Mapping[str, ProfileSpec] = _NO_SPECS) -> Profile:
    """A new profile, for one pool. `own`: an operator's, which go before ours of the same name. Raises ValueError,
    which lists the known names."""
    spec = own.get(name) or PROFILES.get(name)
    if spec is None:
        raise ValueError(f"unknown routing profile {name!r}; known: {', '.join({**PROFILES, **own})}")
    return compose(name, spec, rng)


def compose(name: str, spec: ProfileSpec, rng: Random) -> Profile:
    """The objects of a spec. Raises ValueError for unknown parts and parameters, those out of bounds, a missing filter
    of `NEEDED_FILTERS` and a picker without the costs that it needs."""
    missing = NEEDED_FILTERS.difference(spec.filters)
    picker = spec.picker
    if missing:
        raise ValueError(f"the filters of profile {name!r} lack {', '.join(sorted(missing))}")
    if not spec.scorers and picker.name not in COSTLESS:
        raise ValueError(f"profile {name!r} needs a scorer: {picker.name} chooses by cost")
    return Profile(
        name,
        [find("filter", FILTERS, one).build(one, {}, rng) for one in spec.filters],
        [
            (find("scorer", SCORERS, one.name).build(one.name, one.parameters, rng), weight)
            for one, weight in spec.scorers
        ],
        find("picker", PICKERS, picker.name).build(picker.name, picker.parameters, rng),
        spec.gate,
        engine_priority=spec.engine_priority,
    )
