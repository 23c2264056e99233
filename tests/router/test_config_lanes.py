"""The lanes of a configuration: defaults of their own, what may not be, and what the policies make of them."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

import pytest

from policies.admission.saturation import DEFAULT_POLICIES, LanePolicy
from policies.types import Lane
from router.config import Config, ConfigError, lane_policies, loads


def build(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return loads(text.encode(), environ or {})


def told(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build(text, environ)
    return [str(problem) for problem in caught.value.problems]


def test_every_lane_has_defaults_of_its_own_and_the_policies_the_same() -> None:
    lanes = build("{}").lanes
    assert {lane: (lanes[lane].max_wait, lanes[lane].max_waiting, lanes[lane].when_full) for lane in Lane} == {
        Lane.SHORT: (60.0, 1024, 429),
        Lane.LONG: (60.0, 1024, 429),
        Lane.BATCH: (600.0, 4096, 429),
    }
    assert lane_policies(lanes) == DEFAULT_POLICIES


def test_empty_lanes_are_the_default_ones() -> None:
    assert build("lanes:\n  short:\n  batch:\n").lanes == build("{}").lanes


def test_a_lane_keeps_the_defaults_of_what_is_not_said() -> None:
    batch = build("lanes: {batch: {max_wait: 300, when_full: 503}}").lanes.batch
    assert (batch.max_wait, batch.when_full, batch.max_waiting, batch.ceiling) == (300.0, 503, 4096, 0.7)


def test_no_ceiling_is_an_infinite_one() -> None:
    policies = lane_policies(build("lanes: {batch: {ceiling: null}, long: {max_share: 0.5}}").lanes)
    assert policies[Lane.BATCH] == LanePolicy(inf, 0.02, 0.8)
    assert policies[Lane.LONG] == LanePolicy(inf, 0.0, 0.5)


def test_the_environment_sets_a_lane() -> None:
    lanes = build("{}", {"PROMPTLANE_LANES__SHORT__WHEN_FULL": "503", "PROMPTLANE_LANES__BATCH__CEILING": "null"}).lanes
    assert (lanes.short.when_full, lanes.batch.ceiling) == (503, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{short: {min_share: 0.5, max_share: 0.2}}", "lanes.short.min_share (line 1): expected at most max_share, "
         "which is 0.2; got 0.5"),
        ("{batch: {max_share: 0.01}}", "lanes.batch.max_share (line 1): expected at least min_share, which is 0.02; "
         "got 0.01"),
        ("{batch: {min_share: 0.9}}", "lanes.batch.min_share (line 1): expected at most max_share, which is 0.8; "
         "got 0.9"),
        ("{batch: {ceiling: 1.5}}", "lanes.batch.ceiling (line 1): expected null or a number above 0 to 1; got 1.5"),
        ("{batch: {max_wait: 0}}", "lanes.batch.max_wait (line 1): expected a number above 0 to 86400; got 0"),
        ("{long: {max_waiting: 0}}", "lanes.long.max_waiting (line 1): expected a whole number from 1 to 1000000; "
         "got 0"),
        ("{long: {when_full: 500}}", "lanes.long.when_full (line 1): expected 429 or 503; got 500"),
        ("{long: {when_full: true}}", "lanes.long.when_full (line 1): expected 429 or 503; got True"),
        ("{bach: {}}", "lanes.bach (line 1): unknown key; did you mean 'batch'?"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_told_with_its_place(text: str, message: str) -> None:
    assert told(f"lanes: {text}") == [message]


def test_a_share_that_is_no_number_is_told_once() -> None:
    assert told("lanes: {batch: {max_share: few}}") == [
        "lanes.batch.max_share (line 1): expected a number from 0 to 1; got 'few'"
    ]


def test_a_share_of_the_environment_is_compared_as_well() -> None:
    assert told("{}", {"PROMPTLANE_LANES__BATCH__MAX_SHARE": "0.001"}) == [
        "PROMPTLANE_LANES__BATCH__MAX_SHARE: expected at least min_share, which is 0.02; got '0.001'"
    ]
