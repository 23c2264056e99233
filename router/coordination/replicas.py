"""This process as one of several replicas: its leases, its links to the others, and its part in every pool.

Floor: an adapter that holds the others of this room together. One loop looks at the store for all pools, off the path
of requests; what follows from a look, a new connection or a lost one is done at once, for each pool in its `Remote`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from policies.coordination.ownership import LEASE_SECONDS, Lease, Ownership
from router.coordination.address import BadAddress
from router.coordination.affinity import Affinity
from router.coordination.frames import Known
from router.coordination.journal import JournalStore
from router.coordination.leases import TICK_SECONDS, Leases
from router.coordination.link import Link
from router.coordination.office import Office
from router.coordination.pulse import Limits
from router.coordination.remote import Mode, Remote
from router.coordination.server import LinkServer, serve_links
from router.coordination.store import Store
from router.metrics import Metrics
from router.pools import Pool

_log = logging.getLogger("promptlane.coordination")

# Every so many looks (four a second) each other replica is asked how it is; a link that is idle is asked more often.
_INQUIRE_TURNS = 4


@dataclass(frozen=True, slots=True)
class ReplicasSettings:
    """`me`: this process's name, used by no other and never again; `listen`: where links come in; `advertise`: what the
    others are told of that, given the address at which it really listens. TLS contexts: None for none."""

    me: str
    listen: str
    advertise: Callable[[str], str] = lambda bound: bound
    lease_seconds: float = LEASE_SECONDS
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None
    limits: Limits = field(default_factory=Limits)


class Replicas:
    """`clock` gives monotonic seconds. `journals`: where owners leave what they know of engines' caches."""

    def __init__(
        self,
        settings: ReplicasSettings,
        store: Store,
        secret: bytes,
        clock: Callable[[], float],
        metrics: Metrics,
        journals: JournalStore | None = None,
    ) -> None:
        self.settings = settings
        self.office = Office(self._part, clock, metrics, lambda: self.remotes, self._reaches)
        self.remotes: dict[str, Remote] = {}
        self.links: dict[str, Link] = {}
        self._store = store
        self._journals = journals
        self._secret = secret
        self._clock = clock
        self._metrics = metrics
        self._ownerships: dict[str, Ownership] = {}
        self._owners: dict[str, Lease | None] = {}
        self._turns = 0
        self._refused: set[str] = set()  # addresses that are none
        self._ended: set[str] = set()  # replicas where others listen now: no name is used again
        self._server: LinkServer | None = None
        self._leases: Leases | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- for the runtime ---------------------------------------------------------------------------------------------

    def serve(self, pools: Mapping[str, Pool]) -> None:
        """From now on these are the pools: at first, and after every reload. Those that are gone are given up."""
        for name, pool in pools.items():
            ownership = self._ownerships.get(name)
            if ownership is None or ownership is not self._ownership_of(name):
                ownership = self._ownerships[name] = Ownership(
                    name, self.settings.me, lease_seconds=self.settings.lease_seconds
                )
                self.remotes[name] = self._remote(ownership)
            self.remotes[name].serve(pool)
        for name in self.remotes.keys() - pools.keys():
            self._ownerships[name].stop()
            self.remotes.pop(name).look()
        self._wake()

    async def start(self) -> None:
        """Listens, looks at the store once and begins to look at it. Raises OSError where it cannot listen."""
        settings = self.settings
        self._server = await serve_links(
            settings.listen, self._secret, self.office.open, me=settings.me, tls=settings.server_tls,
            limits=settings.limits,
        )  # fmt: skip
        self._leases = Leases(
            self._store,
            settings.me,
            settings.advertise(self._server.address),
            self._ownerships,
            self._clock,
            lease_seconds=settings.lease_seconds,
            turned=self._turned,
        )
        await self._leases.turn()
        self._begin("leases of pools", self._run(self._leases))

    async def hand_over(self) -> None:
        """This replica is about to end: others decide from now on, also for what is still under way here."""
        if self._leases is not None:
            await self._leases.stop()
            self._leases.wake()

    async def stop(self) -> None:
        """Ends all of it; to be called when no request is under way any more."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for affinity in [remote.affinity for remote in self.remotes.values() if remote.affinity is not None]:
            affinity.end()
            await affinity.stopped()
        await asyncio.gather(*(link.close() for link in self.links.values()))
        await self.office.close()
        if self._server is not None:
            await self._server.close()
        await self._store.close()

    # -- for operators -----------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where the links of others come in."""
        return self._server.address if self._server is not None else ""

    @property
    def store_lost(self) -> bool:
        """Whether the store could not be reached at the last look."""
        return self._leases is None or self._leases.lost

    def others_reach(self) -> bool:
        """Whether another replica reaches an engine, as far as is known."""
        return any(link.reaches for link in self.links.values())

    def describe(self) -> dict[str, object]:
        """The replicas that are seen, and whether there is a connection to each."""
        seen = self._leases.replicas if self._leases is not None else {}
        return {
            "me": self.settings.me,
            "store": "lost" if self.store_lost else "ok",
            "replicas": {
                name: {"address": address, "connected": name in self.links and self.links[name].connected}
                for name, address in sorted(seen.items())
                if name != self.settings.me
            },
        }

    # -- inside ------------------------------------------------------------------------------------------------------

    def _remote(self, ownership: Ownership) -> Remote:
        journals = self._journals
        affinity = Affinity(journals, ownership.pool, self._clock) if journals is not None else None
        return Remote(
            ownership, self._reach, self._wake, self._clock, self._metrics, self.office.seats, affinity=affinity
        )

    def _ownership_of(self, name: str) -> Ownership | None:
        remote = self.remotes.get(name)
        return remote.ownership if remote is not None else None

    def _reaches(self) -> bool:
        return any(remote.pool.reaches_one() for remote in self.remotes.values())

    def _part(self, pool: str) -> Remote | None:
        return self.remotes.get(pool)

    def _reach(self, lease: Lease) -> Link | None:
        link = self.links.get(lease.replica)
        return link if link is not None and link.peer == lease.replica else None

    def _wake(self) -> None:
        if self._leases is not None:
            self._leases.wake()

    async def _run(self, leases: Leases) -> None:
        while True:
            try:
                await leases.run()
            except Exception:  # a background loop ends with its process, not with one odd moment
                _log.exception("looking at the store of replicas failed")
                self._metrics.add("promptlane_internal_errors", "replicas")
                await asyncio.sleep(TICK_SECONDS)

    def _turned(self) -> None:
        """A look at the store is over."""
        leases = self._leases
        if leases is None:
            return
        if leases.lost:
            self._metrics.add("promptlane_replica_store_failures")
        self._turns += 1
        if leases.lost or not self._turns % _INQUIRE_TURNS:  # without a store nobody else tells
            for link in self.links.values():
                link.inquire()
        known = dict(leases.replicas)
        known |= {owner.replica: owner.address for one in self._ownerships.values() if (owner := one.owner) is not None}
        self._connect(known)
        for remote in list(self.remotes.values()):
            remote.look()
            self._fence(remote)
        self._retire()

    def _connect(self, known: Mapping[str, str]) -> None:
        """One link to each other replica, so that whoever owns a pool next can be asked at once. While the store is
        away those that it named last are tried again and again: one that was cut off learns so who came after it."""
        self._ended &= known.keys()
        for name, address in known.items():
            if name in self._ended or name == self.settings.me:
                continue
            if name not in self.links and address not in self._refused:
                self._link(name, address)
        for name, link in list(self.links.items()):
            if name in known or link.connected:  # a store that has lost its memory is no reason to let go of anybody
                link.connect()
            else:
                self._let_go(name)

    def _link(self, name: str, address: str) -> None:
        asker = _Asker(self, name)
        try:
            asker.link = self.links[name] = Link(
                address, self._secret, me=self.settings.me, asker=asker, tls=self.settings.client_tls,
                limits=self.settings.limits, random=Random(),
            )  # fmt: skip
        except BadAddress as error:
            self._refused.add(address)
            _log.error("replica %s cannot be asked: %s", name, error)

    def _let_go(self, name: str) -> None:
        link = self.links.pop(name)
        for remote in self.remotes.values():
            remote.seats.leave(link)
        self._begin(f"closing the link to {name}", link.close())

    def _fence(self, remote: Remote) -> None:
        """Whoever led a pool before and does not know yet that it does no longer hears it from all who know."""
        name, owner = remote.ownership.pool, remote.ownership.owner
        before = self._owners.get(name)
        if owner is None or owner == before:
            return
        self._owners[name] = owner
        _log.info("pool %s is %s, term %d", name, _whose(remote), owner.term)
        for replica, link in self.links.items():
            if replica != owner.replica:
                link.fence(name, owner.term)

    def _retire(self) -> None:
        """Pools that a reload has removed, once their leases are released."""
        for name in self._ownerships.keys() - self.remotes.keys():
            if self._ownerships[name].held is None:
                del self._ownerships[name]
                self._owners.pop(name, None)

    def connected(self, name: str, link: Link) -> None:
        """A new connection to an owner: it is told of everything that is under way there, of nothing too."""
        if link.peer != name and not self._is_anothers(name, link):
            return
        for remote in self.remotes.values():
            remote.seats.tell(link)
            owner, term = remote.ownership.owner, remote.ownership.term
            if term and (owner is None or name != owner.replica):
                link.fence(remote.ownership.pool, term)
        link.inquire()
        self.disconnected()

    def _is_anothers(self, name: str, link: Link) -> bool:
        """A replica has ended, and another one listens where it did; whether the link stays, as that one's: without a
        store nobody else tells of it."""
        self._ended.add(name)
        peer = link.peer
        if self.links.get(name) is not link:
            return False
        if peer is None or peer == self.settings.me or peer in self.links or not self.store_lost:
            self._let_go(name)
            return False
        self.links[peer] = self.links.pop(name)
        for remote in self.remotes.values():
            remote.seats.leave(link)
        return True

    def told(self, link: Link, known: Sequence[Known]) -> None:
        """A replica that we are connected to knows of these terms: it may have seen an owner that we have not."""
        if link.peer is None:
            return
        for one in known:
            if (remote := self.remotes.get(one.pool)) is not None:
                remote.told(Lease(link.peer, str(link.address), one.term), leads=one.mine)

    def disconnected(self) -> None:
        for remote in list(self.remotes.values()):
            remote.look()

    def _begin(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Asker:
    """Hears what becomes of one link's connections."""

    link: Link

    def __init__(self, replicas: Replicas, name: str) -> None:
        self._replicas = replicas
        self._name = name

    def connected(self) -> None:
        name, self._name = self._name, self.link.peer or self._name
        self._replicas.connected(name, self.link)

    def told(self, known: Sequence[Known]) -> None:
        self._replicas.told(self.link, known)

    def disconnected(self, reason: str) -> None:
        self._replicas.disconnected()


def _whose(remote: Remote) -> str:
    owner = remote.ownership.owner
    return "led here" if remote.mode is Mode.LEADS else f"led by replica {owner.replica if owner else '?'}"
