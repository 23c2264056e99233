"""Several replicas and one store, whatever is lost, late, asleep, dead or emptied: no two with one term, none that
leads although it knows better, and one for each pool as soon as all is calm."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from policies.coordination.ownership import LEASE_SECONDS, Lease, Ownership, Step, preferred

POOLS = ("a", "b", "c", "d")
TICK = 0.25
FAULTS = st.sampled_from(["none", "none", "asked in vain", "answer lost", "late"])


@dataclass
class World:
    """The store and the time. `granted`: who got which term, ever."""

    now: float = 100.0
    leases: dict[str, tuple[Lease, float]] = field(default_factory=dict)
    there: dict[str, float] = field(default_factory=dict)
    counters: Counter[str] = field(default_factory=Counter)
    granted: dict[tuple[str, int], str] = field(default_factory=dict)
    late: list[Callable[[], object]] = field(default_factory=list)

    def lease(self, pool: str) -> Lease | None:
        lease, until = self.leases.get(pool, (None, 0.0))
        return lease if until > self.now else None

    def replicas(self) -> list[str]:
        return [name for name, until in self.there.items() if until > self.now]

    def acquire(self, pool: str, me: str, above: int) -> Lease | None:
        if self.lease(pool) is not None:
            return None
        # As the store's script does: its clock goes on where its memory was lost, and no two calls are at one time.
        self.now += 1e-6
        term = max(self.counters[pool] + 1, above + 1, int(self.now * 1e6))
        self.counters[pool] = term
        lease = Lease(me, me, term)
        assert (pool, term) not in self.granted, "a term was given out twice"
        self.granted[pool, term] = me
        self.leases[pool] = (lease, self.now + LEASE_SECONDS)
        return lease

    def renew(self, pool: str, lease: Lease) -> None:
        if self.lease(pool) == lease:
            self.leases[pool] = (lease, self.now + LEASE_SECONDS)

    def release(self, pool: str, lease: Lease) -> None:
        if self.lease(pool) == lease:
            del self.leases[pool]

    def empty(self) -> None:
        self.leases.clear()
        self.there.clear()
        self.counters.clear()


class Replica:
    """What `router.coordination.leases` does in one turn, with a store that fails as it is told to."""

    def __init__(self, name: str, world: World) -> None:
        self.name, self.world = name, world
        self.ownerships = {pool: Ownership(pool, name) for pool in POOLS}
        self.told: Counter[str] = Counter()  # the highest term that it was told of, by pool
        self.alive, self.asleep, self.cut_off = True, False, False

    def turn(self, fault: str = "none") -> None:
        if not self.alive or self.asleep:
            return
        world, began = self.world, self.world.now
        if self.cut_off:
            fault = "asked in vain"
        if not self._reach(self._refresh, fault):
            self._lost()
            return
        names = world.replicas()
        for pool, ownership in self.ownerships.items():
            lease = world.lease(pool)
            self._hears(pool, lease)
            ownership.seen(lease, names, began)
        for pool, ownership in self.ownerships.items():
            self._act(pool, ownership, fault)

    def _refresh(self) -> None:
        self.world.there[self.name] = self.world.now + LEASE_SECONDS
        for pool, ownership in self.ownerships.items():
            held = ownership.held
            if ownership.next(self.world.now) is Step.RENEW and held is not None:
                self.world.renew(pool, held)

    def _act(self, pool: str, ownership: Ownership, fault: str) -> None:
        step, world = ownership.next(world_now := self.world.now), self.world
        got: list[Lease | None] = []
        held, above = ownership.held, ownership.term
        if step is Step.ACQUIRE:
            if self._reach(lambda: got.append(world.acquire(pool, self.name, above)), fault):
                self._hears(pool, got[0])
                ownership.acquired(got[0], world_now)
            else:
                ownership.store_lost(world_now)
        elif step is Step.RELEASE and held is not None:
            if self._reach(lambda: world.release(pool, held), fault):
                ownership.released()
            else:
                ownership.store_lost(world_now)

    def _reach(self, call: Callable[[], object], fault: str) -> bool:
        """Whether an answer came. A call may have been made without one, now or later."""
        if fault == "late":
            self.world.late.append(call)
        elif fault != "asked in vain":
            call()
        return fault == "none"

    def _lost(self) -> None:
        for ownership in self.ownerships.values():
            ownership.store_lost(self.world.now)

    def _hears(self, pool: str, lease: Lease | None) -> None:
        if lease is not None:
            self.told[pool] = max(self.told[pool], lease.term)

    def fenced(self, pool: str, term: int) -> None:
        if self.alive and not self.asleep:
            self.told[pool] = max(self.told[pool], term)
            self.ownerships[pool].fenced(term)

    def stop(self) -> None:
        for ownership in self.ownerships.values():
            ownership.stop()
        self.turn()
        self.world.there.pop(self.name, None)
        self.alive = False

    def leads(self, pool: str) -> bool:
        return self.alive and not self.asleep and self.ownerships[pool].leads(self.world.now)


class Replicas(RuleBasedStateMachine):
    names = Bundle("names")

    @initialize()
    def begin(self) -> None:
        self.world = World()
        self.replicas: dict[str, Replica] = {}
        for number in range(3):
            self.replicas[f"r{number}"] = Replica(f"r{number}", self.world)
        self.calm()

    @rule(which=st.integers(0, 9), fault=FAULTS)
    def one_looks(self, which: int, fault: str) -> None:
        self._pick(which).turn(fault)

    @rule(seconds=st.sampled_from([0.1, 0.25, 0.6, 1.6]))
    def time_passes_without_anybody(self, seconds: float) -> None:
        self.world.now += seconds

    @rule(ticks=st.integers(1, 8), fault=FAULTS)
    def all_go_on(self, ticks: int, fault: str) -> None:
        for _ in range(ticks):
            self.world.now += TICK
            for replica in list(self.replicas.values()):
                replica.turn(fault)
                self.nobody_leads_who_knows_better()

    @rule(which=st.integers(0, 9))
    def one_is_stopped_and_goes_on_later(self, which: int) -> None:
        replica = self._pick(which)
        replica.asleep = not replica.asleep

    @rule(which=st.integers(0, 9))
    def one_is_cut_off_from_the_store_or_no_longer(self, which: int) -> None:
        replica = self._pick(which)
        replica.cut_off = not replica.cut_off

    @rule(which=st.integers(0, 9))
    def one_dies(self, which: int) -> None:
        if len(self._living()) > 1:
            self._pick(which).alive = False

    @rule(which=st.integers(0, 9))
    def one_ends(self, which: int) -> None:
        if len(self._living()) > 1:
            self._pick(which).stop()

    @rule()
    def one_joins(self) -> None:
        if len(self._living()) < 5:
            name = f"r{len(self.replicas)}"
            self.replicas[name] = Replica(name, self.world)

    @rule()
    def the_store_restarts_empty(self) -> None:
        self.world.empty()

    @rule()
    def late_calls_arrive(self) -> None:
        late, self.world.late = self.world.late, []
        for call in late:
            call()

    @rule(which=st.integers(0, 9), pool=st.sampled_from(POOLS))
    def one_is_told_by_a_peer(self, which: int, pool: str) -> None:
        highest = max((replica.ownerships[pool].term for replica in self._living()), default=0)
        self._pick(which).fenced(pool, highest)

    @rule(which=st.integers(0, 9), other=st.integers(0, 9))
    def two_connect(self, which: int, other: int) -> None:
        """Also where neither reaches the store. Afterwards they do not both decide."""
        meet(self._pick(which), self._pick(other))

    @rule()
    def all_is_calm(self) -> None:
        self.calm()

    @invariant()
    def nobody_leads_who_knows_better(self) -> None:
        for pool in POOLS:
            terms = [r.ownerships[pool].term for r in self.replicas.values() if r.leads(pool)]
            assert len(terms) == len(set(terms)), "two lead with the same term"
            for replica in self.replicas.values():
                if replica.leads(pool):
                    term = replica.ownerships[pool].term
                    assert self.world.granted[pool, term] == replica.name, "it leads with another's term"
                    assert term >= replica.told[pool], "it knew of a higher term"

    def calm(self) -> None:
        """Nothing fails any more: soon every pool has one owner, the one that it belongs to, and stays there."""
        for replica in self.replicas.values():
            replica.asleep = replica.cut_off = False
        self.late_calls_arrive()
        self._ticks(40 * 2**3)  # the longest patience is 64 s
        owners = {pool: self._leaders(pool) for pool in POOLS}
        names = [replica.name for replica in self._living()]
        assert owners == {pool: [preferred(pool, names)] for pool in POOLS}
        grants = len(self.world.granted)
        self._ticks(20)
        assert len(self.world.granted) == grants, "ownership changes though nothing happens"

    def _ticks(self, count: int) -> None:
        for _ in range(count):
            self.world.now += TICK
            for replica in self.replicas.values():
                replica.turn()

    def _leaders(self, pool: str) -> list[str]:
        return [replica.name for replica in self.replicas.values() if replica.leads(pool)]

    def _living(self) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.alive]

    def _pick(self, which: int) -> Replica:
        living = self._living()
        return living[which % len(living)]


Replicas.TestCase.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
TestReplicas = Replicas.TestCase


def meet(one: Replica, other: Replica) -> None:
    """What two say to each other on a new connection: the highest terms that they know, and who leads with them."""
    if one is other or one.asleep or other.asleep:
        return
    for pool in POOLS:
        for here, there in ((one, other), (other, one)):
            term, leads = there.ownerships[pool].term, there.leads(pool)
            here.fenced(pool, term)
            if leads:
                here.ownerships[pool].led_by(Lease(there.name, there.name, term))
        assert not (one.leads(pool) and other.leads(pool)), "both lead though they have spoken"


def settled(count: int) -> tuple[World, dict[str, Replica]]:
    """So many replicas that have been there for long."""
    world = World()
    replicas = {f"r{number}": Replica(f"r{number}", world) for number in range(count)}
    run(world, replicas, 6.0)
    return world, replicas


def run(world: World, replicas: dict[str, Replica], seconds: float) -> list[tuple[float, str, list[str]]]:
    """Who led each pool after every tick; the replicas look one after the other within it."""
    seen = []
    for _ in range(round(seconds / TICK)):
        for replica in replicas.values():
            world.now += TICK / len(replicas)
            replica.turn()
        seen += [(world.now, pool, [r.name for r in replicas.values() if r.leads(pool)]) for pool in POOLS]
    return seen


def test_a_dead_owners_pools_have_new_owners_within_two_seconds() -> None:
    for victim in ("r0", "r1", "r2"):
        world, replicas = settled(3)
        orphaned = [pool for pool in POOLS if replicas[victim].leads(pool)]
        died = world.now
        replicas[victim].alive = False
        seen = run(world, replicas, 3.0)
        for pool in orphaned:
            assert min(at for at, name, leaders in seen if name == pool and leaders) - died <= 2.0


def test_an_owner_that_ends_leaves_its_pools_to_others_at_their_next_look() -> None:
    _, replicas = settled(3)
    owner = next(replica for replica in replicas.values() if replica.leads("a"))
    owner.stop()
    for replica in replicas.values():
        replica.turn()
    assert [replica.name for replica in replicas.values() if replica.leads("a")]


def test_a_replica_that_joins_gets_its_pools_once_and_the_others_keep_theirs() -> None:
    world, replicas = settled(3)
    before = len(world.granted)
    after = preferred_of(["r0", "r1", "r2", "r3"])
    moved = [pool for pool, owner in after.items() if owner == "r3"]
    replicas["r3"] = Replica("r3", world)
    run(world, replicas, 20.0)
    assert len(world.granted) - before == len(moved)
    assert {pool: [r.name for r in replicas.values() if r.leads(pool)] for pool in POOLS} == {
        pool: [owner] for pool, owner in after.items()
    }


def test_a_restart_of_the_store_that_forgets_everything_moves_no_pool() -> None:
    world, replicas = settled(3)
    before = {pool: [r.name for r in replicas.values() if r.leads(pool)] for pool in POOLS}
    for replica in replicas.values():
        replica.turn("asked in vain")
    world.empty()
    for _, pool, leaders in run(world, replicas, 5.0):
        assert leaders == before[pool]


def test_two_owners_of_one_pool_are_told_apart_by_their_terms_and_the_older_one_stops_when_told() -> None:
    world, replicas = settled(3)
    cut = next(replica for replica in replicas.values() if replica.leads("a"))
    cut.cut_off = True
    run(world, replicas, 3.0)
    both = [replica for replica in replicas.values() if replica.leads("a")]
    new = next(replica for replica in both if replica is not cut)
    assert len(both) == 2
    assert new.ownerships["a"].term > cut.ownerships["a"].term
    cut.fenced("a", new.ownerships["a"].term)
    run(world, replicas, 5.0)
    assert [replica for replica in replicas.values() if replica.leads("a")] == [new]


def test_an_old_owner_that_reaches_nobody_but_a_peer_goes_by_what_that_one_knows() -> None:
    world, replicas = settled(3)
    cut = next(replica for replica in replicas.values() if replica.leads("a"))
    cut.cut_off = True
    run(world, replicas, 3.0)
    for replica in replicas.values():
        replica.cut_off = True  # the store is gone for all
    run(world, replicas, 1.0)
    new = next(replica for replica in replicas.values() if replica.leads("a") and replica is not cut)
    third = next(replica for replica in replicas.values() if replica not in (cut, new))
    meet(cut, third)
    assert not cut.leads("a")
    assert cut.ownerships["a"].owner is None
    meet(cut, new)
    run(world, replicas, 5.0)
    owner = cut.ownerships["a"].owner
    assert owner is not None
    assert owner.replica == new.name
    assert [replica for replica in replicas.values() if replica.leads("a")] == [new]


def preferred_of(names: list[str]) -> dict[str, str | None]:
    return {pool: preferred(pool, names) for pool in POOLS}
