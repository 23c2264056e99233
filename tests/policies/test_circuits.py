"""The circuits of a whole pool, whatever happens to its endpoints in whatever order."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.endpoint_state import EndpointState
from policies.health import FORGOTTEN_SECONDS, MAX_OPEN_SECONDS, Cause, EndpointHealth
from policies.outliers import Fellows
from policies.types import Endpoint, FailureCause, Outcome, Role

GOOD = Outcome(status=200)
FAILED = Outcome(status=0, failure=FailureCause.CLOSED)
CLIENTS_FAULT = Outcome(status=400)
SHARES = (0.0, 0.25, 0.5, 1.0)
ENDPOINT = st.integers(0, 5)


class Circuits(RuleBasedStateMachine):
    """A pool of one to six endpoints. Canaries are sent as a watcher would, or by nobody."""

    @initialize(count=st.integers(1, 6), share=st.sampled_from(SHARES), canaried=st.booleans(), standby=st.booleans())
    def begin(self, count: int, share: float, canaried: bool, standby: bool) -> None:
        self.now = 1000.0
        self.share = share
        roles = [Role.WARM if standby and not number else Role.HOT for number in range(count)]
        self.states = [
            EndpointState(
                Endpoint(f"e{number}", f"http://e{number}", role=role),
                EndpointHealth(assume_healthy=number % 3 != 2, slow_start=10.0),
            )
            for number, role in enumerate(roles)
        ]
        Fellows(self.states, share).join()
        for state in self.states:
            state.health.canaried = canaried

    def at(self, number: int) -> EndpointHealth:
        return self.states[number % len(self.states)].health

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(number=ENDPOINT, ok=st.booleans())
    def a_probe(self, number: int, ok: bool) -> None:
        health = self.at(number)
        before = health.reachable
        health.probe(ok, self.now)
        assert health.reachable or not ok
        assert ok or before or not health.reachable

    @rule(number=ENDPOINT, outcome=st.sampled_from([GOOD, FAILED, CLIENTS_FAULT]), times=st.integers(1, 12))
    def outcomes(self, number: int, outcome: Outcome, times: int) -> None:
        health = self.at(number)
        out = health.ejected
        for _ in range(times):
            health.record(outcome, self.now)
        if out and health.canaried and not health.admits(self.now):
            assert health.ejected, "only a canary closes the circuit"
        if outcome is CLIENTS_FAULT:
            assert health.ejected is out

    @rule(number=ENDPOINT)
    def a_request(self, number: int) -> None:
        health = self.at(number)
        if health.admits(self.now):
            health.on_dispatch(self.now)

    @rule(number=ENDPOINT)
    def a_first_token(self, number: int) -> None:
        self.at(number).on_first_token(self.now)

    @rule(number=ENDPOINT)
    def it_hangs(self, number: int) -> None:
        health = self.at(number)
        out, others = health.ejected, [one.health.ejected for one in self.states if one.health is not health]
        done = health.eject(Cause.HUNG, self.now)
        assert not (done and (out or not others)), "an only endpoint is never taken out"
        if done:
            assert not all(others)

    @rule(number=ENDPOINT, ok=st.booleans())
    def a_canary(self, number: int, ok: bool) -> None:
        health = self.at(number)
        if not health.canary_due(self.now):
            return
        health.canary(ok, self.now)
        assert health.ejected is not ok
        assert health.admits(self.now) is ok
        if ok:
            assert health.slow_start.under_way(self.now)

    @invariant()
    def never_more_than_the_share_is_out(self) -> None:
        assert sum(state.health.ejected for state in self.states) <= self.share * len(self.states)

    @invariant()
    def what_is_said_agrees(self) -> None:
        for state in self.states:
            health = state.health
            assert health.well is (health.reachable and not health.ejected)
            assert (health.cause is None) is (not health.ejected)
            assert not health.admits(self.now) or health.reachable
            wait = health.retry_after(self.now)
            assert wait is None or 0.0 <= wait <= MAX_OPEN_SECONDS
            assert 1 <= health.slow_start.seats(256, self.now) <= 256

    def teardown(self) -> None:
        """Every endpoint can come back, with canaries and, should whoever sends them have died, without."""
        if not hasattr(self, "states"):
            return
        for number, state in enumerate(self.states):
            health, now = state.health, self.now + MAX_OPEN_SECONDS
            health.probe(True, now)
            if health.canary_due(now) and number % 2:
                health.canary(True, now)
            elif health.ejected:
                now += FORGOTTEN_SECONDS
                assert health.admits(now)
                health.on_dispatch(now)
                health.record(GOOD, now)
            assert health.well
            assert health.admits(now)


TestCircuits = Circuits.TestCase
