"""What concerns standbys between an owner and a follower: holds, and the way to a degraded pool."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from policies.standby import Level
from policies.waiting import Waiting
from router.coordination.frames import Held
from router.errors import NoEndpoint
from router.keeper import Detour, Terms
from router.pools import Pool
from tests.router.builders import end, request, turns
from tests.router.coordination.world import Replica, pair


class Keeper:
    """Holds everybody, or sends everybody to `pool`, or does neither."""

    level, held = Level.HOT, 0

    def __init__(self, pool: Pool | None = None, *, holds: bool = False) -> None:
        self._pool = pool
        self._holds = holds

    def holds(self, waiting: Waiting, now: float) -> bool:
        if self._holds and waiting.held_since is None:
            waiting.held_since = now
            if waiting.on_hold is not None:
                waiting.on_hold(7.0)
        return self._holds

    def released(self, waiting: Waiting) -> None:
        waiting.held_since = None

    def instead(self) -> Detour | None:
        return self.aside()

    def aside(self) -> Detour | None:
        return Detour(self._pool, self, Terms(None, 10, False, False)) if self._pool is not None else None

    def answered(self, *_: Any) -> None: ...

    def ended(self, *_: Any) -> None: ...


def nobody_left(owner: Replica) -> None:
    owner.states[0].draining = True


async def test_a_follower_hears_that_its_request_is_held_and_has_its_ticket_when_somebody_is_up() -> None:
    owner, follower, _ = pair()
    owner.pool.keeper = Keeper(holds=True)
    nobody_left(owner)
    heard: list[float] = []
    task = asyncio.create_task(follower.pool.dispatch(request(), on_hold=heard.append))
    await turns(6)
    assert (heard, task.done(), len(owner.pool.waiting)) == ([7.0], False, 1)
    owner.states[0].draining = False
    owner.pool.run_pass()
    (await asyncio.wait_for(task, 60)).settle(None)


async def test_who_does_not_want_to_hear_of_a_hold_does_not() -> None:
    owner, follower, wire = pair()
    owner.pool.keeper = Keeper(holds=True)
    nobody_left(owner)
    task = asyncio.create_task(follower.pool.dispatch(request()))
    await turns(6)
    assert len(owner.pool.waiting) == 1
    assert not [one for one in wire.said if isinstance(one, Held)]
    await end([task])


async def test_where_the_owner_is_degraded_the_followers_own_way_is_taken() -> None:
    owner, follower, _ = pair()
    theirs, ours = Replica("x").pool, Replica("y").pool
    owner.pool.keeper, follower.pool.keeper = Keeper(theirs), Keeper(ours)
    nobody_left(owner)
    with pytest.raises(Detour) as caught:
        await follower.pool.dispatch(request())
    assert caught.value.pool is ours


async def test_a_follower_that_has_no_such_way_says_that_nobody_is_there() -> None:
    owner, follower, _ = pair()
    owner.pool.keeper = Keeper(Replica("x").pool)
    nobody_left(owner)
    nobody_left(follower)
    with pytest.raises(NoEndpoint):
        await follower.pool.dispatch(request())
