"""`make bench-observed`: what watching costs: CPU per request with records, traces and both, beside none of it.

How it is measured: `overhead_parts/bursts.py`; how to read the table: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import in_order
from benchmarks.overhead_parts.bursts import arguments, compared, table
from benchmarks.overhead_parts.gateways import Promptlane, PromptlaneInterpreted

GOAL = 25.0
"""Microseconds a request for all of it (issue 6)."""
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


def run(options: argparse.Namespace) -> int:
    kind = CompiledWatchedGateway if options.compiled else WatchedGateway
    watched = VARIANTS * options.processes
    processes, others = compared(lambda here: [(one.name, kind(one, here.urls[0])) for one in watched], options.rounds)
    print(table(processes, (NONE.name, CONTROL.name), others, {ALL.name: GOAL}))
    if options.json:
        found = zip(watched, processes, strict=True)
        told = [{**asdict(one), "us": process.us(), "side": process.side()} for one, process in found]
        options.json.write_text(json.dumps(told) + "\n")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(argparse.ArgumentParser(prog="python -m benchmarks.observed", description=__doc__))
    parser.add_argument("--compiled", action="store_true", help="of gateways whose hot path is compiled")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all that was measured to this file")
    options = parser.parse_args(argv)
    return in_order(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
