"""`make bench-observed`: what watching costs: CPU per request with records, traces and both, beside none of it.

Several gateway processes for each, side by side, with bursts of requests in turns. A burst costs what its process tree
takes from its first request to the same process's next burst, by when its records and spans are where they belong,
less what the process takes anyway. How to read the table: benchmarks/README.md.
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
from statistics import fmean, quantiles
from typing import Any

from benchmarks.command import at_least_1, in_order
from benchmarks.overhead_parts.gateways import Promptlane, PromptlaneInterpreted
from benchmarks.overhead_parts.measure import cpu_seconds, side_seconds, tree
from benchmarks.overhead_parts.processes import cores
from benchmarks.overhead_parts.rounds import Bench, Noise, bench
from benchmarks.overhead_parts.traffic import REQUESTS

GOAL = 25.0
"""Microseconds a request for all of it (issue 6)."""
BURST = 4000
"""Requests: more spans at once than the exporter's queue takes would be dropped, and cost less."""
TAIL_SECONDS = 6.5
"""Between two bursts of a process at least: until its records are moved and its spans are sent, every 5 s."""
IDLE_SECONDS = 10.0
"""At the end, to see what the processes take without requests."""
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
class Spent:
    """CPU microseconds of a process tree between two looks; `side`: in threads beside the event loop's; `seconds`: of
    time between them."""

    cpu: float
    side: float
    seconds: float


@dataclass
class Process:
    """One gateway. `bursts`: what was spent from the beginning of each to the next one's; `idle`: without requests."""

    watched: Watched
    gateway: WatchedGateway
    bursts: list[Spent] = field(default_factory=list)
    idle: Spent = field(default_factory=lambda: Spent(0.0, 0.0, 1.0))
    _seen: tuple[float, float, float] | None = None

    def since_last_look(self) -> Spent | None:
        """None at the first."""
        pids = tree(self.gateway.pids)
        now = time.monotonic(), cpu_seconds(pids), side_seconds(pids)
        before, self._seen = self._seen, now
        if before is None:
            return None
        seconds, cpu, side = (new - old for new, old in zip(now, before, strict=True))
        return Spent(cpu * 1e6, side * 1e6, seconds)

    def us(self) -> list[float]:
        """Of a request, burst by burst, what the process does without requests taken off."""
        rate = self.idle.cpu / self.idle.seconds
        return [(spent.cpu - rate * spent.seconds) / BURST for spent in self.bursts]

    def side(self) -> list[float]:
        """The part of `us` in threads beside the event loop's."""
        rate = self.idle.side / self.idle.seconds
        return [(spent.side - rate * spent.seconds) / BURST for spent in self.bursts]


@contextmanager
def running(
    here: Bench, folder: Path, variants: Sequence[Watched], kind: type[WatchedGateway] = WatchedGateway, each: int = 1
) -> Iterator[list[Process]]:
    """So many gateways of `each` variant, started, in turns. Raises Failed."""
    with ExitStack() as stack:
        processes = []
        for number, watched in enumerate(list(variants) * each):
            own = folder / str(number)
            own.mkdir()
            gateway = kind(watched, here.urls[0])
            gateway.install()
            stack.callback(gateway.stop)
            gateway.start(here.urls, own, here.gateway_cpus)
            processes.append(Process(watched, gateway))
        yield processes


def measure(here: Bench, processes: Sequence[Process], rounds: int) -> None:
    """`rounds` bursts of each process in turns, one after that to learn (connections, caches, rates), then rest."""
    for number in range(rounds + 2):
        began = time.monotonic()
        for process in processes:
            spent = process.since_last_look()
            if spent is not None and number > 1:  # the first burst's is of processes that have just begun
                process.bursts.append(spent)
            if number <= rounds:
                here.count(process.gateway, REQUESTS, BURST)
        if number <= rounds:
            time.sleep(max(0.0, TAIL_SECONDS - (time.monotonic() - began)))
        if number % 5 == 1:
            print(f"round {number}/{rounds}", file=sys.stderr, flush=True)
    time.sleep(IDLE_SECONDS)
    for process in processes:
        process.idle = process.since_last_look() or process.idle


def run(options: argparse.Namespace) -> int:
    with bench(cores()) as here, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-observed-")))
        kind = CompiledWatchedGateway if options.compiled else WatchedGateway
        processes = stack.enter_context(running(here, folder, VARIANTS, kind, options.processes))
        noise = Noise()
        measure(here, processes, options.rounds)
        print(table(processes, noise.percent()))
        if options.json:
            found = [{**asdict(one.watched), "us": one.us(), "side": one.side()} for one in processes]
            options.json.write_text(json.dumps(found) + "\n")
    return 0


def quarter(values: Sequence[float]) -> float:
    """The first quartile: what most bursts take that nothing disturbed, where the median moves with what else ran."""
    return quantiles(values, n=4)[0] if len(values) > 1 else values[0]


def table(processes: Sequence[Process], others: float) -> str:
    """A line for each that is watched: the mean over its processes of their first quartiles. `more`: than the mean of
    both lines with metrics alone; with that of each of its processes."""
    of = {one.watched: [quarter(p.us()) for p in processes if p.watched is one.watched] for one in processes}
    sides = {one.watched: [quarter(p.side()) for p in processes if p.watched is one.watched] for one in processes}
    base = fmean([us for watched in (NONE, CONTROL) for us in of.get(watched, ())])
    base_side = fmean([us for watched in (NONE, CONTROL) for us in sides.get(watched, ())])
    rows = [f"{'CPU of a request':<28}{'us':>8}{'more':>8}{'in threads':>12}   more, of each process"]
    for watched, found in of.items():
        more, side = fmean(found) - base, fmean(sides[watched]) - base_side
        each = " ".join(f"{us - base:.1f}" for us in found)
        note = "" if watched is not ALL else f"   goal {GOAL:.0f}{'' if more <= GOAL else '  MISSED'}"
        rows.append(f"{watched.name:<28}{fmean(found):>8.1f}{more:>8.1f}{side:>12.1f}   {each}{note}")
    rows.append(f"other programs took {others:.0f} % of a core")
    return "\n".join(rows)


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observed", description=__doc__)
    parser.add_argument("--rounds", type=at_least_1, default=16, help="bursts of each process (default 16)")
    parser.add_argument("--processes", type=at_least_1, default=3, help="for each line (default 3)")
    parser.add_argument("--compiled", action="store_true", help="of gateways whose hot path is compiled")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    return in_order(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
