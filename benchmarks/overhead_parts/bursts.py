"""Gateways that differ in one thing, side by side: what it costs, where it is a small part of what processes differ by.

Several processes of each, with bursts of requests in turns. A burst costs what its process tree takes from its first
request to the same process's next burst, by when what follows from it is done (records are moved, spans are sent), less
what the process takes anyway.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, quantiles

from benchmarks.command import at_least_1
from benchmarks.overhead_parts.gateways import Gateway, PromptlaneInterpreted
from benchmarks.overhead_parts.measure import cpu_seconds, side_seconds, tree
from benchmarks.overhead_parts.processes import cores
from benchmarks.overhead_parts.rounds import Bench, Noise, bench
from benchmarks.overhead_parts.traffic import REQUESTS

BURST = 4000
"""Requests: more spans at once than the exporter's queue takes would be dropped, and cost less."""
TAIL_SECONDS = PromptlaneInterpreted.afterwards
"""Between two bursts of a process at least; spans are sent every 5 s, too."""
IDLE_SECONDS = 10.0
"""At the end, to see what the processes take without requests."""


@dataclass
class Spent:
    """CPU microseconds of a process tree between two looks; `side`: in threads beside the event loop's; `seconds`: of
    time between them."""

    cpu: float
    side: float
    seconds: float


@dataclass
class Process:
    """One gateway of a `line`. `bursts`: what was spent from the beginning of each to the next one's; `idle`: without
    requests."""

    line: str
    gateway: Gateway
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


def compared(make: Callable[[Bench], Sequence[tuple[str, Gateway]]], rounds: int) -> tuple[list[Process], float]:
    """All that `make` gives, by their lines, with so many bursts measured; and what other programs took meanwhile, in
    percent of a core. Raises Failed."""
    with bench(cores()) as here, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-bursts-")))
        processes = []
        for number, (line, gateway) in enumerate(make(here)):
            own = folder / str(number)
            own.mkdir()
            gateway.install()
            stack.callback(gateway.stop)
            gateway.start(here.urls, own, here.gateway_cpus)
            processes.append(Process(line, gateway))
        noise = Noise()
        measure(here, processes, rounds)
        return processes, noise.percent()


def measure(here: Bench, processes: Sequence[Process], rounds: int) -> None:
    """`rounds` bursts of each process in turns, behind one in which it learns (connections, caches, rates); then
    rest."""
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


def arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """With what says how long to measure."""
    parser.add_argument("--rounds", type=at_least_1, default=16, help="bursts of each process (default 16)")
    parser.add_argument("--processes", type=at_least_1, default=3, help="for each line (default 3)")
    return parser


def quarter(values: Sequence[float]) -> float:
    """The first quartile: what most bursts take that nothing disturbed, where the median moves with what else ran."""
    return quantiles(values, n=4)[0] if len(values) > 1 else values[0]


def table(processes: Sequence[Process], base: Sequence[str], others: float, goals: Mapping[str, float]) -> str:
    """A row per line: the mean over its processes of their first quartiles. `more`: than the mean of the lines of
    `base`; at the end that of each process. `goals`: of `more`, at most."""
    of, sides = (
        {one.line: [quarter(values(p)) for p in processes if p.line == one.line] for one in processes}
        for values in (Process.us, Process.side)
    )
    usual, usual_side = (fmean([us for line in base for us in found.get(line, ())]) for found in (of, sides))
    rows = [f"{'CPU of a request':<40}{'us':>8}{'more':>8}{'in threads':>12}   more, of each process"]
    for line, found in of.items():
        more, side = fmean(found) - usual, fmean(sides[line]) - usual_side
        goal = goals.get(line)
        note = "" if goal is None else f"   goal {goal:.0f}{'' if more <= goal else '  MISSED'}"
        each = " ".join(f"{us - usual:.1f}" for us in found)
        rows.append(f"{line:<40}{fmean(found):>8.1f}{more:>8.1f}{side:>12.1f}   {each}{note}")
    rows.append(f"other programs took {others:.0f} % of a core")
    return "\n".join(rows)
