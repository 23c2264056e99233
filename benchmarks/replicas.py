"""Several gateways that share a pool, beside one: `make bench-replicas`.

Three parts: replays of a trace on a virtual clock with 1, 2, 4 and 8 replicas; gateway processes with one Redis before
simulated engines; the CPU of a ticket. How to read the tables: benchmarks/README.md. Ends with status 1 when an answer
was wrong or a process failed; a goal that was missed is no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.command import in_order
from benchmarks.fleet_parts.plan import cut
from benchmarks.overhead_parts.processes import Failed
from benchmarks.replay import cpu_seconds
from benchmarks.replay_parts.runs import Result, saturation
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, make_jobs, read_trace
from benchmarks.replicas_parts import processes, replays, report, rounds
from benchmarks.replicas_parts.replays import Sharing
from benchmarks.soak import allow_files
from tests.servers import ServerFailed

REPLICAS = (2, 4, 8)
TICKET_SECONDS = (0.0003, 0.001)
LATE_REPLICAS, LATE_SECONDS = 4, (0.1, 1.0)
_PARTS = ("replays", "processes", "rounds")
_QUICK = {
    "requests": 150, "endpoints": 2, "load": [0.85], "replicas": [2], "tickets": [0.001], "late": [1.0],
    "sent": 20, "scale": 30.0, "gateways": 2, "rounds": 200,
}  # fmt: skip

_jobs: list[Job] = []  # of a worker process: read once, not sent with every task


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m benchmarks.replicas", description=(__doc__ or "").split("\n\n")[0])
    add = made.add_argument
    add("--trace", type=Path, nargs="+", required=True, help="JSON lines, gzipped or not; processes get the first one")
    add("--requests", type=int, default=2_000, help="of each trace, in the replays (default 2000)")
    add("--endpoints", type=int, default=8, help="simulated engines (default 8)")
    add("--load", type=float, nargs="+", default=[0.85, 1.05], metavar="X", help="multiples of saturation")
    add("--replicas", type=int, nargs="+", default=list(REPLICAS), help="beside one (default 2 4 8)")
    add("--tickets", type=float, nargs="+", default=list(TICKET_SECONDS), metavar="S", help="there and back, seconds")
    add("--late", type=float, nargs="*", default=list(LATE_SECONDS), metavar="S", help="views so late, for contrast")
    add("--seed", type=int, default=1, help="of the balancer and of ties")
    add("--workers", type=int, default=os.cpu_count() or 1, help="replays at once")
    add("--sent", type=int, default=250, help="requests of the first trace that processes get (default 250)")
    add("--scale", type=float, default=3.0, help="how much faster than the trace they are sent (default 3)")
    add("--gateways", type=int, default=4, help="processes beside one (default 4)")
    add("--rounds", type=int, default=10_000, help="tickets whose CPU is measured (default 10000)")
    add("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to measure (default: all)")
    add("--quick", action="store_true", help="a small run of everything, whose figures mean nothing")
    add("--json", type=Path, metavar="OUT", help="write the results there")
    options = made.parse_args(argv)
    if options.quick:
        vars(options).update(_QUICK)
    return options


def sharings(options: argparse.Namespace) -> list[Sharing]:
    """One replica first."""
    tickets = [Sharing(count, seconds) for count in options.replicas for seconds in options.tickets]
    late = [Sharing(min(LATE_REPLICAS, max(options.replicas)), seconds, late=True) for seconds in options.late]
    return [Sharing(1), *tickets, *late]


def load_jobs(trace: Path, limit: int, block_size: int) -> None:
    """Fill this process's `_jobs`."""
    _jobs[:] = make_jobs(read_trace(trace, limit), block_size)


def one_replay(sharing: Sharing, setup: Setup, saturation_rps: float, load: float) -> Result:
    return replays.replay(sharing, setup, _jobs, load * saturation_rps, load)


def one_goodput(sharing: Sharing, setup: Setup, saturation_rps: float) -> float:
    return replays.goodput(sharing, setup, _jobs, saturation_rps)


def replay_trace(trace: Path, setup: Setup, options: argparse.Namespace) -> dict[str, Any]:
    """All ways to share on one trace, printed. Raises OSError and ValueError for a file that is no trace."""
    load_jobs(trace, options.requests, setup.block_size)
    saturation_rps, ways = saturation(setup, _jobs), sharings(options)
    given = (trace, options.requests, setup.block_size)
    with ProcessPoolExecutor(options.workers, get_context("spawn"), load_jobs, given) as pool:
        goodputs = [pool.submit(one_goodput, way, setup, saturation_rps) for way in ways]  # first: these take longest
        results: list[list[Future[Result]]] = [
            [pool.submit(one_replay, way, setup, saturation_rps, load) for load in options.load] for way in ways
        ]
        lines = [
            report.Line(way, goodput.result(), tuple(one.result() for one in loads))
            for way, goodput, loads in zip(ways, goodputs, results, strict=True)
        ]
    name = trace.name.split(".")[0]
    about = f"{len(_jobs)} requests, {setup.endpoints} engines, X = {saturation_rps:.2f} requests/s"
    print(f"{name}, on a virtual clock: {about}\n{report.replays_table(name, lines)}\n", flush=True)
    return report.replays_json(trace.name, saturation_rps, lines)


def compare_processes(setup: Setup, options: argparse.Namespace) -> tuple[list[dict[str, Any]], bool]:
    """The runs, and whether any failed. Raises Failed."""
    trace, load = options.trace[0], options.load[0]
    part = cut(read_trace(trace), 0, options.sent, setup)
    allow_files(2 * options.sent)
    runs = processes.compare([1, options.gateways], part, setup, load, options.scale, _say)
    about = f"{options.sent} requests at {load:.2f} X, {options.scale:g} times as fast; seconds are the trace's"
    print(f"{trace.name.split('.')[0]}, over HTTP: {about}\n{report.processes_table(runs)}\n", flush=True)
    return report.processes_json(runs), any(run.failures for run in runs)


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes. Returns the exit status."""
    began, failed = time.monotonic(), False
    setup = Setup(endpoints=options.endpoints, seed=options.seed)
    written: dict[str, Any] = {"endpoints": setup.endpoints, "cores": os.cpu_count()}
    try:
        if "replays" in options.parts:
            written["replays"] = [replay_trace(trace, setup, options) for trace in options.trace]
        if "processes" in options.parts:
            written["processes"], failed = compare_processes(setup, options)
    except (OSError, ValueError, ServerFailed) as error:
        raise Failed(str(error)) from None
    if "rounds" in options.parts:
        costs = rounds.measure(options.rounds, (32, 1), 3)
        print(f"{report.rounds_table(costs)}\n", flush=True)
        written["rounds"] = report.rounds_json(costs)
    print(f"{time.monotonic() - began:.0f} s, {cpu_seconds():.0f} s of CPU time")
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    return int(failed)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return in_order(lambda: run(arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
