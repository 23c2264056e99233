"""Replicas of one process over real sockets, with a store in memory: who is found, followed, fenced and let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from policies.coordination.ownership import Lease
from policies.registry import make_profile
from router.coordination.remote import Mode
from router.coordination.replicas import Replicas, ReplicasSettings
from router.coordination.store import Snapshot, StoreLost
from router.metrics import Metrics
from router.pools import Place, Pool
from router.upstream import Upstream
from tests.chaos.wire import Wire
from tests.policies.builders import make_state
from tests.router.builders import LIMITS, NOBODY, Lane, Random, make_attempts, make_desk, request
from tests.router.coordination.builders import SECRET
from tests.router.coordination.peers import until


@dataclass
class Memory:
    """A store in which nothing ends by itself."""

    leases: dict[str, Lease] = field(default_factory=dict)
    replicas: dict[str, str] = field(default_factory=dict)
    terms: int = 0
    lost: bool = False
    homes: dict[str, str] = field(default_factory=dict)

    async def look(self, pools: Sequence[str]) -> Snapshot:
        self._there()
        return Snapshot(dict(self.leases), dict(self.replicas), dict(self.homes))

    async def acquire(self, pool: str, me: str, address: str, ttl: float, above: int = 0) -> Lease | None:
        self._there()
        if pool in self.leases:
            return None
        self.terms = max(self.terms, above) + 1
        lease = self.leases[pool] = Lease(me, address, self.terms)
        return lease

    async def renew(self, lease: Lease, pool: str, ttl: float) -> bool:
        self._there()
        return self.leases.get(pool) == lease

    async def release(self, lease: Lease, pool: str) -> None:
        self._there()
        if self.leases.get(pool) == lease:
            del self.leases[pool]

    async def settle(self, pool: str, home: str, ttl: float) -> None:
        self._there()
        self.homes[pool] = home

    async def announce(self, me: str, address: str, ttl: float) -> None:
        self._there()
        self.replicas.pop(me, None) if ttl <= 0 else self.replicas.__setitem__(me, address)

    async def close(self) -> None: ...

    def dies(self, name: str) -> None:
        """As the time to live of what it had would do."""
        self.replicas.pop(name, None)
        self.leases = {pool: lease for pool, lease in self.leases.items() if lease.replica != name}

    def _there(self) -> None:
        if self.lost:
            raise StoreLost("it is gone")


@dataclass
class View(Memory):
    """The same store as one replica reaches it, or not."""

    @classmethod
    def of(cls, store: Memory) -> View:
        return cls(store.leases, store.replicas, homes=store.homes)


class One:
    """A replica with pools of these names. `through`: the wire by which others reach it."""

    def __init__(
        self, name: str, store: Memory, *pools: str, secret: bytes = SECRET, through: Wire | None = None
    ) -> None:
        self.name = name
        self.metrics = Metrics()
        self.clock = asyncio.get_running_loop().time
        settings = ReplicasSettings(name, "tcp://127.0.0.1:0", _relayed(through))
        self.replicas = Replicas(settings, store, secret, self.clock, self.metrics)
        self.pools = {pool: self.pool(pool) for pool in pools}
        self.replicas.serve(self.pools)

    def pool(self, name: str) -> Pool:
        return Pool(
            name,
            [Place(make_state("e0"), Upstream(NOBODY, timeouts=LIMITS))],
            make_profile("prompt-aware", Random(1)),
            make_desk(),
            self.clock,
            attempts=make_attempts(),
            when_full=dict.fromkeys(Lane, 503),
            alone=make_profile("prompt-aware-at-once", Random(1)),
        )

    def mode(self, pool: str = "p") -> Mode:
        return self.replicas.remotes[pool].look()

    def in_flight(self, pool: str = "p") -> int:
        return sum(state.in_flight for state in self.pools[pool].states)


def _relayed(wire: Wire | None) -> Callable[[str], str]:
    def advertised(bound: str) -> str:
        if wire is None:
            return bound
        wire.target = ("127.0.0.1", int(bound.rpartition(":")[2]))
        return f"tcp://127.0.0.1:{wire.port}"

    return advertised


@asynccontextmanager
async def running(*ones: One) -> AsyncIterator[None]:
    for one in ones:
        await one.replicas.start()
    try:
        yield
    finally:
        for one in ones:
            await one.replicas.stop()


async def settled(*ones: One) -> tuple[One, list[One]]:
    """The owner of `p`, and who follows it."""
    await until(lambda: sorted(one.mode() for one in ones) == [Mode.FOLLOWS] * (len(ones) - 1) + [Mode.LEADS])
    owner = next(one for one in ones if one.mode() is Mode.LEADS)
    return owner, [one for one in ones if one is not owner]


async def ask(one: One) -> None:
    deadline = one.clock() + 60.0
    (await one.pools["p"].dispatch(request(deadline=deadline))).settle(None)


async def test_replicas_find_each_other_and_one_decides_for_all() -> None:
    store = Memory()
    ones = [One(name, store, "p") for name in "abc"]
    async with running(*ones):
        owner, followers = await settled(*ones)
        for one in followers:
            ticket = await one.pools["p"].dispatch(request(deadline=one.clock() + 60.0))
            assert (owner.in_flight(), one.in_flight()) == (1, 1)
            ticket.settle(None)
            await until(lambda: owner.in_flight() == 0)
        assert [one.metrics.total("promptlane_replica_decisions", "p", "follows") for one in followers] == [1, 1]
        described = followers[0].replicas.describe()
        assert (described["me"], described["store"]) == (followers[0].name, "ok")
        assert sorted(described["replicas"]) == sorted(one.name for one in ones if one is not followers[0])  # type: ignore[call-overload]


async def test_what_a_dead_owner_had_is_led_by_another_and_its_link_is_let_go() -> None:
    store = Memory()
    ones = [One(name, store, "p") for name in "abc"]
    async with running(*ones):
        owner, followers = await settled(*ones)
        await owner.replicas.stop()
        store.dies(owner.name)
        await settled(*followers)
        await until(lambda: all(owner.name not in one.replicas.links for one in followers))
        await ask(followers[0])


async def test_an_owner_that_ends_has_handed_over_and_follows_until_its_end() -> None:
    store = Memory()
    ones = [One(name, store, "p") for name in "ab"]
    async with running(*ones):
        owner, (other,) = await settled(*ones)
        ticket = await owner.pools["p"].dispatch(request(deadline=owner.clock() + 60.0))
        await owner.replicas.hand_over()
        await until(lambda: (owner.mode(), other.mode()) == (Mode.FOLLOWS, Mode.LEADS))
        await until(lambda: other.in_flight() == 1)
        assert owner.name not in store.replicas
        ticket.settle(None)
        await until(lambda: other.in_flight() == 0)
        await ask(owner)


async def test_a_store_that_is_lost_changes_nothing_and_is_counted() -> None:
    store = Memory()
    ones = [One(name, store, "p") for name in "ab"]
    async with running(*ones):
        owner, (other,) = await settled(*ones)
        store.lost = True
        await until(lambda: all(one.replicas.store_lost for one in ones))
        assert (owner.mode(), other.mode()) == (Mode.LEADS, Mode.FOLLOWS)
        await ask(other)
        assert other.metrics.total("promptlane_replica_store_failures") >= 1
        store.lost = False
        store.leases.clear()
        store.replicas.clear()
        await until(lambda: not any(one.replicas.store_lost for one in ones) and "p" in store.leases)
        await settled(*ones)


async def test_a_replica_that_starts_without_its_store_decides_alone() -> None:
    store = Memory(lost=True)
    one = One("a", store, "p")
    async with running(one):
        assert (one.mode(), one.replicas.store_lost) == (Mode.ALONE, True)
        await ask(one)
        store.lost = False
        await settled(one)


async def test_who_has_another_secret_is_not_asked() -> None:
    store = Memory()
    ours, theirs = One("a", store, "p"), One("b", store, "p", secret=SECRET[::-1])
    async with running(ours, theirs):
        await until(lambda: Mode.LEADS in (ours.mode(), theirs.mode()))
        await until(lambda: len(store.replicas) == 2)
        for one in (ours, theirs):
            await ask(one)
        assert sorted([ours.mode(), theirs.mode()]) == [Mode.ALONE, Mode.LEADS]


async def test_another_replica_at_the_address_of_one_that_ended_is_not_taken_for_it() -> None:
    store = Memory()
    one, other = One("a", store, "p"), One("b", store, "p")
    async with running(one, other):
        store.replicas["gone"] = other.replicas.address
        store.leases["p"] = Lease("gone", other.replicas.address, 7)
        await until(lambda: one.replicas.remotes["p"].term >= 7)
        await ask(one)
        assert one.mode() is Mode.ALONE
        store.dies("gone")
        await settled(one, other)


async def test_an_address_that_is_none_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    store = Memory(replicas={"odd": "nowhere"})
    one = One("a", store, "p")
    async with running(one):
        await settled(one)
        assert [record for record in caplog.records if "odd" in record.getMessage()]


async def test_pools_that_a_reload_removes_are_given_up_and_those_it_adds_are_led() -> None:
    store = Memory()
    one = One("a", store, "p", "q")
    async with running(one):
        await until(lambda: set(store.leases) == {"p", "q"})
        one.pools = {"p": one.pools["p"], "r": one.pool("r")}
        one.replicas.serve(one.pools)
        await until(lambda: set(store.leases) == {"p", "r"})
        one.pools = {name: one.pool(name) for name in ("p", "q")}
        one.replicas.serve(one.pools)
        await until(lambda: set(store.leases) == {"p", "q"} and one.mode("q") is Mode.LEADS)
        assert one.pools["p"].remote is one.replicas.remotes["p"]


async def test_an_owner_that_was_cut_off_from_everybody_is_told_by_a_peer_though_the_store_is_away() -> None:
    """It was cut off, another took its pool, the store died, the network is whole again: it calls on the other one,
    which has no reason to call on it."""
    store = Memory()
    views, wires = (View.of(store), View.of(store)), (Wire(("", 0)), Wire(("", 0)))
    ones = [One(name, view, "p", through=wire) for name, view, wire in zip("ab", views, wires, strict=True)]
    for wire in wires:
        await wire.start()
    async with running(*ones):
        owner, (other,) = await settled(*ones)
        views[ones.index(owner)].lost = True
        for wire in wires:
            wire.cut()
        del store.leases["p"], store.replicas[owner.name]
        await until(lambda: other.mode() is Mode.LEADS and owner.name not in other.replicas.links)
        assert owner.mode() is Mode.LEADS  # it goes on for its own clients
        views[ones.index(other)].lost = True
        await until(lambda: other.replicas.store_lost)
        for wire in wires:
            await wire.mend()
        await until(lambda: owner.mode() is Mode.FOLLOWS)
        assert other.mode() is Mode.LEADS
        await ask(owner)
        assert other.metrics.total("promptlane_replica_asked", "bound") == 1
        for view in views:
            view.lost = False
        await settled(owner, other)
    for wire in wires:
        await wire.stop()


async def test_who_comes_after_one_that_ended_is_found_at_its_address_though_the_store_is_away() -> None:
    store, wire = Memory(), Wire(("", 0))
    one, first = One("a", store, "p"), One("b", store, "p", through=wire)
    await wire.start()
    async with running(one):
        async with running(first):
            await settled(one, first)
        store.replicas["b"] = f"tcp://127.0.0.1:{wire.port}"
        await until(lambda: "b" in one.replicas.links)
        store.lost = True
        await until(lambda: one.replicas.store_lost)
        second = One("c", Memory(), "p", through=wire)
        second.replicas.remotes["p"].fenced(10**9)  # it has seen what others did not
        async with running(second):
            await until(lambda: one.replicas.remotes["p"].term >= 10**9)
            assert one.replicas.links.keys() == {"c"}
    await wire.stop()
