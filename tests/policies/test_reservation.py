"""What reservations charge to an endpoint is at every moment what those not yet settled hold, however often and in
whatever order their first tokens and ends are told."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from policies.reservation import EngineReport, Reservation
from tests.policies.builders import make_request, make_state

REPORTS = st.sampled_from([None, EngineReport(), EngineReport(100, 50, 7)])


@dataclass
class Held:
    """One reservation as the test knows it."""

    reservation: Reservation
    prefilling: bool = True
    settled: bool = False
    heard: bool = False

    @property
    def context(self) -> float:
        output = 0.0 if self.prefilling else self.reservation.output_tokens / 2
        return self.reservation.request.prompt_tokens + output


class Reservations(RuleBasedStateMachine):
    """Of one endpoint, beside a list of all that there ever were."""

    def __init__(self) -> None:
        super().__init__()
        self.state = make_state()
        self.all: list[Held] = []
        self.now = 0.0

    @rule(seconds=st.floats(0.0, 5.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        prompt=st.integers(0, 100_000), output=st.integers(0, 5000), cached=st.integers(0, 100), own=st.floats(0, 9.0)
    )
    def a_dispatch(self, prompt: int, output: int, cached: int, own: float) -> None:
        request = make_request(prompt_tokens=prompt, max_output_tokens=output)
        self.all.append(Held(self.state.reserve(request, cached, own, self.now)))

    @precondition(lambda self: self.all)
    @rule(which=st.integers(0, 99), seen=st.booleans())
    def a_first_token(self, which: int, seen: bool) -> None:
        held = self.all[which % len(self.all)]
        held.reservation.first_token(self.now, seen=seen)
        if not held.settled:
            held.prefilling = False
            held.heard = held.heard or seen

    @precondition(lambda self: self.all)
    @rule(which=st.integers(0, 99), report=REPORTS)
    def an_end(self, which: int, report: EngineReport | None) -> None:
        held = self.all[which % len(self.all)]
        held.reservation.release(self.now, report)
        if not held.settled:
            held.settled = True
            held.heard = held.heard or report is not None

    @invariant()
    def the_books_are_the_sums_of_what_is_held(self) -> None:
        state, live = self.state, [held for held in self.all if not held.settled]
        prefilling = [held.reservation for held in live if held.prefilling]
        decoding = [held for held in live if not held.prefilling]
        assert (state.in_flight, state.pending_prefills) == (len(live), len(prefilling))
        expected = {
            "pending_prefill_seconds": sum(one.own_seconds for one in prefilling),
            "outstanding_tokens": sum(held.reservation.output_tokens for held in live)
            + sum(one.uncached_tokens for one in prefilling),
            "context_tokens": sum(held.context for held in live),
            "decode_tokens": sum(held.context for held in decoding),
        }
        assert {name: getattr(state, name) for name in expected} == pytest.approx(expected, abs=1e-6)

    @invariant()
    def a_sign_of_life_is_owed_and_learned_from_once(self) -> None:
        silence = self.state.silence
        assert len(silence) == sum(not held.settled and not held.heard for held in self.all)
        learned = silence.firsts.seen + silence.wholes.seen
        assert learned == sum(held.heard for held in self.all)

    @invariant()
    def who_holds_nothing_leaves_nothing_behind(self) -> None:
        if all(held.settled for held in self.all):
            state = self.state
            assert (state.in_flight, state.pending_prefills, state.index.held, state.kv_tokens) == (0, 0, 0, 0.0)
            assert (state.pending_prefill_seconds, state.outstanding_tokens) == (0.0, 0.0)
            assert (state.context_tokens, state.decode_tokens) == (0.0, 0.0)

    def teardown(self) -> None:
        for held in self.all:
            held.reservation.release(self.now)
            held.settled = True
        self.who_holds_nothing_leaves_nothing_behind()


TestReservations = Reservations.TestCase
