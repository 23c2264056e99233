"""Replicas together never exceed a window, whatever happens to them and to the store; and what is left can be used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission.calendar import DAY, MINUTE, MONTH, Calendar
from policies.admission.counting import ASK, FITS, UNAVAILABLE, Charge
from policies.admission.leased import RESPEND_SECONDS, LeasedWindow
from policies.admission.leased_seats import LEASE_SECONDS
from policies.types import Alone
from tests.policies.admission.shared_store import Replica, SharedStore

REPLICAS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.1, 0.25, 0.25, 0.6, 1.1, 7.0, 29.0, 61.0]),
        st.sampled_from(
            ["use"] * 6
            + ["settle", "lose an answer", "die", "store away", "store back", "store empty", "cut", "mend", "hammer"]
        ),
        st.integers(0, REPLICAS - 1),
        st.integers(1, 60),
    ),
    max_size=60,
)
Steps = list[tuple[float, str, int, int]]
CUT_SECONDS = LEASE_SECONDS - 0.5
"""So long a replica alone may not reach the store."""


@dataclass
class World:
    """Replicas of one window, and everything that was ever spent: when, and how much in the end."""

    limit: int = 100
    calendar: Calendar = MINUTE
    rule: Alone = Alone.SHARE
    count: int = REPLICAS
    spent: list[list[float]] = field(default_factory=list)
    open: list[tuple[Charge, list[float]]] = field(default_factory=list)
    cut_at: float | None = None

    def __post_init__(self) -> None:
        self.store = SharedStore(self.limit)
        self.born = 0
        self.replicas = [self._replica() for _ in range(self.count)]
        self.turn()
        self.turn()

    def _replica(self) -> Replica:
        self.born += 1
        window = LeasedWindow(self.limit, self.calendar, self.rule, 0.0, self.count)
        return Replica(f"r{self.born}", self.store, window)

    def turn(self) -> None:
        for replica in self.replicas:
            replica.talk()

    def pass_time(self, seconds: float) -> None:
        """In looks a quarter of a second apart, as they are; over long times only around its ends."""
        end = self.store.now + seconds
        if self.cut_at is not None and end > self.cut_at + CUT_SECONDS:
            self.mend()
        if seconds > 6:
            self.store.now = end - 3
        while self.store.now < end:
            self.store.now = min(end, self.store.now + 0.25)
            self.turn()

    def use(self, which: int, amount: int) -> bool:
        """One request at one replica, that asks the store where it must."""
        window = self._window(which)
        answer = window.check(amount, self.store.now)
        for _ in range(5):
            if answer != ASK:
                break
            window.wait_for(amount)
            self.replicas[which].talk()
            answer = window.check(amount, self.store.now)
            if answer == ASK:  # others have it and do not need it
                self.pass_time(0.25)
                answer = window.check(amount, self.store.now)
        if answer != FITS:
            return False
        entry = [self.store.now, amount]
        self.open.append((window.charge(amount, self.store.now), entry))
        self.spent.append(entry)
        return True

    def settle(self, which: int, actual: int) -> None:
        if self.open:
            charge, entry = self.open.pop(which % len(self.open))
            entry[1] = min(entry[1], actual)
            charge.settle(int(entry[1]), self.store.now)

    def die(self, which: int) -> None:
        """Its last words have been heard, but for when the store has lost its memory since: then by the store alone."""
        self.replicas[which].talk()
        if all(one.knows_epoch for one in self.replicas):
            self.turn()
        self.replicas[which] = self._replica()
        self.open.clear()  # whose charges they are is not told apart: none is settled any more
        self.replicas[which].talk()

    def forget(self) -> None:
        """The store loses its memory. What it had granted, others than those who got it have heard of."""
        self.mend()  # what a replica cannot tell such a store, it does not know
        self.hear()
        self.store.forget()
        self.store.reachable = True

    def hear(self) -> None:
        if self.store.reachable:
            self.turn()

    def worst(self) -> float:
        """The most that was spent in any 60 s."""
        return max(
            (sum(a for at, a in self.spent if last - 60 + 1e-6 < at <= last) for last, _ in self.spent), default=0.0
        )

    def cut(self, which: int) -> None:
        """This replica alone does not reach the store, which knows what it has."""
        if self.cut_at is None and self.store.reachable:
            self.hear()
            self.replicas[which].cut, self.cut_at = True, self.store.now

    def mend(self) -> None:
        for replica in self.replicas:
            replica.cut = False
        self.cut_at = None

    def hammer(self, seconds: float, amount: int) -> None:
        """Everybody takes what there is."""
        end = self.store.now + seconds
        while self.store.now < end:
            for which in range(self.count):
                self.use(which, amount)
            self.pass_time(0.25)

    def _window(self, which: int) -> LeasedWindow:
        counter = self.replicas[which].counter
        assert isinstance(counter, LeasedWindow)
        return counter


def play(world: World, steps: Steps) -> None:
    for seconds, action, which, amount in steps:
        world.pass_time(seconds)
        if action == "use":
            world.use(which, amount)
        elif action == "hammer":
            world.hammer(seconds=3.0, amount=amount)
        elif action == "cut":
            world.cut(which)
        elif action == "mend":
            world.mend()
        elif action == "settle":
            world.settle(which, amount)
        elif action == "lose an answer":
            world.replicas[which].talk(answer_lost=True)
        elif action == "die":
            if world.store.reachable and not world.replicas[which].cut:
                world.die(which)
        elif action == "store empty":
            world.forget()
        else:
            world.hear()
            world.store.reachable = action == "store back"


@settings(deadline=None)
@given(STEPS)
def test_no_minute_sees_more_than_the_limit_whatever_happens_to_replicas_and_store(steps: Steps) -> None:
    world = World()
    play(world, steps)
    assert world.worst() <= world.limit


def test_nobody_spends_again_what_the_store_may_have_given_to_others() -> None:
    assert RESPEND_SECONDS >= LEASE_SECONDS


@pytest.mark.parametrize("seconds", [3.0, 5.3, 9.0])
def test_a_replica_that_alone_is_cut_off_spends_nothing_that_others_are_granted(seconds: float) -> None:
    world, draw = World(limit=240), Random(1)
    for _ in range(280):  # 70 s of a load somewhat above the limit
        for which in range(3):
            if draw.random() < 0.5:
                world.use(which, 1)
        world.pass_time(0.25)
    world.cut(0)
    world.hammer(seconds, 1)
    world.mend()
    world.hammer(3.0, 1)
    assert world.worst() <= 240


@settings(deadline=None)
@given(STEPS)
def test_what_nobody_needs_any_more_comes_back_as_a_whole(steps: Steps) -> None:
    world = World()
    play(world, steps)
    world.mend()
    world.store.reachable = True
    world.pass_time(6.0)
    world.pass_time(70.0)
    for replica in world.replicas[1:]:
        world.store.counts.last.pop(replica.name, None)
    world.replicas = world.replicas[:1]
    world.pass_time(3.5)
    assert world.use(0, world.limit)
    assert not world.use(0, 1)


@pytest.mark.parametrize("limit", [4, 10, 600])
def test_one_busy_replica_of_four_can_use_the_whole_limit_within_seconds(limit: int) -> None:
    world, used = World(limit=limit, count=4), 0
    for _ in range(12):
        while world.use(0, 1):
            used += 1
        world.pass_time(0.25)
    assert used == limit


@pytest.mark.parametrize("limit", [10, 600])
def test_four_busy_replicas_use_97_of_100_of_what_many_minutes_allow(limit: int) -> None:
    world, minutes, used = World(limit=limit, count=4), 10, 0
    end = world.store.now + minutes * 60
    while world.store.now < end:
        for which in range(4):
            while world.use(which, 1):
                used += 1
        world.pass_time(0.25)
    assert used >= 0.97 * limit * minutes
    assert world.worst() <= limit


def test_a_request_with_a_chunk_at_hand_asks_nobody_and_a_refusal_is_remembered() -> None:
    world = World(limit=1000, count=1)
    window = world._window(0)
    for _ in range(20):
        world.use(0, 2)
    world.pass_time(0.25)
    assert window.check(2, world.store.now) == FITS
    while world.use(0, 50):
        pass
    refused = window.check(50, world.store.now)
    assert 50 < refused < 62, "when the first of it leaves the window, to the slice"
    world.store.now += 0.26
    assert window.check(50, world.store.now) == ASK, "others may have given something back"


def test_nothing_is_kept_of_slices_that_have_left_the_window() -> None:
    world = World(limit=100, count=1)
    window = world._window(0)
    for _ in range(8):
        assert world.use(0, 5)
        for _ in range(70):  # each turn asks in the slice of its moment
            world.pass_time(1.0)
    assert len(window._stored) <= len(window._mine) <= 3


def test_the_wait_that_is_told_is_true() -> None:
    world = World(limit=100, count=2)
    assert world.use(0, 60)
    world.pass_time(10.0)
    assert world.use(1, 40)
    world.pass_time(1.0)
    assert not world.use(0, 50)
    wait = world._window(0).check(50, world.store.now)
    world.pass_time(wait - 1.5)
    assert not world.use(0, 50)
    world.pass_time(1.75)
    assert world.use(0, 50)


def test_a_dead_replicas_unspent_chunk_is_charged_and_its_reserve_is_back_soon() -> None:
    world = World(limit=100, count=2)
    world.use(0, 30)
    world.replicas.pop(0)
    world.pass_time(LEASE_SECONDS + 1.0)
    left = 0
    while world.use(0, 1):
        left += 1
    assert 60 <= left <= 70


def test_a_short_loss_of_the_store_is_bridged_by_what_was_kept_for_it() -> None:
    world = World(limit=600, count=3)
    world.pass_time(2.0)
    world.store.reachable = False
    world.turn()
    used = [0, 0, 0]
    for which in range(3):
        while world.use(which, 1):
            used[which] += 1
    assert all(40 <= one <= 100 for one in used), used
    assert world.worst() <= 600


def test_without_the_store_each_replica_has_its_share_and_together_they_use_nearly_all_of_it() -> None:
    world = World(limit=90, count=3)
    world.store.reachable = False
    world.turn()
    end, used = world.store.now + 300, 0
    while world.store.now < end:
        for which in range(3):
            while world.use(which, 1):
                used += 1 if world.store.now > end - 180 else 0
        world.pass_time(0.5)
    assert used >= 0.95 * 90 * 3
    assert world.worst() <= 90


@pytest.mark.parametrize(("rule", "answer"), [(Alone.ALLOW, FITS), (Alone.REFUSE, UNAVAILABLE)])
def test_without_the_store_all_is_allowed_or_refused_where_that_is_said(rule: Alone, answer: float) -> None:
    world = World(rule=rule)
    world.store.reachable = False
    world.turn()
    world.pass_time(2.0)
    assert world._window(0).check(99, world.store.now) == answer


def test_what_was_allowed_without_the_store_is_charged_when_it_is_back() -> None:
    world = World(limit=100, rule=Alone.ALLOW, count=2)
    world.store.reachable = False
    world.turn()
    for _ in range(5):
        assert world.use(0, 40)
    world.store.reachable = True
    world.pass_time(3.0)
    assert not world.use(1, 1)


def test_a_store_that_returns_empty_grants_nothing_before_all_have_told_what_they_used() -> None:
    world = World(limit=100, count=3)
    for which in range(3):
        assert world.use(which, 30)
    world.pass_time(1.0)
    world.store.forget()
    world.replicas[0].talk()
    assert not world.use(0, 20), "the others have not told yet"
    world.pass_time(1.0)
    assert world.use(0, 5)
    assert not world.use(1, 20)


def test_a_replica_that_never_reached_the_store_has_its_share_by_the_number_of_replicas() -> None:
    window = LeasedWindow(100, MINUTE, Alone.SHARE, 0.0, 4)
    window.ask(5.0)
    window.unheard(5.0)
    assert window.check(25, 5.0) == FITS
    window.charge(25, 5.0)
    assert window.check(1, 5.1) > 0


def test_an_overrun_is_charged_and_what_is_more_than_the_limit_can_never_pass() -> None:
    world = World(limit=100, count=1)
    assert world.use(0, 10)
    world.open[0][0].settle(95, world.store.now)
    assert not world.use(0, 6)
    assert math.isnan(world._window(0).check(101, world.store.now))


@pytest.mark.parametrize("calendar", [DAY, MONTH])
def test_a_day_and_a_month_are_shared_too_and_a_chunk_is_not_kept_for_long(calendar: Calendar) -> None:
    world = World(limit=1000, calendar=calendar, count=2)
    assert world.use(0, 400)
    world.pass_time(3.0)
    assert world.use(1, 400)
    world.pass_time(3.0)
    used = 0
    for _ in range(8):
        while world.use(0, 10):
            used += 10
        world.pass_time(0.5)
    assert used == 200
    assert not world.use(0, 10)
    wait = world._window(0).check(10, world.store.now)
    assert wait > 3600


def test_the_month_ends_for_everybody_at_the_same_moment() -> None:
    at = 1_772_323_200.0  # 2026-03-01T00:00:00Z
    february, march = MONTH.first(at - 0.001), MONTH.first(at)
    assert march == february + 1
    assert MONTH.leaves(february) == at
    assert MONTH.stamp(at - 0.2) == (february, at), "a chunk of February is not spent in March"


@given(st.floats(1e9, 2e9), st.sampled_from([MINUTE, DAY]))
def test_a_chunk_lies_in_its_window_no_earlier_than_it_may_be_spent(at: float, calendar: Calendar) -> None:
    number, end = calendar.stamp(at)
    assert at < end <= at + 1.0
    assert calendar.leaves(number) >= end + calendar.seconds
    assert number >= calendar.first(end)


def test_a_reserve_that_a_lost_answer_took_away_is_not_spent() -> None:
    """The store tells a replica to keep less, gives the rest to others, and the replica never hears of it."""
    world = World(limit=600, count=2)
    world.pass_time(3.0)
    assert world.use(0, 400)
    world.replicas[1].talk()
    world.replicas[1].talk(answer_lost=True)
    window, now = world._window(0), world.store.now
    while True:  # all that the store gives, while the other replica says nothing
        if window.check(1, now) == ASK:
            window.wait_for(1)
            world.replicas[0].talk()
        if window.check(1, now) != FITS:
            break
        window.charge(1, now)
        world.spent.append([now, 1])
    while world.use(1, 1):
        pass
    assert 540 < world.worst() <= 600
