"""The table for people and the JSON for programs.

Floor: benchmarks; text only.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fleet_parts.figures import Figures
from benchmarks.fleet_parts.watch import Load

BASELINE = "round-robin"
_COLUMNS = (
    ("TTFT mean", "ttft_mean", "{:.2f}"),
    ("p50", "ttft_p50", "{:.2f}"),
    ("p90", "ttft_p90", "{:.2f}"),
    ("p99", "ttft_p99", "{:.1f}"),
    ("short p99", "short_ttft_p99", "{:.2f}"),
    ("TPOT p99", "tpot_p99", "{:.3f}"),
    ("imbal.", "imbalance", "{:.2f}"),
    ("queued", "queued_mean", "{:.2f}"),
    ("rejects", "rejected", "{:d}"),
)
_RATIOS = (("mean", "ttft_mean"), ("p99", "ttft_p99"), ("short p99", "short_ttft_p99"))
_KINDS_SHOWN = 5  # of errors; the JSON has all


@dataclass(frozen=True)
class Run:
    """One profile at one load. `hit_ratio`: of prompt tokens, by the engines' own counters."""

    profile: str
    load: float
    hit_ratio: float
    figures: Figures
    machine: Load
    trouble: tuple[str, ...] = ()
    """Lines of the gateway's log that speak of a fault."""

    def failures(self) -> list[str]:
        """Why the run has failed; none when it has not."""
        errors = list(self.figures.errors.items())[:_KINDS_SHOWN]
        found = [f"{number} x {reason}" for reason, number in errors]
        return found + [f"the gateway's log: {line}" for line in self.trouble[:_KINDS_SHOWN]]


def table(runs: Sequence[Run]) -> str:
    """A block per load: a line per profile with ratios to round robin, then what the machine did."""
    loads = sorted({run.load for run in runs})
    return "\n\n".join(_block(load, [run for run in runs if run.load == load]) for load in loads)


def _block(load: float, runs: Sequence[Run]) -> str:
    base = next((run.figures for run in runs if run.profile == BASELINE), None)
    ratios = [f"{title}/RR" for title, _ in _RATIOS]
    lines = [[f"at {load:.2f} X", *(title for title, _, _ in _COLUMNS), "hit", "foreseen", "TTFT seen", *ratios]]
    for run in runs:
        cells = [form.format(getattr(run.figures, field)) for _, field, form in _COLUMNS]
        told = [f"{run.hit_ratio:.3f}", _number(run.figures.foreseen), _number(run.figures.ttft_seen)]
        lines.append([run.profile, *cells, *told, *(_against(run.figures, base, field) for _, field in _RATIOS)])
    notes = [note for run in runs for note in _notes(run)]
    return "\n".join([aligned(lines), "", aligned([_MACHINE_HEAD, *map(_machine, runs)]), *notes])


_MACHINE_HEAD = ["CPU, % of a core", "gateway", "engines", "client", "others", "all busy", "sent late", "seconds"]


def _machine(run: Run) -> list[str]:
    load = run.machine
    used = [f"{value:.0f}" for value in (load.gateway, load.engines, load.client, load.others)]
    return [run.profile, *used, f"{load.busy:.0f} %", f"{load.late_p99_ms:.0f} ms", f"{load.seconds:.0f}"]


def _notes(run: Run) -> list[str]:
    bound = [f"CPU-BOUND: {run.profile} at {run.load:.2f} X: {reason}" for reason in run.machine.excess()]
    return bound + [f"FAILED: {run.profile} at {run.load:.2f} X: {reason}" for reason in run.failures()]


def _against(figures: Figures, base: Figures | None, field: str) -> str:
    below = getattr(base, field) if base is not None else 0
    return f"{getattr(figures, field) / below:.2f}" if below else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(about: dict[str, Any], runs: Sequence[Run]) -> dict[str, Any]:
    """Seconds of the trace and ratios; `machine` as in `watch.Load`."""
    here = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    rows = []
    for run in runs:
        row = {"profile": run.profile, "load": run.load, **asdict(run.figures), "hit_ratio": run.hit_ratio}
        cpu_bound = run.machine.excess()
        rows.append(row | {"machine": asdict(run.machine), "cpu_bound": cpu_bound, "failures": run.failures()})
    return {**about, **here, "results": rows}
