"""How the gateway's own cost grows, each on its own axis: `make bench-scale`.

Floor: benchmarks; the command. README.md says how to read the tables. Ends with status 1 where a cost grows faster than
its axis allows, or something could not be measured.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.command import in_order
from benchmarks.overhead_parts.processes import Failed
from benchmarks.scale_parts.axes import AXES, curve
from benchmarks.scale_parts.curve import Curve
from benchmarks.scale_parts.processes import resident_mb
from benchmarks.scale_parts.report import as_json, lines, memory

MEMORY = "memory"
"""The line of the process's memory, as if it were an axis."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    every = [*AXES, MEMORY]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--axes", type=_names, default=every, help=f"comma-separated (default {','.join(every)})")
    parser.add_argument("--seconds", type=_seconds, default=1.5, help="of each measurement (default 1.5)")
    parser.add_argument("--largest", type=int, metavar="N", help="leave out sizes above this")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the curves there")
    return parser.parse_args(argv)


def _names(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    if unknown := [name for name in names if name not in (*AXES, MEMORY)]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join((*AXES, MEMORY))}")
    return names


def _seconds(text: str) -> float:
    if not 0.1 <= (seconds := float(text)) <= 60:
        raise argparse.ArgumentTypeError("0.1 to 60")
    return seconds


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    _open_files()
    return in_order(lambda: run(options))


def _open_files() -> None:
    """As many as there may be: each stream takes one here and in the backends, and two in the gateway."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run(options: argparse.Namespace) -> int:
    """Measures, prints, writes. Raises Failed."""
    began = time.monotonic()
    curves: dict[str, Curve] = {}
    rss_mb, failed = None, False
    for name in options.axes:
        try:
            if name == MEMORY:
                rss_mb = resident_mb(options.seconds)
                print(f"{memory(rss_mb)}\n", flush=True)
            else:
                curves[name] = _measured(name, options)
        except Failed as reason:
            failed = True
            print(f"{name}: FAILED: {reason}\n", flush=True)
    print(f"{time.monotonic() - began:.0f} s")
    if options.json is not None:
        options.json.write_text(json.dumps(as_json(curves, rss_mb), indent=1) + "\n")
    return int(failed or any(one.defect for one in curves.values()))


def _measured(name: str, options: argparse.Namespace) -> Curve:
    """One axis, printed."""
    found = None
    for found in curve(AXES[name], options.seconds, options.largest):
        last = found.points[-1]
        print(f"{name} {last.size:,}: {last.microseconds:.2f} µs", file=sys.stderr, flush=True)
    assert found is not None
    print("\n".join(lines(found)) + "\n", flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
