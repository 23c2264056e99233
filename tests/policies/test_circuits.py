"""The circuits of a whole pool, whatever happens to its endpoints in whatever order."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from policies.endpoint_state import EndpointState
from policies.health import FORGOTTEN_SECONDS, MAX_OPEN_SECONDS, OPEN_SECONDS, TRIAL_SECONDS, Cause, EndpointHealth
from policies.outliers import Fellows
from policies.types import Endpoint, FailureCause, Outcome, Role

GOOD = Outcome(status=200)
FAILED = Outcome(status=0, failure=FailureCause.CLOSED)
CLIENTS_FAULT = Outcome(status=400)
SHARES = (0.0, 0.25, 0.5, 1.0)
ENDPOINT = st.integers(0, 5)


@dataclass
class Seen:
    """What a test saw of one circuit. `until`: when its time is over, None where it is closed; `seconds`: how long it
    was open last; `proven`: a whole answer has come since; `bad_probes`: in a row; `asked`: when a request was let
    through to decide."""

    health: EndpointHealth
    until: float | None = None
    seconds: float = 0.0
    proven: bool = True
    bad_probes: int = 0
    asked: float | None = None

    def decides(self, now: float) -> bool:
        """Whether what becomes of a client's request closes or opens it again."""
        return self.until is not None and now >= self.until and (not self.health.canaried or self.asked is not None)

    def follow(self, now: float) -> None:
        """It may have opened or closed just now."""
        until = self.health._open_until
        if until is not None and until != self.until:
            seconds = until - now
            least = min(2 * self.seconds, MAX_OPEN_SECONDS) if self.seconds and not self.proven else OPEN_SECONDS
            assert least - 1e-6 <= seconds <= MAX_OPEN_SECONDS + 1e-6, "for longer each time, within a bound"
            self.seconds, self.proven = seconds, False
        if until != self.until:
            self.asked = None
        self.until = until


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
        self.seen = [Seen(state.health) for state in self.states]

    def at(self, number: int) -> EndpointHealth:
        return self.one(number).health

    def one(self, number: int) -> Seen:
        return self.seen[number % len(self.seen)]

    @rule(seconds=st.floats(0.0, 40.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def those_who_send_canaries_are_forgotten(self) -> None:
        self.now += MAX_OPEN_SECONDS + FORGOTTEN_SECONDS

    @rule(number=ENDPOINT, ok=st.booleans())
    def a_probe(self, number: int, ok: bool) -> None:
        one = self.one(number)
        health = one.health
        before, out = health.reachable, health.ejected
        health.probe(ok, self.now)
        one.bad_probes = 0 if ok else one.bad_probes + 1
        assert health.reachable is (ok or (before and one.bad_probes < 2)), "one failed probe is an accident"
        assert health.ejected is out, "that a process answers says nothing of its engine"

    @rule(number=ENDPOINT)
    def its_process_is_restarted(self, number: int) -> None:
        for ok in (False, False, True):
            self.a_probe(number, ok)
        assert self.at(number).well is not self.at(number).ejected

    @rule(number=ENDPOINT, outcome=st.sampled_from([GOOD, FAILED, CLIENTS_FAULT]), times=st.integers(1, 12))
    def outcomes(self, number: int, outcome: Outcome, times: int) -> None:
        one = self.one(number)
        health, until, decides = one.health, one.until, one.decides(self.now)
        for _ in range(times):
            health.record(outcome, self.now)
        if until is not None and not decides:
            assert health._open_until == until, "what was sent before it opened decides nothing"
        elif until is not None:
            assert health.ejected is (outcome is not GOOD)
            assert (health._open_until == until) is (outcome is CLIENTS_FAULT), "a failed trial is a longer time"
        elif outcome is CLIENTS_FAULT:
            assert not health.ejected
        one.follow(self.now)
        one.proven = one.proven or (outcome is GOOD and one.until is None)
        one.asked = None if outcome is CLIENTS_FAULT else one.asked

    @rule(number=ENDPOINT)
    def a_request(self, number: int) -> None:
        one = self.one(number)
        if one.health.admits(self.now):
            one.health.on_dispatch(self.now)
            if one.until is not None:
                one.asked = self.now
                assert not one.health.admits(self.now), "one is enough to find out"

    @rule(number=ENDPOINT)
    def a_first_token(self, number: int) -> None:
        one = self.one(number)
        closes = one.decides(self.now)
        one.health.on_first_token(self.now)
        assert one.health.ejected is (one.until is not None and not closes)
        one.follow(self.now)

    @rule(number=ENDPOINT)
    def it_hangs(self, number: int) -> None:
        health = self.at(number)
        out, others = health.ejected, [one.health.ejected for one in self.states if one.health is not health]
        done = health.eject(Cause.HUNG, self.now)
        assert not (done and (out or not others)), "an only endpoint is never taken out"
        if done:
            assert not all(others)
        self.one(number).follow(self.now)

    @rule(number=ENDPOINT, ok=st.booleans())
    def a_canary(self, number: int, ok: bool) -> None:
        one = self.one(number)
        health = one.health
        if health.canary_due(self.now):
            health.canary(ok, self.now)
            assert health.ejected is not ok
            assert health.admits(self.now) is ok
            if ok:
                assert health.slow_start.under_way(self.now)
        elif one.until is None or self.now < one.until:
            health.canary(ok, self.now)
            assert health._open_until == one.until, "an early one decides nothing"
        one.follow(self.now)

    @rule(number=ENDPOINT, times=st.integers(2, 8))
    def it_stays_broken(self, number: int, times: int) -> None:
        one = self.one(number)
        for _ in range(times):
            if one.until is not None and one.health.reachable and one.health.canaried:
                self.now = max(self.now, one.until)
                one.health.canary(False, self.now)
                one.follow(self.now)

    @rule(number=ENDPOINT, ok=st.booleans())
    def a_canary_is_good_and_then_a_request(self, number: int, ok: bool) -> None:
        one = self.one(number)
        if one.until is None or not one.health.reachable or not one.health.canaried:
            return
        self.now = max(self.now, one.until)
        one.health.canary(True, self.now)
        one.follow(self.now)
        assert one.health.fellows is not None
        opens = not ok and one.health.fellows.may_eject(one.health)
        one.health.record(GOOD if ok else FAILED, self.now)
        assert one.health.ejected is opens, "closed on trust, it opens with the next failure"
        one.follow(self.now)
        one.proven = one.proven or ok

    @invariant()
    def never_more_than_the_share_is_out(self) -> None:
        assert sum(state.health.ejected for state in self.states) <= self.share * len(self.states)

    @invariant()
    def what_is_out_gets_nothing_before_its_time(self) -> None:
        for one in self.seen:
            if one.until is None:
                continue
            early = self.now < one.until + (FORGOTTEN_SECONDS if one.health.canaried else 0.0)
            tried = one.asked is not None and self.now < one.asked + TRIAL_SECONDS
            assert not ((early or tried) and one.health.admits(self.now))
            assert not (self.now < one.until and one.health.canary_due(self.now))

    @invariant()
    def what_is_said_agrees(self) -> None:
        for state in self.states:
            health = state.health
            assert health.well is (health.reachable and not health.ejected)
            assert (health.cause is None) is (not health.ejected)
            assert not health.admits(self.now) or health.reachable
            assert health.admits(self.now) or not health.well
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
