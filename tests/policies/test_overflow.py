"""Warm endpoints help full hot ones, up to their share."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Decision
from policies.dispatch import plan
from policies.endpoint_state import EndpointState
from policies.overflow import Overflow
from policies.registry import PartSpec, ProfileSpec, compose
from policies.types import Role
from policies.view import View
from policies.waiting import Waiting
from tests.policies.builders import load, make_request, make_state, rng


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


def test_a_hot_endpoint_that_one_prompt_fills_is_helped_with_one() -> None:
    assert kept(fleet(1, 0, most=1)) == ["hot", "warm"]
    assert kept(fleet(1, 1, most=1)) == ["hot"]


@given(st.integers(1, 40), st.floats(0.05, 0.9))
def test_who_is_sent_one_by_one_never_gives_the_warm_one_more_than_its_share_but_for_the_first(
    hot: int, share: float
) -> None:
    states = fleet(hot, 0, most=hot)
    while "warm" in kept(states, share):
        load(states[1], 0.0)
        theirs = states[1].in_flight
        assert theirs == 1 or theirs <= share * (hot + theirs) + 1e-9
    assert states[1].in_flight >= int(share * hot), "nor much less"


class Line:
    """Requests that all may be sent now."""

    def __init__(self, count: int) -> None:
        self.waiting = [Waiting(make_request(str(number), blocks=())) for number in range(count)]

    def __len__(self) -> int:
        return len(self.waiting)

    def next(self, view: View, window: int) -> list[Waiting]:
        for one in self.waiting:
            view.refresh(one)
        return list(self.waiting)

    def again(self, view: View, window: int) -> list[Waiting]:
        return []

    def allows(self, waiting: Waiting) -> bool:
        return True


def test_the_share_holds_within_a_pass_over_many_who_wait() -> None:
    profile = compose("mine", ProfileSpec("", ((PartSpec("in-flight"), 1.0),), PartSpec("lowest-cost")), rng())
    profile.replace_filter(Overflow(0.2, above=0.9))
    states = fleet(8, 1, most=8)
    sent: list[str] = []

    def commit(waiting: Waiting, decision: Decision) -> None:
        decision.choice.state.reserve(waiting.request, 0, 0.0, 0.0)
        sent.append(decision.choice.state.endpoint.name)

    plan(Line(10), states, profile, 0.0, commit)
    assert sent == ["warm"], "two of ten are its share"
