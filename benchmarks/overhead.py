"""CPU per request and per streamed chunk of Promptlane and of other gateways, in one run: `make bench-overhead`.

How to read the table: benchmarks/README.md. Ends with status 1 when a gateway answered wrongly or Promptlane could
not be measured; a gateway of others that cannot be had here is reported as absent and is no failure.
"""

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from benchmarks.command import at_least_1
from benchmarks.overhead_parts import goals
from benchmarks.overhead_parts.gateways import GATEWAYS, USUAL, Gateway
from benchmarks.overhead_parts.interpreters import interpreter
from benchmarks.overhead_parts.measures import FULL, Measure
from benchmarks.overhead_parts.plots import NO_PLOT, write_plot
from benchmarks.overhead_parts.processes import Failed, NotStarted, cores
from benchmarks.overhead_parts.report import BASELINE, Result, as_json, full_table, table
from benchmarks.overhead_parts.rounds import Bench, bench

_INTERRUPTED = 130  # the status of a program that Ctrl-C ended, by the shell's convention
_MOST_SECONDS = 300.0  # per measurement: a typing mistake must not hold the machine for hours


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--rounds", type=at_least_1, default=3, help="turns per gateway, interleaved (default 3)")
    parser.add_argument("--seconds", type=_seconds, default=3.0, help="for each measurement of a turn (default 3)")
    usual = [kind.name for kind in USUAL]
    others = [name for name in GATEWAYS if name not in usual]
    parser.add_argument(
        "--gateways",
        type=_names,
        help=f"comma-separated (default {','.join(usual)}; with --full also {', '.join(others)})",
    )
    parser.add_argument("--full", action="store_true", help="longer prompts, a conversation, more connections")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the medians into this PNG or SVG")
    options = parser.parse_args(argv)
    options.gateways = options.gateways or (list(GATEWAYS) if options.full else usual)
    return options


def _seconds(text: str) -> float:
    if not 0.1 <= (seconds := float(text)) <= _MOST_SECONDS:
        raise argparse.ArgumentTypeError(f"0.1 to {_MOST_SECONDS:.0f}")
    return seconds


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in GATEWAYS]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(GATEWAYS)}")
    return names


def installed(results: Sequence[Result]) -> list[tuple[Gateway, Result]]:
    """The gateways that can be had here; the others get their reason into `absent`."""
    found = []
    for result in results:
        gateway = GATEWAYS[result.name]()
        try:
            gateway.install()
        except Failed as reason:
            result.absent = str(reason)
        else:
            found.append((gateway, result))
    return found


def measure(
    here: Bench,
    gateways: list[tuple[Gateway, Result]],
    rounds: int,
    seconds: float,
    measures: Sequence[Measure] = (),
) -> None:
    """Interleaved rounds: a slow minute of the machine touches every gateway. One that fails gets no more turns."""
    for number in range(1, rounds + 1):
        for gateway, result in gateways:
            if result.absent or result.failed:
                continue
            try:
                turn = here.turn(gateway, seconds, measures)
            except NotStarted as reason:
                result.absent = str(reason)
            except Failed as reason:
                result.failed = str(reason)
            else:
                result.turns.append(turn)
                figures = f"{turn.request_us:.1f} µs/request, {turn.chunk_us:.1f} µs/chunk"
                print(f"round {number}/{rounds}: {result.name}: {figures}", file=sys.stderr, flush=True)


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes. Returns the exit status."""
    results = [Result(name) for name in options.gateways]
    gateways = installed(results)
    cpus = cores()
    started = time.monotonic()
    with bench(cpus) as here:
        measure(here, gateways, options.rounds, options.seconds, FULL if options.full else ())
    took = time.monotonic() - started
    pinned = f"gateway on core {min(cpus[0])}, backends and load on core {min(cpus[1])}"
    if not interpreter().counted:
        pinned += "; its Python is not compiled by counts as the image's is, and takes more"
    print(f"{pinned}; medians of {options.rounds} rounds; {took:.0f} s; x is against {BASELINE}\n{table(results)}")
    if options.full:
        print(f"\n{full_table(results)}")
    print("\n".join(("", *goals.lines({result.name: result for result in results}))))
    if options.json:
        about = {"rounds": options.rounds, "seconds": options.seconds, "pinned": pinned, "took_s": took}
        options.json.write_text(json.dumps(as_json(results, about), indent=1) + "\n")
    if options.plot:
        try:
            write_plot(options.plot, results)
        except ImportError:
            print(NO_PLOT, file=sys.stderr)
    return int(any(result.failed or (result.name == BASELINE and not result.turns) for result in results))


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a shell has told it to be ignored
    signal.signal(signal.SIGTERM, _interrupt)  # the children end in the same order as after Ctrl-C
    options = arguments(argv)
    try:
        return run(options)
    except KeyboardInterrupt:
        print("interrupted; every process that was started has ended", file=sys.stderr)
        return _INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
