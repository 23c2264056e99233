"""One profile before real servers: the conversations, each turn at its time but never before the one before it ends.

Floor: asyncio around the client of the simulated fleet.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from benchmarks.fleet_parts.client import Client, Exchange, Order
from benchmarks.fleet_parts.figures import Figures, summarize
from benchmarks.fleet_parts.stack import ProfiledGateway, gateway_before, read_hits
from benchmarks.fleet_parts.watch import Load, Watch, load_of
from benchmarks.overhead_parts.measure import tree
from benchmarks.overhead_parts.processes import Failed
from benchmarks.real_vllm_parts.conversations import Turn
from benchmarks.real_vllm_parts.servers import forget
from tests.servers import Server

PATIENCE_SECONDS = 300.0
"""For one answer: far above any that a fleet gives that is not overloaded."""


@dataclass(frozen=True)
class Measured:
    """One profile's run. `hit_ratio`: of prompt tokens, by the engines' own counters. `stayed`: of the turns after a
    conversation's first, the share that went where the one before it went. `placed`: engines of the first turns."""

    profile: str
    hit_ratio: float
    stayed: float
    placed: tuple[int, ...]
    figures: Figures
    machine: Load
    trouble: tuple[str, ...]

    def failures(self) -> list[str]:
        return [f"{number} x {reason}" for reason, number in self.figures.errors.items()] + list(self.trouble)


def measure(profile: str, servers: Sequence[Server], turns: Sequence[Turn]) -> Measured:
    """With empty caches and a new gateway. Raises Failed."""
    for server in servers:
        forget(server)
    urls = [server.url for server in servers]
    before = read_hits(urls)
    with gateway_before(urls, profile, len(turns)) as gateway:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                exchanges, watch = runner.run(_talk(gateway, servers, turns))
        except OSError as error:
            gateway.require_running()
            raise Failed(f"a process is gone: {error}") from None
        gateway.require_running()
        trouble = tuple(gateway.trouble())
    lateness = [one.sent_at - one.due_at for one in exchanges]
    return Measured(
        profile=profile,
        hit_ratio=read_hits(urls).since(before).ratio,
        stayed=stayed(turns, exchanges),
        placed=placed(turns, exchanges),
        figures=summarize(exchanges, 1.0, len(servers)),
        machine=load_of(watch.looks, lateness, len(os.sched_getaffinity(0))),
        trouble=trouble,
    )


async def _talk(
    gateway: ProfiledGateway, servers: Sequence[Server], turns: Sequence[Turn]
) -> tuple[list[Exchange], Watch]:
    """Exchanges in the order of the turns."""
    watch = Watch([gateway.pid], tree(server.process.pid for server in servers))
    watch.look()
    client = Client([gateway.port], gateway.headers, PATIENCE_SECONDS)
    watching = asyncio.create_task(watch.run(), name="watch")
    try:
        exchanges = await _conversations(client, turns)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    watch.look()
    return exchanges, watch


async def _conversations(client: Client, turns: Sequence[Turn]) -> list[Exchange]:
    found: dict[int, Exchange] = {}

    async def talk(own: Sequence[tuple[int, Turn]]) -> None:
        for number, turn in own:
            found[number] = await client.send(Order(number, max(turn.at, client.now), turn.body()))

    async with asyncio.TaskGroup() as group:
        for conversation in {turn.conversation for turn in turns}:
            own = [(number, turn) for number, turn in enumerate(turns) if turn.conversation == conversation]
            group.create_task(talk(own), name=f"conversation {conversation}")
    return [found[number] for number in range(len(turns))]


def stayed(turns: Sequence[Turn], exchanges: Sequence[Exchange]) -> float:
    """0 when nobody came back."""
    last: dict[int, str] = {}
    same = again = 0
    for turn, one in zip(turns, exchanges, strict=True):
        if turn.conversation in last:
            again += 1
            same += last[turn.conversation] == one.answer.endpoint
        last[turn.conversation] = one.answer.endpoint
    return same / again if again else 0.0


def placed(turns: Sequence[Turn], exchanges: Sequence[Exchange]) -> tuple[int, ...]:
    """How many conversations began at each engine, the most first."""
    firsts = [one.answer.endpoint for turn, one in zip(turns, exchanges, strict=True) if turn.turn == 0]
    return tuple(sorted((firsts.count(name) for name in set(firsts)), reverse=True))
