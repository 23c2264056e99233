"""Thousands of streams through one gateway process for a minute, and clients that vanish: `make soak`.

How to read the figures: benchmarks/README.md. Ends with status 1 when a stream was wrong or anything is left behind.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop

from benchmarks.command import in_order
from benchmarks.overhead_parts.answers import BadAnswer
from benchmarks.overhead_parts.load import Target
from benchmarks.overhead_parts.processes import Failed
from benchmarks.soak_parts.kills import kill_all
from benchmarks.soak_parts.leaks import left_behind
from benchmarks.soak_parts.load import Load
from benchmarks.soak_parts.report import Result, as_json, table
from benchmarks.soak_parts.stack import Stack, running
from benchmarks.soak_parts.watch import Watch

_LONGEST_STEP = 1.0  # seconds; the longest stream then ends within the load's time limit
_SPARE_FILES = 500  # of one process, beside its streams
_FILES_PER_STREAM = 2  # in the gateway: the client's connection and the engine's


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--streams", type=_count(20_000), default=2000, help="open at once (default 2000)")
    parser.add_argument("--seconds", type=_count(86_400), default=60, help="of watching them (default 60)")
    parser.add_argument("--engines", type=_count(32), default=4, help="simulated engines (default 4)")
    parser.add_argument("--kills", type=_count(1_000), default=50, help="clients that vanish, one by one (default 50)")
    parser.add_argument(
        "--step-seconds",
        type=_step,
        default=0.1,
        help="time between two tokens of a stream that is alone (default 0.1)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was seen to this file")
    return parser.parse_args(argv)


def _count(most: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not 1 <= (number := int(text)) <= most:
            raise argparse.ArgumentTypeError(f"1 to {most:,}")
        return number

    return count


def _step(text: str) -> float:
    if not 0 < (seconds := float(text)) <= _LONGEST_STEP:
        raise argparse.ArgumentTypeError(f"above 0, at most {_LONGEST_STEP:g}")
    return seconds


def allow_files(streams: int) -> None:
    """Lets this process and its children open enough sockets. Raises Failed when the system's bound is lower."""
    wanted = streams * _FILES_PER_STREAM + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Failed(f"{streams:,} streams need {wanted:,} open files; `ulimit -Hn` allows {hard:,}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def soak(stack: Stack, target: Target, options: argparse.Namespace) -> Result:
    """The first part: the load, watched until its last stream has ended, and what it left. Raises Failed or OSError."""
    load = Load(target, options.streams)
    watch = Watch(stack.gateway.pid, stack.engine_pids, lambda: load.open)
    idle = watch.look()
    clients = asyncio.create_task(load.run(), name="load")
    try:
        await load.full.wait()
        _say(f"{options.streams:,} streams are open; warming up")
        await load.warm.wait()
        _say(f"{load.finished:,} have finished; watching for {options.seconds} s")
        steady = await watch.during(options.seconds, load.stopped)
        load.stop()
        _say(f"the last {load.open:,} streams finish")
        await clients
    finally:
        clients.cancel()
    stack.gateway.require_running()
    left = left_behind(stack)
    return Result(
        streams=options.streams,
        seconds=options.seconds,
        engines=options.engines,
        idle=idle,
        steady=steady,
        drained=watch.look(),
        finished=load.finished,
        tokens=load.tokens,
        errors=dict(load.errors.most_common()),
        left_after_load=left,
    )


def vanish(stack: Stack, target: Target, result: Result, kills: int) -> None:
    """The second part, into the result. Raises Failed or OSError."""
    try:
        result.kills = kill_all(stack, target, kills, random.Random(kills))
    except (BadAnswer, OSError) as error:
        result.kills_failed = f"{type(error).__name__}: {error}"
    stack.gateway.require_running()
    result.left_after_kills = left_behind(stack, vanished=kills)


def run(options: argparse.Namespace) -> int:
    """Starts, soaks, prints, writes. Returns the exit status."""
    allow_files(options.streams)
    _say(f"starting {options.engines} simulated engines and one gateway process")
    with running(options.streams, options.engines, options.step_seconds) as stack:
        target = Target(stack.gateway.port, stack.gateway.headers)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                result = runner.run(soak(stack, target, options))
            _say(f"{options.kills} clients vanish")
            vanish(stack, target, result, options.kills)
        except OSError as error:  # a clock cannot be read, or an engine does not answer
            stack.gateway.require_running()
            raise Failed(f"a process is gone or stuck: {error}") from None
    print(table(result))
    if options.json:
        options.json.write_text(json.dumps(as_json(result), indent=1) + "\n")
    return int(bool(result.failures()))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    return in_order(lambda: run(arguments(argv)))


if __name__ == "__main__":
    sys.exit(main())
