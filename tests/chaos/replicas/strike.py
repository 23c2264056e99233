"""What a fault does to the processes and their network, and how it is undone.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterable

from tests.chaos.replicas.faults import CUTS, DEADLY, ENDS, OF_REDIS, Kind
from tests.chaos.replicas.installation import REDIS, REPLICAS, Installation
from tests.chaos.replicas.judge import Gone
from tests.chaos.replicas.network import HUB
from tests.chaos.replicas.processes import Life, Spell

END_SECONDS = 30.0
Pair = tuple[str, str]


def pairs_cut(kind: Kind, target: str, owner: str | None) -> list[Pair]:
    """Who is cut off from whom. `owner`: the replica that leads, for who is cut off from it."""
    if kind is Kind.CUT_FOLLOWER_OWNER:
        return [(target, owner)] if owner is not None and owner != target else []
    if kind in (Kind.CUT_FOLLOWER_REDIS, Kind.CUT_OWNER_REDIS):
        return [(target, REDIS)]
    peers = [(target, other) for other in REPLICAS if other != target]
    return [*peers, (target, REDIS), *([(target, HUB)] if kind is Kind.CUT_OWNER_ALL else [])]


async def strike(world: Installation, kind: Kind, life: Life | None, owner: Life | None) -> list[Pair]:
    """The fault begins. Returns who is cut off from whom. `life`: None for a fault of Redis."""
    if life is None:
        world.redis.signal(signal.SIGSTOP if kind is Kind.REDIS_STOP else signal.SIGKILL)
    elif kind in DEADLY:
        life.signal(signal.SIGKILL)
        life.ended_at = time.monotonic()
        await asyncio.to_thread(life.server.process.wait, END_SECONDS)
    elif kind in ENDS:
        life.signal(signal.SIGTERM)
        life.ending = asyncio.create_task(_end(life), name=f"end of {life.name}")
    elif kind in CUTS:
        pairs = pairs_cut(kind, life.replica, owner.replica if owner is not None else None)
        for one, other in pairs:
            await asyncio.to_thread(world.net.cut, one, other)
        return pairs
    else:
        life.signal(signal.SIGSTOP)
    return []


async def mend(world: Installation, kind: Kind, life: Life | None, undo: Iterable[Pair]) -> None:
    """The fault is over; a replica that has ended, or ends, is started anew."""
    if kind in OF_REDIS:
        if kind is Kind.REDIS_STOP:
            world.redis.signal(signal.SIGCONT)
        else:
            await asyncio.to_thread(lambda: world.redis.start(empty=kind is Kind.REDIS_EMPTY))
    elif life is not None and kind in ENDS:
        if life.ending is not None and (status := await life.ending) != 0:
            raise AssertionError(f"{life.name} ended with {status}:\n{life.server.log_tail()}")
        await world.boot(life.replica)
    elif kind in CUTS:
        for one, other in undo:
            await asyncio.to_thread(world.net.heal, one, other)
    elif life is not None:
        life.signal(signal.SIGCONT)


async def _end(life: Life) -> int:
    """The exit status of one that was told to end."""
    status = await asyncio.to_thread(life.server.process.wait, END_SECONDS)
    life.ended_at = time.monotonic()
    return status


def nodes_gone(kind: Kind, replica: str | None, spell: Spell, pairs: Iterable[Pair]) -> list[Gone]:
    """What was not there while it lasted."""
    if replica is None:
        return [Gone(frozenset((REDIS,)), spell.began, spell.ended)]
    if kind in CUTS:
        return [Gone(frozenset(pair), spell.began, spell.ended) for pair in pairs]
    return [Gone(frozenset((replica,)), spell.began, spell.ended)]
