"""Requests of several replicas leave for an engine in the order in which their owner has decided them."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.replicas_parts.wire import Wire
from benchmarks.virtual_loop import run
from router.pools import Pool
from tests.router.builders import request
from tests.router.coordination.world import POOL, Replica

SHORT, LONG = 64, 4_000
WAY = 0.001


def three() -> tuple[Replica, Replica, Replica]:
    """An owner, and two that follow it: one near, one a millisecond away."""
    owner, near, far = (Replica(name) for name in ("owner", "near", "far"))
    Wire(near, owner)
    Wire(far, owner, delay=WAY)
    for replica in (owner, near, far):
        replica.sees(owner)
    return owner, near, far


async def order_of_leaving(pool: Pool, far: Pool, tokens: int) -> list[str]:
    """A short one of the far replica is decided, and before it knows one of another replica's with so many tokens."""
    left: list[str] = []

    async def leave(name: str, pool: Pool, tokens: int) -> None:
        ticket = await pool.dispatch(request(name, tokens=tokens, blocks=()))
        left.append(name)
        ticket.settle(None)

    async with asyncio.TaskGroup() as group:
        group.create_task(leave("far", far, SHORT))
        await asyncio.sleep(1.5 * WAY)
        group.create_task(leave("other", pool, tokens))
    return left


@pytest.mark.parametrize("whose", [0, 1], ids=["the owner's own", "a nearer replica's"])
def test_a_long_one_does_not_overtake_the_ticket_that_was_given_before_it(whose: int) -> None:
    async def played(tokens: int) -> list[str]:
        replicas = three()
        return await order_of_leaving(replicas[whose].pool, replicas[2].pool, tokens)

    assert run(played(LONG)) == ["far", "other"]
    assert run(played(SHORT)) == ["other", "far"]


@pytest.mark.parametrize("whose", [0, 1], ids=["the owner's own", "a follower's"])
def test_a_client_that_leaves_meanwhile_gives_everything_back(whose: int) -> None:
    async def played() -> None:
        owner, near, far = three()
        (ticket,) = await asyncio.gather(far.pool.dispatch(request(tokens=SHORT, blocks=())))
        leaves = asyncio.create_task((owner, near)[whose].pool.dispatch(request(tokens=LONG, blocks=())))
        await asyncio.sleep(WAY / 2)
        assert (owner.in_flight, leaves.done()) == (2, False)  # decided, and pausing
        leaves.cancel()
        ticket.settle(None)
        await asyncio.sleep(2 * WAY)
        assert [one.in_flight for one in (owner, near, far)] == [0, 0, 0]
        assert owner.office.seats(POOL) == len(owner.remote.seats) == len(near.remote.seats) == 0

    run(played())
