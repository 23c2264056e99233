"""What can happen to replicas and to their Redis, and seeded schedules of it.

Floor: tests only, pure. Who is meant is known when it happens: the owner of the pool, or one of its followers.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What breaks."""

    KILL_FOLLOWER = "kill-follower"  # SIGKILL, and started anew at the end
    KILL_OWNER = "kill-owner"
    STOP_FOLLOWER = "stop-follower"  # SIGSTOP, and SIGCONT at the end
    STOP_OWNER = "stop-owner"
    TERM_FOLLOWER = "term-follower"  # SIGTERM, and started anew at the end
    TERM_OWNER = "term-owner"
    REDIS_EMPTY = "redis-killed-and-empty"  # SIGKILL, and started anew at the end, without its data
    REDIS_KEPT = "redis-killed"  # the same, with its data
    REDIS_STOP = "redis-stopped"  # SIGSTOP, and SIGCONT at the end
    CUT_FOLLOWER_REDIS = "cut-follower-redis"  # nothing passes between the two
    CUT_FOLLOWER_OWNER = "cut-follower-owner"
    CUT_OWNER_REDIS = "cut-owner-redis"
    CUT_OWNER_PEERS = "cut-owner-redis-replicas"  # its clients and engines still reach it
    CUT_OWNER_ALL = "cut-owner-everybody"


CUTS = frozenset(kind for kind in Kind if kind.value.startswith("cut-"))
"""These need a network of their own."""
OF_REDIS = frozenset({Kind.REDIS_EMPTY, Kind.REDIS_KEPT, Kind.REDIS_STOP})
OF_OWNER = frozenset(kind for kind in Kind if "-owner" in kind.value and "follower" not in kind.value)
DEADLY = frozenset({Kind.KILL_FOLLOWER, Kind.KILL_OWNER})
ENDS = DEADLY | {Kind.TERM_FOLLOWER, Kind.TERM_OWNER}
"""After these the replica is another process."""
OUT_OF_REACH = frozenset({Kind.STOP_FOLLOWER, Kind.STOP_OWNER, Kind.CUT_OWNER_ALL})
"""Clients reach the replica no more, and get no answer from it that says so."""
SILENT_TO_REDIS = frozenset({
    Kind.STOP_FOLLOWER, Kind.STOP_OWNER, Kind.CUT_FOLLOWER_REDIS, Kind.CUT_OWNER_REDIS, Kind.CUT_OWNER_PEERS,
    Kind.CUT_OWNER_ALL,
})  # fmt: skip
"""It lives and cannot speak to Redis."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: seconds after the schedule began; `seconds`: for so long; `pick`: which follower."""

    kind: Kind
    at: float
    seconds: float
    pick: int

    def __str__(self) -> str:
        return f"{self.kind} +{self.at:.1f} s for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The faults of one seed. `left_out`: those that are not possible here."""

    seed: int
    faults: tuple[Fault, ...]
    left_out: tuple[Fault, ...] = ()

    def __str__(self) -> str:
        said = "; ".join(map(str, self.faults)) or "calm"
        return said + "".join(f"; NOT POSSIBLE HERE: {fault}" for fault in self.left_out)

    def without_cuts(self) -> Schedule:
        """Where there is no network of our own."""
        played = tuple(fault for fault in self.faults if fault.kind not in CUTS)
        return Schedule(self.seed, played, tuple(fault for fault in self.faults if fault.kind in CUTS))


def draw_schedule(seed: int) -> Schedule:
    """One fault or two. Seeds in a row begin with every kind in turn; in two of three a second one, of another kind,
    begins while the first lasts or soon after."""
    draw, kinds = random.Random(f"replicas {seed}"), list(Kind)
    first = _fault(draw, kinds[seed % len(kinds)], draw.uniform(0.3, 0.8))
    if draw.random() >= 2 / 3:
        return Schedule(seed, (first,))
    after = first.at + draw.uniform(0.1, 1.3) * first.seconds
    taken = OF_REDIS if first.kind in OF_REDIS else {first.kind}  # there is one Redis
    return Schedule(seed, (first, _fault(draw, draw.choice([kind for kind in kinds if kind not in taken]), after)))


def _fault(draw: random.Random, kind: Kind, at: float) -> Fault:
    """A lease is 1.5 s: some end before it does, most after."""
    return Fault(kind, round(at, 3), round(draw.uniform(0.8, 5.5), 3), draw.randrange(2))
