"""Axes that are measured on the objects that serve, without a process around them: pools and prefix indexes.

Floor: benchmarks. CPU time of this process; the mean of many batches, so that what comes only now and then counts.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from statistics import fmean
from typing import TypeVar

from benchmarks.decide_parts.measure import BATCH, IDLE_BLOCKS, IdlePool, cpu
from benchmarks.decide_parts.scenes import Prompts, make_states
from benchmarks.overhead_parts.measure import rss_bytes
from benchmarks.scale_parts.curve import Point
from policies.prefix_index import PrefixIndex
from policies.registry import make_profile

_Work = TypeVar("_Work")
_CHAINS = 2_000  # of those in it, that are asked for


def endpoints(size: int, rounds: int) -> Point:
    """A request's whole life in an idle pool of so many endpoints: decided, charged, first token, settled. Each has had
    one or so before: a pool that has just begun learns from every request what all of its endpoints have in common."""
    rng = Random(1)
    prompts = Prompts(rng, size)
    idle = IdlePool(make_profile("prompt-aware", rng), make_states(prompts, rng))
    for _ in range(size):
        idle.serve(prompts.next(IDLE_BLOCKS))
    return Point(size, _batches(rounds, lambda: [prompts.next(IDLE_BLOCKS) for _ in range(BATCH)], idle.serve))


def index_entries(size: int, rounds: int) -> Point:
    """A prompt of 20 blocks at an endpoint whose index is full with so many blocks: looked up, held and let go. Half
    of its blocks are there."""
    rng, before = Random(1), rss_bytes([os.getpid()])
    index = PrefixIndex(size)
    chains = _fill(index, size, rng)
    rss_mb = (rss_bytes([os.getpid()]) - before) / 1e6

    def serve(chain: tuple[int, ...]) -> None:
        index.match(chain)
        index.let_go(index.hold(chain, 8.0))

    def batch() -> list[tuple[int, ...]]:
        half = IDLE_BLOCKS // 2
        return [(*rng.choice(chains)[:half], *(rng.getrandbits(64) for _ in range(half))) for _ in range(BATCH)]

    return Point(size, _batches(rounds, batch, serve), rss_mb=rss_mb)


def _fill(index: PrefixIndex, size: int, rng: Random) -> list[tuple[int, ...]]:
    """So many blocks, in chains; some of these."""
    chains: list[tuple[int, ...]] = []
    keep = max(1, size // IDLE_BLOCKS // _CHAINS)
    for number in range(size // IDLE_BLOCKS):
        chain = tuple(rng.getrandbits(64) for _ in range(IDLE_BLOCKS))
        index.touch(chain)
        if number % keep == 0:
            chains.append(chain)
    return chains


def _batches(rounds: int, batch: Callable[[], Sequence[_Work]], act: Callable[[_Work], object]) -> float:
    """Microseconds of one act."""
    gc.collect()
    gc.freeze()  # as the gateway does with what it begins with; a collection in a figure would be another axis
    try:
        return fmean(cpu(partial(_each, act, batch())) / BATCH for _ in range(rounds))
    finally:
        gc.unfreeze()


def _each(act: Callable[[_Work], object], work: Sequence[_Work]) -> None:
    for one in work:
        act(one)
