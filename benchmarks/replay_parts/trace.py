"""Traces of requests: read, written, and sped up or slowed down.

Floor: benchmarks; files and arithmetic. A trace is JSON lines, gzipped or not: `t` seconds, `in` prompt tokens, `out`
output tokens, `b` the chained ids of its 512-token prefix blocks. A last id may stand for a part of a block; engines
cache whole blocks only, so it counts where it is whole.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks.engine.cost import StepCost
from benchmarks.engine.model import TOKEN_BUDGET

TRACE_BLOCK = 512
"""Tokens that one id of a trace stands for."""


class Row(NamedTuple):
    """One line of a trace file."""

    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One request of a replay. `at`: seconds at the replay's rate. `blocks`: its whole 512-token blocks.

    `hashes`: the engine's blocks. `cold_seconds`: its prefill on an idle engine that has cached nothing.
    """

    number: int
    at: float
    prompt: int
    output: int
    blocks: tuple[int, ...]
    hashes: list[int]
    cold_seconds: float


def read_trace(path: Path, limit: int | None = None) -> list[Row]:
    """The first `limit` requests, or all. Raises ValueError for a file that is no trace."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    rows: list[Row] = []
    for number, line in enumerate(text.splitlines()[:limit]):
        try:
            row = json.loads(line)
            rows.append(Row(float(row["t"]), int(row["in"]), max(1, int(row["out"])), tuple(row["b"])))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path.name} line {number + 1} is no request of a trace: {error!r}") from None
    if len(rows) < 2 or rows[-1].at <= rows[0].at:
        raise ValueError(f"{path.name} has no two requests at different times")
    return rows


def write_trace(path: Path, rows: Iterable[Row]) -> None:
    """Gzipped where the name ends so; the same rows give the same bytes."""
    lines = (json.dumps({"t": round(r.at, 3), "in": r.prompt, "out": r.output, "b": list(r.blocks)}) for r in rows)
    text = "".join(f"{line}\n".replace(" ", "") for line in lines).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def make_jobs(rows: Sequence[Row], block_size: int) -> list[Job]:
    """Jobs at the trace's own rate. ValueError for an engine block that does not divide the trace's."""
    if block_size < 1 or TRACE_BLOCK % block_size:
        raise ValueError(f"the block size must divide {TRACE_BLOCK}")
    cost = StepCost()
    return [
        Job(
            number,
            row.at - rows[0].at,
            row.prompt,
            row.output,
            row.blocks[: row.prompt // TRACE_BLOCK],
            engine_blocks(row, block_size),
            cold_seconds(row.prompt, cost),
        )
        for number, row in enumerate(rows)
    ]


def engine_blocks(row: Row, block_size: int) -> list[int]:
    """The ids of the prompt's whole engine blocks: each id of the trace becomes as many as engine blocks are in it."""
    parts = TRACE_BLOCK // block_size
    ids = [block * parts + part for block in row.blocks for part in range(parts)]
    return ids[: row.prompt // block_size]


def cold_seconds(prompt: int, cost: StepCost) -> float:
    """The prefill of a prompt alone on an engine, in chunks of a step's token budget, nothing cached."""
    total = 0.0
    for start in range(0, prompt, TOKEN_BUDGET):
        chunk = min(TOKEN_BUDGET, prompt - start)
        total += cost.seconds(chunk, chunk * (start + chunk / 2), 0, 0)
    return total


def arrivals(jobs: Sequence[Job], rate: float) -> list[float]:
    """When each job arrives if the trace runs at `rate` requests a second: its own times, scaled."""
    factor = own_rate(jobs) / rate
    return [job.at * factor for job in jobs]


def own_rate(jobs: Sequence[Job]) -> float:
    """Requests per second of the trace as it is."""
    return (len(jobs) - 1) / (jobs[-1].at - jobs[0].at)
