"""Profiles are composed of named parts; what is unknown, out of bounds or missing is refused by name."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.gate import Gate
from policies.parts import COSTLESS, FILTERS, PICKERS, SCORERS, Part
from policies.registry import PROFILES, PartSpec, ProfileSpec, compose, make_profile, prompt_aware
from policies.types import Rejection, Role
from policies.waiting import Waiting
from tests.policies.builders import load, make_fleet, make_request, make_state, rng

PARTS: list[tuple[str, Part[object]]] = [*FILTERS.items(), *SCORERS.items(), *PICKERS.items()]


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_every_part_is_called_as_the_table_says_and_has_bounds_around_its_defaults(
    name: str, part: Part[object]
) -> None:
    made = part.build(name, {}, rng())
    assert getattr(made, "name", name) == name
    assert part.text.endswith(".")
    for parameter in part.parameters.values():
        assert parameter.least <= parameter.default <= parameter.most
        assert parameter.text.endswith(".")


@pytest.mark.parametrize(("name", "part"), PARTS, ids=[name for name, _ in PARTS])
def test_every_part_can_be_made_at_the_edges_of_its_bounds(name: str, part: Part[object]) -> None:
    for edge in ("least", "most"):
        made = part.build(name, {key: getattr(one, edge) for key, one in part.parameters.items()}, rng())
        assert getattr(made, "name", name) == name
    for key, one in part.parameters.items():
        for beyond in (one.least - 1.0, one.most + 1.0):
            with pytest.raises(ValueError, match=f"{key} must be from"):
                part.build(name, {key: beyond}, rng())


@given(st.sampled_from(sorted(SCORERS)), st.sampled_from(sorted(PICKERS)), st.floats(0.01, 100.0), st.booleans())
def test_any_scorer_goes_with_any_picker_and_sends_only_where_one_may(
    scorer: str, picker: str, weight: float, held: bool
) -> None:
    spec = ProfileSpec("", ((PartSpec(scorer), weight),), PartSpec(picker), Gate() if held else None)
    states = [make_state("off", healthy=False), make_state("on"), make_state("spare", role=Role.WARM)]
    profile = compose("mine", spec, rng())
    view = profile.look(states, 0.0)
    assert not isinstance(view, Rejection)
    decision = profile.place(Waiting(make_request()), view)
    assert decision is not None
    assert (decision.profile, decision.choice.state.endpoint.name) == ("mine", "on")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ProfileSpec("", ((PartSpec("magic"), 1.0),)), r"unknown scorer 'magic'; known: predicted-ttft, .*hourly-cost"),
        (ProfileSpec("", picker=PartSpec("best")), "unknown picker 'best'; known: lowest-cost, .*random"),
        (
            ProfileSpec("", picker=PartSpec("random"), filters=("available", "seat", "near")),
            "unknown filter 'near'; known: available, best-role, seat",
        ),
        (
            ProfileSpec("", ((PartSpec("predicted-ttft", {"sticky": 1.0}), 1.0),)),
            "predicted-ttft: unknown parameter 'sticky'; known: stickiness",
        ),
        (
            ProfileSpec("", ((PartSpec("in-flight", {"x": 1.0}), 1.0),)),
            "in-flight: unknown parameter 'x'; known: none",
        ),
        (
            ProfileSpec("", ((PartSpec("in-flight"), 1.0),), PartSpec("bounded-load", {"bound": 0.9})),
            "bounded-load: bound must be from 1 to 100, not 0.9",
        ),
        (
            ProfileSpec("", ((PartSpec("in-flight"), 1.0),), PartSpec("bounded-load", {"bound": float("nan")})),
            "bound must be from 1 to 100, not nan",
        ),
        (
            ProfileSpec("", picker=PartSpec("random"), filters=("best-role",)),
            "the filters of profile 'mine' lack available, seat",
        ),
        (ProfileSpec(""), "profile 'mine' needs a scorer: lowest-cost chooses by cost"),
        (ProfileSpec("", picker=PartSpec("power-of-two")), "needs a scorer: power-of-two chooses by cost"),
    ],
)
def test_a_mistake_is_refused_with_what_is_known(spec: ProfileSpec, message: str) -> None:
    if spec.picker.name == "best":
        spec = ProfileSpec("", ((PartSpec("in-flight"), 1.0),), spec.picker)
    with pytest.raises(ValueError, match=message):
        compose("mine", spec, rng())


def test_pickers_without_costs_are_known_and_need_no_scorer() -> None:
    assert set(PICKERS) >= COSTLESS
    for name in COSTLESS:
        assert compose("mine", ProfileSpec("", picker=PartSpec(name)), rng()).name == "mine"


def test_an_operators_profile_goes_before_ours_and_is_told_when_the_name_is_unknown() -> None:
    own: Mapping[str, ProfileSpec] = {"mine": PROFILES["random"], "prompt-aware": PROFILES["round-robin"]}
    assert make_profile("mine", rng(), own).gate is None
    assert make_profile("prompt-aware", rng(), own).gate is None
    with pytest.raises(ValueError, match=r"unknown routing profile 'nobody'; known: prompt-aware, .*random, mine"):
        make_profile("nobody", rng(), own)


def test_the_default_profile_holds_and_without_holding_it_is_the_one_that_engines_order() -> None:
    assert prompt_aware() == PROFILES["prompt-aware"]
    assert prompt_aware(None, stickiness=2.0) == PROFILES["prompt-aware-at-once"]
    tuned = make_profile("prompt-aware", rng(), {"prompt-aware": prompt_aware(Gate(wait_seconds=9.0))})
    assert tuned.gate == Gate(wait_seconds=9.0)


def test_only_the_profile_that_sends_at_once_by_prediction_tells_engines_an_order() -> None:
    assert [name for name in PROFILES if make_profile(name, rng()).engine_priority] == ["prompt-aware-at-once"]


def test_the_order_of_filters_is_their_meaning() -> None:
    """Seats first: full hot engines are not waited for, and the warm one helps."""
    states = [make_state("hot", max_in_flight=1), make_state("warm", role=Role.WARM)]
    load(states[0], 0.1)
    usual = compose("usual", PROFILES["random"], rng())
    assert isinstance(usual.look(states, 0.0), Rejection)
    spilling = ProfileSpec("", picker=PartSpec("random"), filters=("available", "seat", "best-role"))
    view = compose("spilling", spilling, rng()).look(states, 0.0)
    assert not isinstance(view, Rejection)
    assert view.open == [1]


def test_weights_decide_between_scorers() -> None:
    states = make_fleet(2)
    states[0].index.touch(make_request().prefix_blocks)
    load(states[0], 0.1)

    def choice(uncached: float) -> str:
        spec = ProfileSpec("", ((PartSpec("uncached-share"), uncached), (PartSpec("in-flight"), 1.0)))
        profile = compose("mine", spec, rng())
        view = profile.look(states, 0.0)
        assert not isinstance(view, Rejection)
        decision = profile.place(Waiting(make_request()), view)
        assert decision is not None
        return decision.choice.state.endpoint.name

    assert (choice(0.1), choice(10.0)) == ("e1", "e0")
