"""From a trace to orders: which slice, at which times, with which bodies.

Floor: benchmarks; pure. Time is compressed by `scale`: arrivals come, and engines work, `scale` times as fast as
recorded, so the run shows the same queues in less time. What is reported is turned back into the trace's seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.engine.cost import PER_DECODE, PER_PREFILL_TOKEN, STEP_OVERHEAD, WEIGHT_READ
from benchmarks.fleet_parts.client import Order
from benchmarks.fleet_parts.prompts import chat_body
from benchmarks.replay_parts.runs import saturation
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, Row, arrivals, make_jobs


@dataclass(frozen=True)
class Slice:
    """A part of a trace that is replayed. `saturation_rps`: X of these requests, in the trace's seconds."""

    rows: Sequence[Row]
    jobs: Sequence[Job]
    saturation_rps: float


def cut(rows: Sequence[Row], skip: int, count: int, setup: Setup) -> Slice:
    """`count` requests after the first `skip`. Raises ValueError when there are none or one cannot fit an engine."""
    chosen = rows[skip : skip + count]
    if len(chosen) < 2 or chosen[-1].at <= chosen[0].at:
        raise ValueError(f"no two requests at different times after the first {skip}")
    longest = max(row.prompt + row.output for row in chosen)
    if longest > setup.kv_tokens:
        raise ValueError(f"a request of {longest:,} tokens does not fit a cache of {setup.kv_tokens:,}")
    jobs = make_jobs(chosen, setup.block_size)
    return Slice(chosen, jobs, saturation(setup, jobs))


def due_times(jobs: Sequence[Job], rate: float, scale: float) -> list[float]:
    """Seconds from the run's beginning: the trace at `rate` requests a second of its own time, compressed."""
    return [at / scale for at in arrivals(jobs, rate)]


def orders(part: Slice, load: float, scale: float, bodies: Sequence[bytes]) -> list[Order]:
    """`load`: multiples of X. `bodies`: one per row, see `bodies_of`; the same for every profile."""
    times = due_times(part.jobs, load * part.saturation_rps, scale)
    return [Order(number, at, body) for number, (at, body) in enumerate(zip(times, bodies, strict=True))]


def bodies_of(rows: Sequence[Row]) -> list[bytes]:
    """Made before the run: the client has other work during it."""
    return [chat_body(row, number) for number, row in enumerate(rows)]


def engine_speed(scale: float) -> dict[str, float]:
    """Options of a simulated engine that is `scale` times as fast as the one of the replays."""
    step = STEP_OVERHEAD + WEIGHT_READ + PER_DECODE
    return {"prefill_tokens_per_second": scale / PER_PREFILL_TOKEN, "decode_step_seconds": step / scale}
