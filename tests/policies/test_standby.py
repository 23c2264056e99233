"""Escalation at once or by thresholds, return after a calm, no flapping: as stories, and for any course of events."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from policies.standby import (
    LEVELS,
    RETRY_SECONDS,
    Action,
    Cause,
    Level,
    Lower,
    Moved,
    Raise,
    Standby,
    StandbySettings,
    Stays,
    ranks,
)
from policies.types import Role

HOT, WARM, COLD, DEGRADED = LEVELS
ALL = (WARM, COLD, DEGRADED)
SETTINGS = StandbySettings(
    min_samples=10, calm_seconds=30.0, max_failovers=2, failover_window=300.0, error_window=60.0, latency_window=120.0
)


def machine(levels: Collection[Level] = ALL, settings: StandbySettings = SETTINGS) -> Standby:
    return Standby(settings, levels)


def at_warm(now: float = 0.0, levels: Collection[Level] = ALL) -> Standby:
    one = machine(levels)
    one.look({WARM}, now)
    one.ready(WARM, now)
    return one


def test_it_escalates_at_once_when_no_hot_endpoint_can_take_a_request() -> None:
    one = machine()
    assert one.look({HOT, WARM}, 0.0) == []
    assert one.look({WARM}, 1.0) == [Raise(WARM, Cause.NOBODY)]
    assert one.look({WARM}, 1.1) == [], "it rises already"
    assert (one.level, one.rising) == (HOT, WARM)
    assert one.ready(WARM, 2.0) == [Moved(HOT, WARM, Cause.NOBODY)]
    assert (one.level, one.rising) == (WARM, None)


def test_what_does_not_come_up_is_passed_over_and_all_is_tried_again_after_a_while() -> None:
    one = machine((WARM, COLD))
    one.look((), 0.0)
    assert one.failed(WARM, 1.0) == [Raise(COLD, Cause.NOBODY)]
    assert one.failed(COLD, 2.0) == []
    assert one.look((), 2.0 + RETRY_SECONDS - 0.1) == []
    assert one.look((), 2.0 + RETRY_SECONDS) == [Raise(WARM, Cause.NOBODY)]


def test_who_reports_late_changes_nothing() -> None:
    one = machine()
    one.look((), 0.0)
    one.failed(WARM, 1.0)
    assert one.ready(WARM, 2.0) == []
    assert one.failed(WARM, 2.0) == []
    assert one.rising is COLD


def test_a_standby_that_dies_is_followed_by_the_next_one_down_to_degraded() -> None:
    one = at_warm()
    assert one.look((), 10.0) == [Raise(COLD, Cause.NOBODY)]
    one.ready(COLD, 20.0)
    assert one.look((DEGRADED,), 30.0) == [Raise(DEGRADED, Cause.NOBODY)]
    assert one.ready(DEGRADED, 30.0) == [Moved(COLD, DEGRADED, Cause.NOBODY)]
    assert one.look((DEGRADED,), 31.0) == []


def test_a_pool_without_standbys_stays_as_it_is() -> None:
    one = machine(())
    for now in range(100):
        one.attempted(True, float(now))
        assert one.look((), float(now)) == []
    assert one.level is HOT


def test_too_many_failures_escalate_and_few_samples_do_not() -> None:
    one = machine()
    for number in range(9):
        one.attempted(number == 0, 1.0)
    assert one.look({HOT}, 1.0) == [], "one of nine is too few to say"
    one.attempted(False, 1.0)
    assert one.look({HOT}, 1.0) == [Raise(WARM, Cause.ERRORS)]


def test_failures_at_the_bound_are_allowed() -> None:
    one = machine()
    for number in range(100):
        one.attempted(number < 5, 1.0)
    assert one.look({HOT}, 1.0) == []
    one.attempted(True, 1.0)
    assert one.look({HOT}, 1.0) == [Raise(WARM, Cause.ERRORS)]


def test_failures_of_more_than_a_minute_ago_count_no_more() -> None:
    one = machine()
    for _ in range(20):
        one.attempted(True, 1.0)
    for _ in range(20):
        one.attempted(False, 63.5)
    assert one.look({HOT}, 63.5) == []


def test_slow_first_bytes_escalate_when_their_p95_is_above_the_bound() -> None:
    one = machine()
    for number in range(100):
        one.answered(2.5 if number < 5 else 0.1, 1.0)
    assert one.look({HOT}, 1.0) == []
    one.answered(2.5, 1.0)
    assert one.look({HOT}, 1.0) == [Raise(WARM, Cause.LATENCY)]


def test_thresholds_do_not_degrade_as_that_helps_only_who_would_be_refused() -> None:
    one = machine((DEGRADED,))
    for _ in range(20):
        one.attempted(True, 1.0)
    assert one.look({HOT}, 1.0) == []
    assert one.look({DEGRADED}, 1.0) == [Raise(DEGRADED, Cause.NOBODY)]


def test_it_returns_after_the_calm_and_lowers_what_was_raised() -> None:
    one = at_warm(0.0)
    assert one.look({HOT, WARM}, 10.0) == []
    assert one.look({HOT, WARM}, 39.9) == []
    assert one.look({HOT, WARM}, 40.0) == [Moved(WARM, HOT, Cause.CALM), Lower(WARM)]
    assert (one.level, one.cause) == (HOT, None)


@pytest.mark.parametrize("cause", [Cause.ERRORS, Cause.LATENCY])
def test_the_calm_of_who_failed_or_was_slow_begins_with_the_change_though_it_was_usable_all_along(cause: Cause) -> None:
    one = machine((WARM,))
    one.look({HOT, WARM}, 0.0)
    for _ in range(20):
        one.attempted(cause is Cause.ERRORS, 1000.0)
        one.answered(9.0 if cause is Cause.LATENCY else 0.1, 1000.0)
    assert one.look({HOT, WARM}, 1000.0) == [Raise(WARM, cause)]
    assert one.ready(WARM, 1001.0) == [Moved(HOT, WARM, cause)]
    assert one.look({HOT, WARM}, 1001.1) == []
    assert one.look({HOT, WARM}, 1030.9) == []
    assert one.look({HOT, WARM}, 1031.0) == [Moved(WARM, HOT, Cause.CALM), Lower(WARM)]


def test_it_stays_while_first_bytes_are_late_with_all_that_help() -> None:
    one = machine((WARM,))
    for _ in range(20):
        one.answered(9.0, 0.0)
    one.look({HOT, WARM}, 0.0)
    one.ready(WARM, 0.0)
    for _ in range(20):
        one.answered(9.0, 20.0)
    assert one.look({HOT, WARM}, 40.0) == []
    assert one.look({HOT, WARM}, 20.0 + SETTINGS.latency_window + 5.0) == [Moved(WARM, HOT, Cause.CALM), Lower(WARM)]


def test_a_standby_that_is_slower_keeps_nobody_from_returning_to_who_had_failed() -> None:
    one = machine((WARM,))
    for _ in range(20):
        one.attempted(True, 0.0)
    one.look({HOT, WARM}, 0.0)
    one.ready(WARM, 0.0)
    for _ in range(20):
        one.answered(9.0, 29.0)
    assert one.look({HOT, WARM}, 30.0) == [Moved(WARM, HOT, Cause.CALM), Lower(WARM)]


def test_a_calm_that_is_broken_begins_anew() -> None:
    one = at_warm(0.0)
    one.look({HOT, WARM}, 10.0)
    one.look({WARM}, 35.0)
    one.look({HOT, WARM}, 36.0)
    assert one.look({HOT, WARM}, 50.0) == []
    assert one.look({HOT, WARM}, 66.0)[0] == Moved(WARM, HOT, Cause.CALM)


def test_from_cold_it_returns_to_warm_when_only_that_is_well_again() -> None:
    one = machine()
    one.look((), 0.0)
    one.failed(WARM, 0.0)
    one.ready(COLD, 0.0)
    one.look({WARM, COLD}, 1.0)
    assert one.look({WARM, COLD}, 31.0) == [Moved(COLD, WARM, Cause.CALM), Lower(COLD)]


def test_a_standby_that_comes_when_the_hot_ones_have_long_been_back_is_put_away() -> None:
    one = machine()
    one.look((), 0.0)
    one.failed(WARM, 1.0)
    one.look({HOT}, 20.0)
    assert one.ready(COLD, 60.0) == [Lower(COLD)]
    assert (one.level, one.rising) == (HOT, None)
    assert not one.failovers


def test_after_too_many_failovers_it_stays_and_says_so_once() -> None:
    one, now = machine(), 0.0
    for _ in range(2):
        one.look({WARM}, now)
        one.ready(WARM, now)
        one.look({HOT, WARM}, now + 1)
        last = one.look({HOT, WARM}, now + 31)
        now += 40.0
    assert last == [Stays(WARM, 300.0)]
    assert one.held_up
    assert one.look({HOT, WARM}, 100.0) == []
    assert one.look({HOT, WARM}, 300.0) == [Moved(WARM, HOT, Cause.CALM), Lower(WARM)], "the first is old enough"
    assert not one.held_up


def test_a_reload_goes_on_with_the_level_as_far_as_it_still_exists() -> None:
    before = at_warm()
    after, without = machine(), machine((COLD,))
    after.resume(before)
    without.resume(before)
    assert (after.level, after.cause, list(after.failovers)) == (WARM, Cause.NOBODY, [0.0])
    assert without.level is HOT


@pytest.mark.parametrize(
    ("level", "cause", "first"),
    [
        (HOT, None, {Role.HOT}),
        (WARM, Cause.NOBODY, {Role.WARM}),
        (WARM, Cause.ERRORS, {Role.WARM}),
        (WARM, Cause.LATENCY, {Role.HOT, Role.WARM}),
        (COLD, Cause.NOBODY, {Role.WARM, Role.COLD}),
        (COLD, Cause.LATENCY, {Role.HOT, Role.WARM, Role.COLD}),
    ],
)
def test_who_serves_at_which_level(level: Level, cause: Cause | None, first: set[Role]) -> None:
    order = ranks(level, cause)
    assert {role for role, rank in order.items() if rank == min(order.values())} == first


class AnyCourse(RuleBasedStateMachine):
    """Endpoints come and go, attempts fail, standbys rise or do not, and time passes."""

    @initialize(levels=st.sets(st.sampled_from(ALL)))
    def begin(self, levels: set[Level]) -> None:
        self.machine = machine(levels)
        self.now = 0.0
        self.usable: set[Level] = {HOT}
        self.well_since = dict.fromkeys([HOT], 0.0)
        self.exits: list[float] = []
        self.failed_at = self.exhausted_at = -1e9
        self.up: set[Level] = set()  # raised, and not put away again
        self.samples = 0  # since the level last changed
        self.look()

    def look(self) -> None:
        before, rising = self.machine.level, self.machine.rising
        for level in LEVELS:
            if level not in self.usable:
                self.well_since.pop(level, None)
            else:
                self.well_since.setdefault(level, self.now)
        actions = self.machine.look(self.usable, self.now)
        assert rising is None or not actions, "one thing at a time"
        if any(isinstance(action, Raise) for action in actions):
            assert self.now >= self.exhausted_at + RETRY_SECONDS, "none could be raised a moment ago"
        self.note(actions, before)

    def note(self, actions: list[Action], before: Level) -> None:
        level = before
        for action in actions:
            if isinstance(action, Raise):
                self.check_cause(action)
            elif isinstance(action, Lower):
                self.up.discard(action.level)
            elif isinstance(action, Moved):
                assert action.before is level
                level = action.after
                self.samples = 0
                if action.cause is Cause.CALM:
                    assert LEVELS.index(action.after) < LEVELS.index(action.before)
                    assert self.now - self.well_since[action.after] >= SETTINGS.calm_seconds
                else:
                    assert LEVELS.index(action.after) > LEVELS.index(action.before)
                if action.before is HOT:
                    self.exits.append(self.now)
        assert level is self.machine.level, "every change of the level is told"

    def check_cause(self, action: Raise) -> None:
        assert action.level is self.machine.rising
        assert action.level is not DEGRADED or action.cause is Cause.NOBODY, "it helps only who would be refused"
        if action.cause is not Cause.NOBODY:
            assert self.samples >= SETTINGS.min_samples, "what was seen at another level says nothing of this one"

    def served(self) -> bool:
        """Whether an endpoint of the level in force or of a better one can take a request."""
        order = self.machine.levels
        return bool(self.usable & set(order[: order.index(self.machine.level) + 1]))

    @rule(seconds=st.floats(0.0, 100.0))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.look()

    @rule(usable=st.sets(st.sampled_from(LEVELS)))
    def change(self, usable: set[Level]) -> None:
        self.usable = usable
        self.look()

    @rule(failed=st.booleans(), slow=st.booleans(), count=st.integers(1, 20))
    def serve(self, failed: bool, slow: bool, count: int) -> None:
        for _ in range(count):
            self.machine.attempted(failed, self.now)
            self.machine.answered(9.0 if slow else 0.1, self.now)
        self.samples += count
        self.look()

    @precondition(lambda self: self.machine.rising is not None)
    @rule()
    def come_up(self) -> None:
        assert self.machine.rising is not None
        before = self.machine.level
        self.up.add(self.machine.rising)
        self.note(self.machine.ready(self.machine.rising, self.now), before)

    @precondition(lambda self: self.machine.rising is not None)
    @rule()
    def do_not_come_up(self) -> None:
        assert self.machine.rising is not None
        before = self.machine.level
        self.note(self.machine.failed(self.machine.rising, self.now), before)
        self.failed_at = self.now
        if self.machine.rising is None:
            self.exhausted_at = self.now

    @rule(level=st.sampled_from(ALL), well=st.booleans())
    def somebody_reports_who_was_not_asked(self, level: Level, well: bool) -> None:
        if level is self.machine.rising:
            return
        before = self.machine.level, self.machine.rising
        assert (self.machine.ready if well else self.machine.failed)(level, self.now) == []
        assert (self.machine.level, self.machine.rising) == before

    @invariant()
    def only_a_later_level_rises(self) -> None:
        if self.machine.rising is not None:
            order = self.machine.levels
            assert order.index(self.machine.rising) > order.index(self.machine.level)

    @invariant()
    def whoever_has_nobody_raises_somebody_if_there_is_any(self) -> None:
        tried = self.now < self.failed_at + RETRY_SECONDS
        if not self.served() and self.machine.level is not self.machine.levels[-1] and not tried:
            self.look()
            assert self.machine.rising is not None

    @invariant()
    def nobody_is_raised_for_want_of_anybody_while_somebody_serves(self) -> None:
        if self.machine.rising is None and self.served():
            self.look()
            assert self.machine.rising is None or self.machine.cause is not Cause.NOBODY

    @invariant()
    def what_was_raised_serves_or_is_put_away(self) -> None:
        assert all(LEVELS.index(level) <= LEVELS.index(self.machine.level) for level in self.up)

    @invariant()
    def it_does_not_flap(self) -> None:
        recent = [at for at in self.exits if self.now - at < SETTINGS.failover_window]
        assert len(recent) <= SETTINGS.max_failovers


AnyCourse.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
TestAnyCourse = AnyCourse.TestCase
