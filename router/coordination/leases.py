"""The loop of one replica that keeps its leases: look, renew, acquire, release.

Floor: an adapter; what to do is decided in `policies.coordination.ownership`. One turn looks at all pools at once, and
says in the same breath that we are there and which leases go on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping

from policies.coordination.ownership import HOME_SECONDS, LEASE_SECONDS, Ownership, Step
from router.coordination.store import Snapshot, Store, StoreLost, together

_log = logging.getLogger("promptlane.coordination")

# Four looks a second: a lease survives several that are lost, and a free pool is seen soon.
TICK_SECONDS = 0.25


class Leases:
    """`ownerships`: by pool; it may change between turns. `clock` gives monotonic seconds. `turned` is called after
    every turn, when all ownerships know what was seen."""

    def __init__(
        self,
        store: Store,
        me: str,
        address: str,
        ownerships: Mapping[str, Ownership],
        clock: Callable[[], float],
        *,
        lease_seconds: float = LEASE_SECONDS,
        tick_seconds: float = TICK_SECONDS,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._me = me
        self._address = address
        self._ownerships = ownerships
        self._clock = clock
        self._ttl = lease_seconds
        self._tick_seconds = tick_seconds
        self._turned = turned
        self._wake = asyncio.Event()
        self._turning = asyncio.Lock()
        self._stopping = False
        self.lost = False  # whether the last turn could not reach the store
        self.replicas: Mapping[str, str] = {}  # names and addresses, as last seen

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.turn()
            try:
                async with asyncio.timeout(self._tick_seconds):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()

    def wake(self) -> None:
        """Look now: a peer has said that something changed."""
        self._wake.set()

    async def turn(self) -> None:
        """One look at everything, and what follows from it."""
        async with self._turning:
            began = self._clock()
            try:
                snapshot = await self._look(began)
                self._see(snapshot, began)
                await self._act()
            except StoreLost as error:
                self._could_not(error)
            else:
                if self.lost:
                    _log.info("the store of replicas answers again")
                self.lost = False
            self._turned()

    async def stop(self) -> None:
        """Releases what we hold and says that we are gone; where the store cannot be reached, time will tell it. Turns
        after it see who owns the pools, for what is still under way here."""
        self._stopping = True
        for ownership in self._ownerships.values():
            ownership.stop()
        self._turned()
        async with self._turning:
            try:
                await self._act()
                await self._store.announce(self._me, self._address, 0.0)
            except StoreLost as error:
                self._could_not(error)

    async def _look(self, now: float) -> Snapshot:
        """We are there, our leases go on, what is to be seen: in this order, so that who is dead is gone before its
        leases are free."""
        renewals = [
            self._store.renew(ownership.held, pool, self._ttl)
            for pool, ownership in self._ownerships.items()
            if ownership.next(now) is Step.RENEW and ownership.held is not None
        ]
        look = self._store.look(tuple(self._ownerships))
        ttl = 0.0 if self._stopping else self._ttl
        done = await together([self._store.announce(self._me, self._address, ttl), *renewals, look])
        snapshot = done[-1]
        assert isinstance(snapshot, Snapshot)  # noqa: S101  # the last one asked for
        return snapshot

    def _see(self, snapshot: Snapshot, began: float) -> None:
        self.replicas = snapshot.replicas
        names = tuple(snapshot.replicas)
        for pool, ownership in self._ownerships.items():
            ownership.seen(snapshot.leases.get(pool), names, began, snapshot.homes.get(pool))

    async def _act(self) -> None:
        now = self._clock()
        steps = [(one, one.next(now)) for one in self._ownerships.values()]
        await together(
            [self._acquire(one) for one, step in steps if step is Step.ACQUIRE]
            + [self._release(one) for one, step in steps if step is Step.RELEASE]
            + [
                self._store.settle(one.pool, home, HOME_SECONDS)
                for one in self._ownerships.values()
                if (home := one.home_to_say(now)) is not None
            ]
        )

    async def _acquire(self, ownership: Ownership) -> None:
        began = self._clock()
        lease = await self._store.acquire(ownership.pool, self._me, self._address, self._ttl, ownership.term)
        ownership.acquired(lease, began)
        if ownership.leads(self._clock()):
            _log.info("this replica owns pool %s, term %d", ownership.pool, ownership.term)

    async def _release(self, ownership: Ownership) -> None:
        lease = ownership.held
        if lease is None:
            return
        await self._store.release(lease, ownership.pool)
        ownership.released()
        _log.info("this replica owns pool %s no longer, term %d", ownership.pool, lease.term)

    def _could_not(self, error: StoreLost) -> None:
        now = self._clock()
        for ownership in self._ownerships.values():
            ownership.store_lost(now)
        if not self.lost:
            _log.warning("the store of replicas is lost, owners go on as they are: %s", error)
        self.lost = True
