"""Routing profiles over HTTP: the real gateway process before simulated engines, on a trace: `make bench-fleet`.

How to read the table: benchmarks/README.md. Ends with status 1 when an answer was wrong or a process failed; a run for
which the machine was too slow is said to be CPU-bound, and is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from benchmarks.command import in_order
from benchmarks.fleet_parts.client import Client, Exchange, Order
from benchmarks.fleet_parts.figures import summarize
from benchmarks.fleet_parts.plan import Slice, bodies_of, cut, orders
from benchmarks.fleet_parts.report import Run, as_json, table
from benchmarks.fleet_parts.stack import PATIENCE_SECONDS, Stack, running
from benchmarks.fleet_parts.watch import Watch, load_of
from benchmarks.overhead_parts.processes import Failed
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import read_trace
from benchmarks.replay_parts.workloads import ideal_hit_ratio
from benchmarks.soak import allow_files
from policies.registry import PROFILES

DEFAULT_PROFILES = ("prompt-aware", "round-robin", "least-outstanding")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    made = argparse.ArgumentParser(prog="python -m benchmarks.fleet", description=__doc__)
    add = made.add_argument
    add("--trace", type=Path, required=True, help="JSON lines, gzipped or not: t, in, out, b (512-token prefix ids)")
    add("--profiles", type=_profiles, default=list(DEFAULT_PROFILES), help=f"of: {', '.join(PROFILES)}")
    add("--requests", type=_count(2, 100_000), default=400, help="of the trace (default 400)")
    add("--skip", type=_count(0, 10_000_000), default=0, help="requests of the trace before them (default 0)")
    add("--scale", type=_positive(100), default=2.0, help="how much faster than the trace (default 2)")
    add("--endpoints", type=_count(1, 64), default=8, help="simulated engines (default 8)")
    add("--load", type=_positive(100), nargs="+", default=[0.85], metavar="X", help="multiples of saturation (0.85)")
    add("--kv-tokens", type=_count(1024, 100_000_000), default=409_600, help="KV cache of each engine (default 409600)")
    add("--json", type=Path, metavar="OUT", help="write the results there")
    return made.parse_args(argv)


def _profiles(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in PROFILES]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(PROFILES)}")
    return names


def _count(least: int, most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not least <= (number := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"{least:,} to {most:,}")
        return number

    return count


def _positive(most: float) -> Callable[[str], float]:
    def positive(text: str) -> float:
        if not 0 < (number := float(text)) <= most:
            raise argparse.ArgumentTypeError(f"above 0, at most {most:g}")
        return number

    return positive


async def replay(stack: Stack, wanted: Sequence[Order]) -> tuple[list[Exchange], Watch]:
    """All orders through the gateway, watched. Raises OSError when a process is gone."""
    watch = Watch([gateway.pid for gateway in stack.gateways], stack.engine_pids)
    watch.look()
    client = Client([gateway.port for gateway in stack.gateways], stack.gateway.headers, PATIENCE_SECONDS)
    watching = asyncio.create_task(watch.run(), name="watch")
    try:
        exchanges = await client.run(wanted)
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
    watch.look()
    return exchanges, watch


def measure(profile: str, load: float, wanted: Sequence[Order], setup: Setup, options: argparse.Namespace) -> Run:
    """One profile before a fresh fleet. Raises Failed."""
    with running(profile, setup, options.scale, len(wanted), options.longest_reply) as stack:
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                exchanges, watch = runner.run(replay(stack, wanted))
        except OSError as error:
            stack.gateway.require_running()
            raise Failed(f"a process is gone: {error}") from None
        stack.gateway.require_running()
        lateness = [one.sent_at - one.due_at for one in exchanges]
        return Run(
            profile=profile,
            load=load,
            hit_ratio=stack.hits().ratio,
            figures=summarize(exchanges, options.scale, setup.endpoints),
            machine=load_of(watch.looks, lateness, len(os.sched_getaffinity(0))),
            trouble=tuple(stack.gateway.trouble()),
        )


def measure_all(part: Slice, setup: Setup, options: argparse.Namespace) -> list[Run]:
    """Every profile at every load, one after the other. Raises Failed."""
    bodies = bodies_of(part.rows)
    gc.collect()
    gc.freeze()  # the bodies stay; the collector need not look at them in the middle of a run
    runs = []
    for load in options.load:
        wanted = orders(part, load, options.scale, bodies)
        for profile in options.profiles:
            _say(f"{profile} at {load:g} X: {len(wanted)} requests, the last after {wanted[-1].at:.0f} s")
            runs.append(measure(profile, load, wanted, setup, options))
    return runs


def run(options: argparse.Namespace) -> int:
    """Reads, measures, prints, writes. Returns the exit status."""
    setup = Setup(endpoints=options.endpoints, kv_tokens=options.kv_tokens)
    try:
        part = cut(read_trace(options.trace), options.skip, options.requests, setup)
    except (OSError, ValueError) as error:
        raise Failed(str(error)) from None
    allow_files(len(part.rows))
    options.longest_reply = max(row.output for row in part.rows)
    ideal = ideal_hit_ratio(part.rows)
    print(
        f"{options.trace.name}: {len(part.rows)} requests after {options.skip}, ideal hit ratio {ideal:.3f};"
        f" {options.endpoints} engines, X = {part.saturation_rps:.2f} requests/s,"
        f" {options.scale:g} times as fast; seconds are the trace's",
        flush=True,
    )
    runs = measure_all(part, setup, options)
    print(f"\n{table(runs)}")
    if options.json is not None:
        about = {"trace": options.trace.name, "endpoints": options.endpoints, "requests": len(part.rows)}
        about |= {"skip": options.skip, "scale": options.scale, "kv_tokens": options.kv_tokens}
        about |= {"saturation_rps": part.saturation_rps, "ideal_hit_ratio": ideal}
        options.json.write_text(json.dumps(as_json(about, runs), indent=1) + "\n")
    return int(any(one.failures() for one in runs))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return in_order(lambda: run(arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
