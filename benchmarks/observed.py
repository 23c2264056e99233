"""`make bench-observed`: what watching costs: CPU per request with records, traces and both, beside none of it.

One gateway process for each, side by side and all the time, with requests in turns: the whole process tree's CPU from
before the first request of a turn until its records and spans are where they belong. How to read the table:
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks.command import at_least_1, in_order
from benchmarks.overhead_parts.gateways import Promptlane, PromptlaneInterpreted
from benchmarks.overhead_parts.measure import cpu_seconds, side_seconds, tree
from benchmarks.overhead_parts.processes import cores
from benchmarks.overhead_parts.rounds import Bench, Noise, bench
from benchmarks.overhead_parts.traffic import REQUESTS

GOAL = 25.0
"""Microseconds a request for all of it (issue 6)."""
BURST, PAUSE_SECONDS = 4000, 0.5
"""Of a turn: more spans at once than the exporter's queue takes would be dropped, and cost less."""
TAIL_SECONDS = 6.5
"""After a turn: until its records are moved and its spans are sent, which is done every 5 s."""
IDLE_SECONDS = 3.0
"""Then, to see what the process takes without requests: with few requests a turn that would be most of the figure."""
DEFAULT_SAMPLE = 0.1


@dataclass(frozen=True)
class Watched:
    """What is switched on. Metrics cannot be switched off: they are in every line."""

    name: str
    ledger: bool = False
    sample: float | None = None


NONE = Watched("metrics alone")
CONTROL = Watched("metrics alone, again")
ALL = Watched("records, traces of 10 %", ledger=True, sample=DEFAULT_SAMPLE)
VARIANTS = (
    NONE,
    CONTROL,
    Watched("records", ledger=True),
    Watched("traces of 10 %", sample=DEFAULT_SAMPLE),
    Watched("traces of all", sample=1.0),
    ALL,
)


class WatchedGateway(PromptlaneInterpreted):
    """`collector`: the base URL of who takes spans."""

    def __init__(self, watched: Watched, collector: str) -> None:
        super().__init__()
        self._watched = watched
        self._collector = collector

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        config = super()._config(backends, folder)
        watched = self._watched
        config["ledger"] = {"enabled": watched.ledger, "spool_dir": str(folder / "spool")}
        if watched.sample is not None:
            config["tracing"] = {"endpoint": self._collector, "sample": watched.sample}
        return config


class CompiledWatchedGateway(WatchedGateway, Promptlane):
    """The same, compiled."""


@dataclass
class Line:
    """`us`: CPU per request of each turn, what the process does without requests taken off; `side`: the part of it in
    threads beside the event loop's. `idle`: microseconds a second without requests, after each turn."""

    watched: Watched
    gateway: WatchedGateway
    idle: list[float] = field(default_factory=list)
    us: list[float] = field(default_factory=list)
    side: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> tuple[float, float]:
        pids = tree(self.gateway.pids)
        return cpu_seconds(pids), side_seconds(pids)

    def since(self, before: tuple[float, float]) -> tuple[float, float]:
        """Microseconds."""
        return (self.cpu[0] - before[0]) * 1e6, (self.cpu[1] - before[1]) * 1e6


@contextmanager
def running(
    here: Bench, folder: Path, variants: Sequence[Watched], kind: type[WatchedGateway] = WatchedGateway
) -> Iterator[list[Line]]:
    """All gateways, started. Raises Failed."""
    with ExitStack() as stack:
        lines = []
        for number, watched in enumerate(variants):
            own = folder / str(number)
            own.mkdir()
            gateway = kind(watched, here.urls[0])
            gateway.install()
            stack.callback(gateway.stop)
            gateway.start(here.urls, own, here.gateway_cpus)
            lines.append(Line(watched, gateway))
        yield lines


def turn(here: Bench, line: Line, requests: int) -> None:
    """One gateway's requests, and what they cost; others rest meanwhile."""
    began, before = time.monotonic(), line.cpu
    for done in range(0, requests, BURST):
        here.count(line.gateway, REQUESTS, min(BURST, requests - done))
        time.sleep(PAUSE_SECONDS)
    time.sleep(TAIL_SECONDS)
    (used, beside), took = line.since(before), time.monotonic() - began
    began, before = time.monotonic(), line.cpu
    time.sleep(IDLE_SECONDS)
    idle, idle_beside = (spent / (time.monotonic() - began) for spent in line.since(before))
    line.idle.append(idle)
    line.us.append((used - idle * took) / requests)
    line.side.append((beside - idle_beside * took) / requests)


def run(options: argparse.Namespace) -> int:
    with bench(cores()) as here, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-observed-")))
        kind = CompiledWatchedGateway if options.compiled else WatchedGateway
        lines = stack.enter_context(running(here, folder, VARIANTS, kind))
        for line in lines:
            here.count(line.gateway, REQUESTS, BURST)  # connections, caches, rates that are learned
        time.sleep(TAIL_SECONDS)
        noise = Noise()
        for number in range(options.rounds):
            for line in lines[number % len(lines) :] + lines[: number % len(lines)]:
                turn(here, line, options.requests)
            said = ", ".join(f"{line.watched.name} {line.us[-1]:.1f}" for line in lines)
            print(f"round {number + 1}/{options.rounds}: {said}", file=sys.stderr, flush=True)
        print(table(lines, noise.percent()))
        if options.json:
            options.json.write_text(
                json.dumps([{**asdict(line.watched), "us": line.us, "side": line.side} for line in lines]) + "\n"
            )
    return 0


def table(lines: Sequence[Line], others: float) -> str:
    """Medians; `more`: of each round the difference to its turn with metrics alone."""
    base = next(line for line in lines if line.watched is NONE)
    rows = [f"{'CPU of a request':<28}{'us':>8}{'more':>8}{'quartiles of more':>20}{'in threads':>12}{'idle us/s':>11}"]
    for line in lines:
        more = [us - other for us, other in zip(line.us, base.us, strict=True)]
        low, _, high = quantiles(more, n=4) if len(more) > 1 else (more[0],) * 3
        note = "" if line.watched is not ALL else f"  goal {GOAL:.0f}{'' if median(more) <= GOAL else '  MISSED'}"
        spread = f"{low:.1f} to {high:.1f}"
        rows.append(
            f"{line.watched.name:<28}{median(line.us):>8.1f}{median(more):>8.1f}{spread:>20}{median(line.side):>12.1f}"
            f"{median(line.idle):>11.0f}{note}"
        )
    rows.append(f"other programs took {others:.0f} % of a core")
    return "\n".join(rows)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observed", description=__doc__)
    parser.add_argument("--rounds", type=at_least_1, default=5, help="turns of each, interleaved (default 5)")
    parser.add_argument("--requests", type=at_least_1, default=16_000, help="of each turn (default 16000)")
    parser.add_argument("--compiled", action="store_true", help="of gateways whose hot path is compiled")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    return in_order(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
