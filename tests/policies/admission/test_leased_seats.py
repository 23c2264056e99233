"""Replicas together never have more requests under way than allowed, whatever happens; and every seat can be used."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.admission.counting import ASK, FITS, UNAVAILABLE, UNKNOWN, Charge
from policies.admission.leased_seats import LEASE_SECONDS, SAFE_SECONDS, LeasedSeats
from policies.types import Alone
from tests.policies.admission.shared_store import Replica, SharedStore

REPLICAS = 3
STEPS = st.lists(
    st.tuples(
        st.sampled_from([0.0, 0.01, 0.25, 0.25, 1.0, LEASE_SECONDS + 0.2]),
        st.sampled_from(
            ["take"] * 8
            + ["end", "end", "end", "lose an answer", "die", "stop", "wake", "store away", "store back", "store empty"]
        ),
        st.integers(0, REPLICAS - 1),
    ),
    max_size=60,
)
Steps = list[tuple[float, str, int]]


@dataclass
class World:
    """Replicas of one limit; `open`: what is under way, by replica. `stopped`: processes that do not run."""

    limit: int = 7
    rule: Alone = Alone.SHARE
    count: int = REPLICAS
    stopped: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.store = SharedStore(self.limit)
        self.born = 0
        self.replicas = [self._replica() for _ in range(self.count)]
        self.open: list[list[Charge]] = [[] for _ in range(self.count)]
        self.pass_time(0.5)

    def _replica(self) -> Replica:
        self.born += 1
        return Replica(f"r{self.born}", self.store, LeasedSeats(self.limit, self.rule, self.count))

    def seats(self, which: int) -> LeasedSeats:
        counter = self.replicas[which].counter
        assert isinstance(counter, LeasedSeats)
        return counter

    def pass_time(self, seconds: float) -> None:
        end = self.store.now + seconds
        while self.store.now < end:
            self.store.now = min(end, self.store.now + 0.25)
            for which, replica in enumerate(self.replicas):
                if which not in self.stopped:
                    replica.talk()

    def take(self, which: int) -> bool:
        if which in self.stopped:
            return False
        seats = self.seats(which)
        answer = seats.check(1, self.store.now)
        for _ in range(4):
            if answer != ASK:
                break
            seats.wait_for(1)
            self.replicas[which].talk()
            answer = seats.check(1, self.store.now)
            if answer == ASK:
                self.pass_time(0.25)
                answer = seats.check(1, self.store.now)
        if answer != FITS:
            return False
        self.open[which].append(seats.charge(1, self.store.now))
        return True

    def end(self, which: int) -> None:
        if self.open[which]:
            self.open[which].pop().settle(0, self.store.now)

    def die(self, which: int) -> None:
        self.replicas[which], self.open[which] = self._replica(), []
        self.stopped.discard(which)

    @property
    def running(self) -> int:
        """Requests of processes that run: those of a stopped one are nobody's to see."""
        return sum(len(one) for which, one in enumerate(self.open) if which not in self.stopped)


def play(world: World, steps: Steps) -> None:
    for seconds, action, which in steps:
        world.pass_time(seconds)
        if action == "take":
            before = world.running
            if world.take(which):
                assert before + 1 <= world.limit
        elif action == "end":
            world.end(which)
        elif action == "lose an answer":
            if which not in world.stopped:
                world.replicas[which].talk(answer_lost=True)
        elif action == "die":
            if world.store.reachable:
                world.die(which)
        elif action == "stop":
            world.stopped.add(which)
        elif action == "wake":
            world.stopped.discard(which)
        elif action == "store empty":
            world.store.forget()
            world.store.reachable = True
        else:
            world.store.reachable = action == "store back"


@settings(deadline=None)
@given(STEPS)
def test_no_request_is_let_in_above_the_limit_whatever_happens_to_replicas_and_store(steps: Steps) -> None:
    play(World(), steps)


@settings(deadline=None)
@given(STEPS)
def test_when_all_is_over_every_seat_is_free_again_wherever_it_is_wanted(steps: Steps) -> None:
    world = World()
    play(world, steps)
    world.store.reachable, world.stopped = True, set()
    for which in range(world.count):
        while world.open[which]:
            world.end(which)
    world.pass_time(LEASE_SECONDS + 3.0)
    assert [world.take(0) for _ in range(world.limit + 1)] == [True] * world.limit + [False]


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
def test_one_replica_of_four_can_use_every_seat(limit: int) -> None:
    world = World(limit=limit, count=4)
    assert all(world.take(0) for _ in range(limit))
    assert not world.take(1)


def test_a_seat_that_is_free_here_costs_no_question() -> None:
    world = World(limit=100, count=1)
    for _ in range(20):
        world.take(0)
    world.pass_time(0.5)
    for _ in range(10):
        world.end(0)
    assert all(world.seats(0).check(amount, world.store.now) == FITS for amount in range(1, 10))


def test_a_replica_that_has_less_than_its_share_gets_it_as_others_requests_end() -> None:
    world = World(limit=8, count=2)
    for _ in range(8):
        assert world.take(0)
    mine = 0
    for _ in range(12):
        mine += world.take(1)
        world.end(0)
        world.take(0)  # the other replica's clients do not let up
        world.pass_time(0.25)
    assert mine >= 3


def test_seats_of_a_dead_replica_are_back_after_its_lease_and_not_before() -> None:
    world = World(limit=4, count=2)
    for _ in range(4):
        assert world.take(0)
    world.stopped.add(0)
    world.pass_time(LEASE_SECONDS - 0.5)
    assert not world.take(1)
    world.pass_time(1.0)
    assert world.take(1)


def test_a_replica_that_was_stopped_uses_none_of_its_seats_when_it_wakes_without_asking() -> None:
    world = World(limit=4, count=2)
    assert world.take(0)
    world.stopped.add(0)
    world.store.now += SAFE_SECONDS + 0.1
    world.stopped.clear()
    assert world.seats(0).check(1, world.store.now) == ASK


def test_without_the_store_each_keeps_the_seats_that_it_had() -> None:
    world = World(limit=12, count=2)
    for _ in range(4):
        world.take(0)
    world.pass_time(0.5)
    world.store.reachable = False
    world.pass_time(30.0)
    taken = [0, 0]
    for which in (0, 1):
        while world.take(which):
            taken[which] += 1
    assert taken[1] >= 1, "the idle one was left some"
    assert world.running <= 12
    world.end(0)
    assert world.take(0)


def test_seats_that_nobody_can_be_given_are_not_given_up_while_the_store_is_away() -> None:
    world = World(limit=12, count=2)
    assert [world.take(0) for _ in range(8)] == [True] * 8
    world.store.reachable = False
    world.pass_time(1.0)
    for _ in range(8):
        world.end(0)
    world.pass_time(30.0)  # a quiet half minute
    assert [world.take(0) for _ in range(8)] == [True] * 8


@pytest.mark.parametrize(("rule", "answer"), [(Alone.ALLOW, FITS), (Alone.REFUSE, UNAVAILABLE), (Alone.SHARE, UNKNOWN)])
def test_what_happens_without_the_store_is_as_configured(rule: Alone, answer: float) -> None:
    seats = LeasedSeats(3, rule, 2)
    seats.ask(1.0)
    seats.unheard(1.0)
    assert seats.check(1, 1.0) == FITS, "its share by the number of replicas"
    seats.charge(1, 1.0)
    assert seats.check(1, 1.0) == answer
