"""Routing policies on a trace and a virtual clock: `python -m benchmarks.replay --trace FILE --json OUT`.

Floor: benchmarks; the command. What runs is the gateway's own policy objects in front of the engines of
`benchmarks.engine`, beside other routers' rules; README.md says how to read the table.
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

from benchmarks.replay_parts.goodput import goodput
from benchmarks.replay_parts.plots import NO_PLOTS, write_plots
from benchmarks.replay_parts.report import as_json, table
from benchmarks.replay_parts.runs import PEERS, REFERENCES, Result, build, known_policies, replay, saturation
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, make_jobs, own_rate, read_trace

DEFAULT_POLICIES = ("prompt-aware", *PEERS, *REFERENCES)

_jobs: list[Job] = []  # of a worker process: read once, not sent with every task


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=(__doc__ or "").split(":")[0])
    add = made.add_argument
    add("--trace", type=Path, required=True, help="JSON lines, gzipped or not: t, in, out, b (512-token prefix ids)")
    add("--endpoints", type=int, default=8, help="engines in the fleet")
    add("--load", type=float, nargs="+", default=[0.85, 1.05], metavar="X", help="multiples of the saturation X")
    add("--policies", default=",".join(DEFAULT_POLICIES), help=f"of: {', '.join(known_policies())}")
    add("--block-size", type=int, default=512, help="tokens per engine block; divides 512")
    add("--kv-tokens", type=int, default=409_600, help="KV cache of each engine, tokens")
    add("--goodput", action="store_true", help="also search the highest rate at which 99 %% are in time")
    add("--saturation", type=float, metavar="RPS", help="take this as X instead of measuring it")
    add("--seed", type=int, default=1, help="of ties and of errors")
    add("--limit", type=int, metavar="REQUESTS", help="only the first ones of the trace")
    add(
        "--length-error",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="estimated prompt lengths are off by up to this",
    )
    add("--rate-error", type=float, default=1.0, metavar="FACTOR", help="routers take engines for this much slower")
    add("--index-error", type=float, default=1.0, metavar="FACTOR", help="our prefix indexes begin this much too large")
    add("--learn", action=argparse.BooleanOptionalAction, default=True, help="the gateway learns, as it does serving")
    add(
        "--true-outputs", action="store_true", help="routers know each answer's length, instead of expecting 256 tokens"
    )
    add("--max-waiting", type=int, default=1_000_000, help="requests that the gateway's queue holds")
    add("--max-wait", type=float, default=float("inf"), help="seconds that a request may wait in it")
    add("--processes", type=int, default=os.cpu_count() or 1, help="replays at once")
    add("--json", type=Path, metavar="OUT", help="write the results there")
    add("--plots", type=Path, metavar="DIR", help="write pictures there (PNG); needs matplotlib")
    return made


def setup_of(options: argparse.Namespace) -> Setup:
    return Setup(
        endpoints=options.endpoints,
        block_size=options.block_size,
        kv_tokens=options.kv_tokens,
        seed=options.seed,
        length_error=options.length_error,
        rate_error=options.rate_error,
        index_error=options.index_error,
        learn=options.learn,
        true_outputs=options.true_outputs,
        max_waiting=options.max_waiting,
        max_wait=options.max_wait,
    )


def load_jobs(trace: Path, limit: int | None, block_size: int) -> None:
    """Fill this process's `_jobs`."""
    _jobs[:] = make_jobs(read_trace(trace, limit), block_size)


def one_replay(policy: str, setup: Setup, saturation_rps: float, load: float) -> Result:
    return replay(policy, setup, _jobs, load * saturation_rps, load)


def one_goodput(policy: str, setup: Setup, saturation_rps: float) -> float:
    return goodput(policy, setup, _jobs, saturation_rps)


def run(
    options: argparse.Namespace, policies: Sequence[str], setup: Setup, saturation_rps: float
) -> tuple[list[Result], dict[str, float] | None]:
    """All replays, as many at once as asked for; the order of the answers is that of the questions."""
    pool = ProcessPoolExecutor(
        options.processes, get_context("spawn"), load_jobs, (options.trace, options.limit, options.block_size)
    )
    with pool:
        searches: dict[str, Future[float]] = {}
        if options.goodput:  # first, as they take longest
            searches = {name: pool.submit(one_goodput, name, setup, saturation_rps) for name in policies}
        replays = [
            pool.submit(one_replay, name, setup, saturation_rps, load) for load in options.load for name in policies
        ]
        results = [future.result() for future in replays]
        found = {name: future.result() for name, future in searches.items()}
    return results, found if options.goodput else None


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    policies = list(dict.fromkeys(name.strip() for name in options.policies.split(",") if name.strip()))
    setup = setup_of(options)
    try:
        for name in policies:
            build(name, setup)
        load_jobs(options.trace, options.limit, options.block_size)
    except (OSError, ValueError) as error:
        print(f"replay: {error}", file=sys.stderr)
        return 2
    began = time.monotonic()
    saturation_rps = options.saturation or saturation(setup, _jobs)
    print(f"{options.trace.name}: {len(_jobs)} requests, {own_rate(_jobs):.2f}/s as recorded", end="; ")
    print(f"{setup.endpoints} engines, X = {saturation_rps:.3f} requests/s", flush=True)
    results, found = run(options, policies, setup, saturation_rps)
    print(f"\n{table(results, found)}\n\n{time.monotonic() - began:.0f} s, {cpu_seconds():.0f} s of CPU time")
    if options.json is not None:
        written = as_json(options.trace.name, setup.endpoints, saturation_rps, results, found)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(written, indent=1) + "\n")
    if options.plots is not None:
        draw(options.plots, options.trace.name, results, found)
    return 0


def draw(folder: Path, trace: str, results: Sequence[Result], found: dict[str, float] | None) -> None:
    """The figures are printed and written by now: without matplotlib there are no pictures, and that is all."""
    try:
        for path in write_plots(folder, trace, results, found):
            print(path)
    except ImportError:
        print(NO_PLOTS)


def cpu_seconds() -> float:
    """Of this process and of its workers that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


if __name__ == "__main__":
    sys.exit(main())
