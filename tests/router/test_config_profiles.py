"""Profiles composed in the file: their forms, what they become, and every mistake with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.order import ShortestPrefillFirst
from policies.gate import Gate
from policies.parts import FILTERS, PICKERS, SCORERS
from policies.registry import PROFILES, PartSpec, ProfileSpec
from router.config import Config, ConfigError, documented_keys, loads, profile_specs, queue_order

ROUTING = Path(__file__).parents[2] / "policies" / "README.md"


def routing(text: str) -> Config:
    return loads(f"routing: {text}".encode(), {})


def spec(profile: str, more: str = "") -> ProfileSpec:
    return profile_specs(routing(f"{{profiles: {{mine: {profile}}}{more}}}").routing)["mine"]


def told(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(text.encode(), {})
    return [str(problem) for problem in caught.value.problems]


# -- what is accepted


def test_every_form_at_once() -> None:
    mine = spec(
        "{filters: [available, seat], picker: {lowest-cost: {tie_seconds: 0.01}}, engine_priority: true,"
        " scorers: {predicted-ttft: {weight: 2, stickiness: 0.5}, hourly-cost: 0.01, in-flight: },"
        " hold: {wait_seconds: 1, kv_share: 0.9}}"
    )
    assert mine.filters == ("available", "seat")
    assert mine.scorers == (
        (PartSpec("predicted-ttft", {"stickiness": 0.5}), 2.0),
        (PartSpec("in-flight", {}), 1.0),
        (PartSpec("hourly-cost", {}), 0.01),
    )
    assert mine.picker == PartSpec("lowest-cost", {"tie_seconds": 0.01})
    assert (mine.gate, mine.engine_priority) == (Gate(1.0, 0.9), True)


@pytest.mark.parametrize("name", sorted(PICKERS))
def test_every_picker_can_be_named_in_three_ways(name: str) -> None:
    forms = [
        spec(f"{{picker: {form}, scorers: {{in-flight: 1}}}}") for form in (name, f"{{{name}: }}", f"{{{name}: {{}}}}")
    ]
    assert forms[0] == forms[1] == forms[2]
    assert forms[0].picker.name == name


@given(st.sampled_from(sorted(SCORERS)), st.floats(0.001, 1e6, allow_nan=False))
def test_a_number_is_a_scorers_weight(name: str, weight: float) -> None:
    short = spec(f"{{scorers: {{{name}: {weight!r}}}}}")
    assert short == spec(f"{{scorers: {{{name}: {{weight: {weight!r}}}}}}}")
    assert short.scorers[0][1] == weight


def test_a_parameter_that_is_not_given_has_the_policys_default() -> None:
    for name, part in SCORERS.items():
        ((found, _),) = spec(f"{{scorers: {{{name}: }}}}").scorers
        assert found.parameters == {key: one.default for key, one in part.parameters.items()}


@pytest.mark.parametrize(
    ("hold", "more", "gate"),
    [
        ("", "", Gate()),
        ("", ", hold: false", None),
        ("", ", hold_seconds: 2, kv_share: 0.5", Gate(2.0, 0.5)),
        (", hold: true", ", hold: false, hold_seconds: 2", Gate(2.0)),
        (", hold: false", "", None),
        (", hold: {enabled: false, kv_share: 0.5}", "", None),
        (", hold: {kv_share: 0.5}", ", hold: false, hold_seconds: 2", Gate(2.0, 0.5)),
        (", hold: {wait_seconds: 3}", ", hold_seconds: 2, kv_share: 0.5", Gate(3.0, 0.5)),
    ],
)
def test_holding_is_as_the_profile_says_and_otherwise_as_routing_does(hold: str, more: str, gate: Gate | None) -> None:
    assert spec(f"{{picker: random{hold}}}", more).gate == gate


def test_the_default_profile_is_tuned_by_routing() -> None:
    def tuned(text: str) -> ProfileSpec:
        return profile_specs(routing(text).routing)["prompt-aware"]

    assert tuned("{}") == PROFILES["prompt-aware"]
    mine = tuned("{hold_seconds: 1, kv_share: 0.8, stickiness: 0.5}")
    assert mine.gate == Gate(1.0, 0.8)
    assert mine.scorers == ((PartSpec("predicted-ttft", {"stickiness": 0.5}), 1.0),)
    assert tuned("{hold: false, stickiness: 2}") == PROFILES["prompt-aware-at-once"]


def test_the_queues_constants_are_configurable() -> None:
    assert queue_order(routing("{}").routing) == ShortestPrefillFirst()
    mine = queue_order(routing("{ageing: 0.1, tier_seconds: 0, batch_seconds: 60}").routing)
    assert mine == ShortestPrefillFirst(ageing=0.1, tier_seconds=0.0, batch_seconds=60.0)


def test_profiles_come_from_the_environment_too() -> None:
    environ = {
        "PROMPTLANE_ROUTING__PROFILE": "mine",
        "PROMPTLANE_ROUTING__PROFILES": '{"mine": {"scorers": {"in-flight": 1}, "picker": "power-of-two"}}',
        "PROMPTLANE_ROUTING__PROFILES__MINE__HOLD": "true",
    }
    config = loads(b"{}", environ)
    assert config.routing.profile == "mine"
    assert profile_specs(config.routing)["mine"].picker.name == "power-of-two"
    with pytest.raises(ConfigError, match=r"PROMPTLANE_ROUTING__PROFILES\.mine\.picker\.magic: unknown key"):
        loads(b"{}", {"PROMPTLANE_ROUTING__PROFILES": '{"mine": {"picker": "magic"}}'})


def test_a_pool_may_have_its_own_profile() -> None:
    text = "routing: {profiles: {mine: {picker: random}}}\npools:\n"
    text += "  a: {profile: mine, endpoints: [{name: a, url: 'http://a'}]}\n"
    text += "  b: {profile: round-robin, endpoints: [{name: b, url: 'http://b'}]}\n"
    text += "  c: {endpoints: [{name: c, url: 'http://c'}]}\n"
    pools = loads(text.encode(), {}).pools
    assert [pool.profile for pool in pools.values()] == ["mine", "round-robin", None]


def test_the_documents_composed_profile_is_accepted_as_it_stands() -> None:
    section = ROUTING.read_text().split("## Routing profiles")[1].split("\n## ")[0]
    (example,) = re.findall(r"```yaml\n(.*?)```", section, re.DOTALL)
    config = loads(example.encode(), {})
    thrifty = profile_specs(config.routing)[config.routing.profile]
    assert [part.name for part, _ in thrifty.scorers] == ["predicted-ttft", "hourly-cost"]
    assert (thrifty.filters[-1], thrifty.gate) == ("best-role", Gate(wait_seconds=1.0))


def test_parts_have_a_table_of_their_own_in_the_documentation() -> None:
    paths = {key.path: key for key in documented_keys()}
    assert not [path for path in paths if "predicted-ttft" in path or "bound" in path]
    assert paths["routing.profiles.<name>.picker"].default == "lowest-cost"
    assert paths["routing.profiles.<name>.hold.kv_share"].default == "null"
    assert set(FILTERS) == set(paths["routing.profiles.<name>.filters"].default.split(", "))


# -- what is refused

ONE_PICKER = f"one of {', '.join(PICKERS)}, or a mapping of one of them to its parameters"


@pytest.mark.parametrize(
    ("profile", "message"),
    [
        ("scorers: {predicted-ttf: 1}", "scorers.predicted-ttf (line 1): unknown key; did you mean 'predicted-ttft'?"),
        (
            "scorers: {in-flight: much}",
            "scorers.in-flight.weight (line 1): expected a number above 0 to 1000000; got 'much'",
        ),
        ("scorers: {in-flight: 0}", "scorers.in-flight.weight (line 1): expected a number above 0 to 1000000; got 0"),
        (
            "scorers: {in-flight: yes}",
            "scorers.in-flight.weight (line 1): expected a number above 0 to 1000000; got True",
        ),
        (
            "scorers: {in-flight: [1]}",
            "scorers.in-flight (line 1): expected a weight, or a mapping of weight and parameters; got a list",
        ),
        (
            "scorers: {predicted-ttft: {stickyness: 1}}",
            "scorers.predicted-ttft.stickyness (line 1): unknown key; did you mean 'stickiness'?",
        ),
        (
            "scorers: {predicted-ttft: {stickiness: 101}}",
            "scorers.predicted-ttft.stickiness (line 1): expected a number from 0 to 100; got 101",
        ),
        ("scorers: {in-flight: 1}, picker: lowest", "picker.lowest (line 1): unknown key; did you mean 'lowest-cost'?"),
        (
            "scorers: {in-flight: 1}, picker: {bounded-load: {bound: 0.5}}",
            "picker.bounded-load.bound (line 1): expected a number from 1 to 100; got 0.5",
        ),
        (
            "picker: {random: , round-robin: }",
            f"picker (line 1): expected {ONE_PICKER}; got a mapping",
        ),
        (
            "picker: ",
            f"picker (line 1): expected {ONE_PICKER}; got nothing",
        ),
        ("picker: bounded-load", "scorers (line 1): missing; expected at least one: bounded-load chooses by cost"),
        ("hold: true", "scorers (line 1): missing; expected at least one: lowest-cost chooses by cost"),
        (
            "picker: random, filters: [available, seat, near]",
            "filters[2] (line 1): expected one of available, best-role, seat; got 'near'",
        ),
        (
            "picker: random, filters: [available]",
            "filters (line 1): expected a list of available, best-role, seat, each once; available and seat must be "
            "there; got a list",
        ),
        ("picker: random, hold: maybe", "hold.enabled (line 1): expected true or false; got 'maybe'"),
        ("picker: random, hold: 1", "hold (line 1): expected null, true, false or a mapping; got 1"),
        ("picker: random, pick: 1", "pick (line 1): unknown key; did you mean 'picker'?"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_is_known(profile: str, message: str) -> None:
    assert told(f"routing: {{profiles: {{mine: {{{profile}}}}}}}") == [f"routing.profiles.mine.{message}"]


def test_a_name_that_is_no_profile_is_told_with_ours_and_the_files_own() -> None:
    ours = ", ".join(PROFILES)
    pool = "pools: {p: {profile: mime, endpoints: [{name: a, url: 'http://a'}]}}"
    assert told(f"routing: {{profile: magic, profiles: {{mine: {{picker: random}}}}}}\n{pool}") == [
        f"routing.profile (line 1): expected one of {ours}, mine; got 'magic'",
        f"pools.p.profile (line 2): expected one of {ours}, mine; got 'mime'; did you mean 'mine'?",
    ]


def test_one_of_our_names_cannot_get_another_meaning() -> None:
    assert told("routing: {profiles: {random: {picker: round-robin}}}") == [
        "routing.profiles.random (line 1): expected a name of its own; this one is Promptlane's"
    ]


@pytest.mark.parametrize("value", ["[a]", "1", "{mine: 1}", "{mine: [a]}", "{'a b': {picker: random}}"])
def test_what_is_no_mapping_of_named_profiles_is_one_mistake(value: str) -> None:
    assert len(told(f"routing: {{profiles: {value}}}")) == 1


@pytest.mark.parametrize(
    "text",
    ["ageing: 0", "ageing: -1", "hold_seconds: 0", "kv_share: 1.1", "stickiness: -1", "window: 0", "tier_seconds: -1"],
)
def test_constants_out_of_bounds_are_refused(text: str) -> None:
    (message,) = told(f"routing: {{{text}}}")
    assert message.startswith(f"routing.{text.split(':')[0]} (line 1): expected")
