"""`python -m benchmarks.journal`: what the journal of affinity costs the owner of a pool, in CPU.

A dispatch and its end as the prefix index sees them (`hold`, `let_go`), with and without a scribe, and per dispatch
what is done once per batch. The least of several rounds counts: what the machine does meanwhile can only add to it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from random import Random

import msgspec

from policies.coordination.journal import Journal
from policies.prefix_index import PrefixIndex

ROUNDS, REQUESTS, BATCH = 9, 2_000, 256


def conversations(random: Random) -> list[tuple[int, ...]]:
    """Turns of 100 chats that grow by 4 blocks (256 tokens) each time, from a system prompt of 30."""
    system = tuple(random.getrandbits(64) for _ in range(30))
    chats = [system] * 100
    found = []
    for number in range(REQUESTS):
        chats[number % 100] += tuple(random.getrandbits(64) for _ in range(4))
        found.append(chats[number % 100])
    return found


def noted(chains: Sequence[tuple[int, ...]], journal: Journal | None) -> float:
    """CPU seconds of all dispatches and ends."""
    index = PrefixIndex(20_000)
    if journal is not None:
        journal.follow({1: index})
    began = time.process_time()
    for chain in chains:
        index.let_go(index.hold(chain, 2.0))
    return time.process_time() - began


def batched(journal: Journal) -> tuple[float, int]:
    """CPU seconds, and bytes."""
    began, size = time.process_time(), 0
    while journal.waiting:
        size += len(msgspec.msgpack.encode((1, journal.entries(BATCH))))
    return time.process_time() - began, size


def appended() -> float:
    """CPU seconds of one note alone."""
    journal, index, chain = Journal(), PrefixIndex(10), (1, 2, 3)
    journal.follow({1: index})
    scribe = index.scribe
    assert scribe is not None  # it was just given one
    began = time.process_time()
    for _ in range(50_000):
        scribe.used(chain)
    return (time.process_time() - began) / 50_000


def main() -> None:
    chains = conversations(Random(1))
    without, with_it, per_batch, sizes = [], [], [], []
    for _ in range(ROUNDS):
        journal = Journal()
        without.append(noted(chains, None))
        with_it.append(noted(chains, journal))
        seconds, size = batched(journal)
        per_batch.append(seconds)
        sizes.append(size)
    note = min(appended() for _ in range(ROUNDS))
    print(f"one note (a dispatch and its end are two): {note * 1e9:.0f} ns")
    print(f"hold and let_go, without a scribe: {min(without) / REQUESTS * 1e6:.2f} us")
    print(f"hold and let_go, with one:         {min(with_it) / REQUESTS * 1e6:.2f} us")
    print(
        f"its share of a batch, encoded:     {min(per_batch) / REQUESTS * 1e6:.2f} us, {sizes[0] / REQUESTS:.0f} bytes"
    )


if __name__ == "__main__":
    main()
