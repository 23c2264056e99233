"""What a drill fails, and how it judges what its probes saw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.drill import Member, Plan, Probe, judge, plan
from policies.types import Role

POOL = [Member("h0", Role.HOT, True), Member("h1", Role.HOT, True), Member("w", Role.WARM, True)]


def test_all_hot_endpoints_fail_and_the_standbys_are_left() -> None:
    assert plan(POOL, None) == Plan(("h0", "h1"), ("w",))


def test_a_named_endpoint_fails_alone() -> None:
    assert plan(POOL, "h1") == Plan(("h1",), ("h0", "w"))


def test_who_is_down_anyway_takes_nothing_over() -> None:
    assert plan([POOL[0], Member("h1", Role.HOT, False)], "h0") == Plan(("h0",), ())


@pytest.mark.parametrize(
    ("members", "endpoint", "said"), [(POOL, "x", "Known: h0, h1, w"), (POOL[2:], None, "none is hot")]
)
def test_nothing_to_fail_is_said(members: list[Member], endpoint: str | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        plan(members, endpoint)


def test_recovery_is_from_the_first_probe_to_the_first_good_answer() -> None:
    probes = [Probe(10.0, 12.5, "w"), Probe(10.2, 12.6, "w"), Probe(13.0, 13.1, "w")]
    verdict = judge(probes, 5.0)
    assert (verdict.recovery_seconds, verdict.lost, verdict.met) == (2.5, 0, True)
    assert verdict.answered_by == {"w": 3}


def test_a_good_answer_among_lost_ones_is_luck() -> None:
    probes = [Probe(0.0, 0.1, "w"), Probe(0.2, 0.3, why="503 no_endpoint"), Probe(0.4, 1.0, "w")]
    verdict = judge(probes, 5.0)
    assert (verdict.recovery_seconds, verdict.lost, verdict.reasons) == (1.0, 1, {"503 no_endpoint": 1})


def test_who_loses_to_the_end_has_not_recovered() -> None:
    verdict = judge([Probe(0.0, 0.1, "w"), Probe(0.2, 0.3, why="502 engine_closed")], 5.0)
    assert (verdict.recovery_seconds, verdict.met) == (None, False)
    assert judge([], 5.0).met is False


def test_later_than_promised_is_missed() -> None:
    assert judge([Probe(0.0, 5.1, "w")], 5.0).met is False


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 20), st.booleans())))
def test_every_probe_is_counted_once_and_recovery_is_within_the_drill(found: list[tuple[float, float, bool]]) -> None:
    probes = [Probe(at, at + took, "w", "" if good else "lost") for at, took, good in found]
    verdict = judge(probes, 5.0)
    assert verdict.sent == len(probes) == verdict.lost + sum(verdict.answered_by.values())
    assert verdict.lost == sum(verdict.reasons.values())
    if verdict.recovery_seconds is not None:
        first, last = min(probe.sent_at for probe in probes), max(probe.ended_at for probe in probes)
        assert 0 <= verdict.recovery_seconds <= last - first
