"""`make bench-features`: what each feature costs: CPU per request of compiled gateways without it, beside all of them.

How it is measured: `overhead_parts/bursts.py`; how to read the table: benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.command import in_order
from benchmarks.overhead_parts.bursts import arguments, compared, table
from benchmarks.overhead_parts.gateways import Gateway, Nginx, Promptlane, PythonFloor, SglangRouter

Change = Callable[[dict[str, Any]], None]
ALL: Final = ("all features", "all features, again")


def no_records(config: dict[str, Any]) -> None:
    config["ledger"] = {"enabled": False}


def no_limits(config: dict[str, Any]) -> None:
    del config["tenants"]["bench"]["limits"]


def no_headers(config: dict[str, Any]) -> None:
    config["server"]["routing_headers"] = False


def round_robin(config: dict[str, Any]) -> None:
    """No costs, no affinity, nothing held back; reservations, health and learning are as ever."""
    config["routing"] = {"profile": "round-robin", "hold": False}


def nothing(config: dict[str, Any]) -> None:
    for change in WITHOUT.values():
        change(config)


WITHOUT: Final[dict[str, Change]] = {
    "no records": no_records,
    "no limits": no_limits,
    "no headers that say why": no_headers,
    "round robin": round_robin,
}


class ChangedGateway(Promptlane):
    """Of another configuration."""

    def __init__(self, change: Change | None = None) -> None:
        super().__init__()
        self._change = change

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        config = super()._config(backends, folder)
        if self._change is not None:
            self._change(config)
        return config


def gateways() -> list[tuple[str, Gateway]]:
    """By their lines: with everything, without each, without all of these, and what others take."""
    found: list[tuple[str, Gateway]] = [(line, ChangedGateway()) for line in ALL]
    found += [(line, ChangedGateway(change)) for line, change in WITHOUT.items()]
    found += [("none of these", ChangedGateway(nothing))]
    return found + [(other.name, other) for other in (SglangRouter(), Nginx(), PythonFloor())]


def run(options: argparse.Namespace) -> int:
    many = [one for _ in range(options.processes) for one in gateways()]
    processes, others = compared(lambda _: many, options.rounds)
    print(table(processes, ALL, others, {}))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    parser = arguments(argparse.ArgumentParser(prog="python -m benchmarks.features", description=__doc__))
    options = parser.parse_args(argv)
    return in_order(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
