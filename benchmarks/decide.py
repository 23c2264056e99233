"""CPU time of a routing decision: `python -m benchmarks.decide [--rounds 300] [--json OUT]`.

Floor: benchmarks; the command. One request on an idle pool, and one pass over a queue, by the objects that serve;
README.md says how to read the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.decide_parts.measure import Figure, all_figures


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decide", description=(__doc__ or "").split(":")[0])
    parser.add_argument("--rounds", type=int, default=300, help="passes in each situation, batches of decisions")
    parser.add_argument("--endpoints", type=int, nargs="+", default=[8, 16], help="sizes of the pool")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures there")
    options = parser.parse_args(arguments)
    print(f"{'CPU time, medians':<66} {'endpoints':>9} {'us':>8} {'goal':>6}")
    figures = []
    for figure in all_figures(options.endpoints, options.rounds):
        print(line(figure), flush=True)
        figures.append(asdict(figure))
    if options.json is not None:
        options.json.write_text(json.dumps({"figures": figures}, indent=1) + "\n")
    return 0


def line(figure: Figure) -> str:
    """A missed goal is said, and is no failure: how long a decision takes depends on the machine."""
    shown = f"{figure.name:<66} {figure.endpoints:>9} {figure.microseconds:>8.1f}"
    if figure.goal is None:
        return shown
    return f"{shown} {figure.goal:>6.0f}{'' if figure.microseconds <= figure.goal else '  MISSED'}"


if __name__ == "__main__":
    sys.exit(main())
