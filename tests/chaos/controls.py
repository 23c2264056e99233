"""Beside a schedule: control streams of the tenants that no fault touches, and what the gateway counts of their pools.

Floor: tests only. What the figures mean is in `bystanders.py`.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from router.secret import cache_salt
from tests.chaos.ask import Seen, draw_ask
from tests.chaos.bystanders import Waits, longest_waits
from tests.chaos.faults import Schedule
from tests.chaos.stalls import Stalls
from tests.chaos.world import ENGINE_MODEL, GATEWAY, SECRET, World

CONTROLS = 2
"""Clients of each such tenant that ask past the gateway, each with one stream at a time."""
FOUND_SECONDS = 1.5
"""About what it takes to find an engine that hangs."""


class Controls:
    """From `begin` to `end`; then what was seen."""

    def __init__(self, world: World, schedule: Schedule) -> None:
        self.tenants = [tenant for tenant in world.tiers if tenant not in schedule.pools]
        self._world = world
        self._seed = schedule.seed
        self._over = asyncio.Event()
        self._seen: list[Seen] = []
        self.stalls = Stalls(world.pids)
        self._before: dict[str, Counter[str]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, group: asyncio.TaskGroup) -> None:
        self._before = await self._world.disturbances()
        self._tasks = [group.create_task(self.stalls.run(), name="stalls")]
        for tenant in self.tenants:
            for number in range(CONTROLS):
                group.create_task(self._client(tenant, number), name=f"control {number} of {tenant}")

    def end(self) -> None:
        """Streams under way go on to their end."""
        self._over.set()
        for task in self._tasks:
            task.cancel()

    async def _client(self, tenant: str, number: int) -> None:
        """Streams like those of the tenant's clients."""
        draw = random.Random(f"control {self._seed} {tenant} {number}")
        client, salt = self._world.past_gateway(tenant), cache_salt(SECRET.encode(), tenant)
        while not self._over.is_set():
            ask = draw_ask(draw, tenant, ENGINE_MODEL, ENGINE_MODEL)
            self._seen.append(await client.send(replace(ask, stream=True, salt=salt)))
            await asyncio.sleep(draw.uniform(0.0, 0.05))

    def waits(self, seen: Iterable[Seen]) -> dict[str, Waits]:
        """`seen`: what the gateway's clients saw."""
        seen, stood = list(seen), self.stalls.seconds
        found = {}
        for tenant in self.tenants:
            through = [one for one in seen if one.ask.tenant == tenant]
            past = [one for one in self._seen if one.ask.tenant == tenant]
            engine = self._world.of_pool(tenant)[0]
            found[tenant] = Waits(
                longest_waits(through, stood, lambda one: (GATEWAY, one.endpoint)),
                longest_waits(past, stood, lambda _, engine=engine: (engine,)),  # type: ignore[misc]
            )
        return found

    async def disturbed(self) -> list[str]:
        """What should not have been counted of their pools. An engine that the machine let stand still for about as
        long as it takes to find one that hangs was rightly taken for one."""
        after = await self._world.disturbances()
        found = []
        for pool in self.tenants:
            more = after[pool] - self._before[pool]
            hung = all('cause="hung"' in what for what in more)
            way = (GATEWAY, *self._world.of_pool(pool))
            if more and not (hung and self.stalls.worst(FOUND_SECONDS, way) > FOUND_SECONDS / 2):
                found.append(f"{pool}, which no fault touched, had {dict(more)}")
        return found
