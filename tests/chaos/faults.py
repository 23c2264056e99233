"""What can happen to an engine, and seeded schedules of it.

Floor: tests only, pure: what a schedule holds follows from its seed alone.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """How an engine breaks."""

    KILL = "kill"  # SIGKILL to its process group, and started anew at the end
    TERM = "term"  # SIGTERM: what runs ends with `abort`; started anew at the end
    RESTART = "restart"  # SIGKILL, and started anew at once
    REFUSE = "refuse"  # its port refuses, open connections are reset
    CUT = "cut"  # the network before it resets and refuses
    BLOCK = "block"  # the network before it swallows everything
    STOP = "stop"  # SIGSTOP: not even /health answers
    PAUSE = "pause"  # /pause?mode=keep: /health answers, nothing runs on
    HANG = "hang"  # new requests are accepted and never answered, /health answers
    SILENT = "silent"  # answers begin and go silent
    DIE = "die-mid-stream"  # answers begin and their connection closes
    ERROR = "error"  # 500 in place of answers
    LATE_ERROR = "late-error"  # an error event in the stream, then [DONE]
    ABORT = "abort"  # answers begin and end with `abort`
    SLOW = "slow"  # everything takes ten times as long


HANGS = frozenset({Kind.BLOCK, Kind.STOP, Kind.PAUSE, Kind.HANG, Kind.SILENT})
"""The connection stays and nothing comes: only a clock tells."""
COMPUTES_NOTHING = HANGS - {Kind.SILENT}
"""Of those, not even a canary is answered."""
WIRED = frozenset({Kind.CUT, Kind.BLOCK})
"""Only an engine behind a wire can suffer these."""


@dataclass(frozen=True, slots=True)
class HostSpec:
    """An engine of the installation. `wired`: behind a wire that can be cut."""

    name: str
    pool: str
    role: str = "hot"
    wired: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """`at`: seconds after the schedule began; `seconds`: for so long. `chunks`: the events that come before it."""

    kind: Kind
    host: str
    pool: str
    at: float
    seconds: float
    chunks: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.host} +{self.at:.1f} s for {self.seconds:.1f} s"


@dataclass(frozen=True, slots=True)
class Schedule:
    """The faults of one seed, in order of time. The same host never breaks twice at once. `lasts`: seconds at least."""

    seed: int
    faults: tuple[Fault, ...]
    lasts: float = 0.0

    @property
    def pools(self) -> frozenset[str]:
        return frozenset(fault.pool for fault in self.faults)

    def __str__(self) -> str:
        return "; ".join(map(str, self.faults)) or "calm"


def draw_schedule(seed: int, hosts: Sequence[HostSpec]) -> Schedule:
    """One to four faults in one or two pools. Seeds in a row begin with every kind in turn; in two of three a further
    fault hits the same pool while the first one lasts."""
    draw = random.Random(seed)
    by_pool: dict[str, list[HostSpec]] = {}
    for host in hosts:
        by_pool.setdefault(host.pool, []).append(host)
    pools = draw.sample(sorted(by_pool), k=draw.choice((1, 1, 2)))
    kinds = list(Kind)
    faults: list[Fault] = []
    for number, pool in enumerate(pools):
        first = kinds[seed % len(kinds)] if number == 0 else draw.choice(kinds)
        faults += _pool_faults(draw, first, by_pool[pool], again=draw.random() < 2 / 3)
    return Schedule(seed, tuple(sorted(faults, key=lambda fault: fault.at)))


def _pool_faults(draw: random.Random, first: Kind, hosts: Sequence[HostSpec], *, again: bool) -> list[Fault]:
    order = draw.sample([host for host in hosts if host.role == "hot"], k=sum(host.role == "hot" for host in hosts))
    if first in WIRED:
        order.sort(key=lambda host: not host.wired)
    at, seconds = draw.uniform(0.2, 0.8), _length(draw, first)
    faults = [_fault(draw, first, order[0], at, seconds)]
    if again:
        others = [*order[1:], *(host for host in hosts if host.role != "hot")]
        for host in others[: draw.choice((1, 1, len(others)))]:
            kind = draw.choice([kind for kind in Kind if host.wired or kind not in WIRED])
            faults.append(_fault(draw, kind, host, at + draw.uniform(0.05, 0.8) * seconds, _length(draw, kind)))
    return faults


def _length(draw: random.Random, kind: Kind) -> float:
    """Seconds. A hung engine that comes back before anybody's patience ends has failed nobody."""
    return draw.uniform(2.0, 7.0) if kind in HANGS else draw.uniform(1.0, 3.5)


def _fault(draw: random.Random, kind: Kind, host: HostSpec, at: float, seconds: float) -> Fault:
    return Fault(kind, host.name, host.pool, round(at, 3), round(seconds, 3), draw.choice((0, 1, 2, 5, 9)))


ENGINE_ORDERS: Mapping[Kind, dict[str, object]] = {
    Kind.REFUSE: {"kind": "refuse"},
    Kind.HANG: {"kind": "hang"},
    Kind.SILENT: {"kind": "silent"},
    Kind.DIE: {"kind": "die-mid-stream"},
    Kind.ERROR: {"kind": "error", "status": 500},
    Kind.LATE_ERROR: {"kind": "error", "status": 500},
    Kind.ABORT: {"kind": "abort"},
    Kind.SLOW: {"kind": "slow", "factor": 10.0},
}
"""What the simulated engine is told; in-stream kinds get `after_chunks` too."""
COUNTED = frozenset({Kind.SILENT, Kind.DIE, Kind.LATE_ERROR, Kind.ABORT})
