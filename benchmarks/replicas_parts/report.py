"""The tables for people and the JSON for programs.

Floor: benchmarks; text only. A ratio is to one replica's figure of the same trace or run; a goal that is not met is
marked MISSED, and is no failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fleet_parts.report import aligned
from benchmarks.replay_parts.goodput import LOWEST
from benchmarks.replay_parts.runs import Result
from benchmarks.replicas_parts.processes import Run
from benchmarks.replicas_parts.replays import Sharing
from benchmarks.replicas_parts.rounds import Cost

GOODPUT_GOAL = 0.95
"""Of one replica's."""
TICKET_GOAL_US = 60.0
"""CPU microseconds of a ticket on either side."""


@dataclass(frozen=True)
class Line:
    """One way to share on one trace. `goodput`: in multiples of X; `results`: one for each load."""

    sharing: Sharing
    goodput: float
    results: tuple[Result, ...]


def verdict(value: float, *, least: float | None = None, most: float | None = None) -> str:
    good = (least is None or value >= least) and (most is None or value <= most)
    return "met" if good else "MISSED"


def replays_table(trace: str, lines: Sequence[Line]) -> str:
    """The first line is one replica's. Who shares late is shown for contrast, without a goal."""
    base = lines[0]
    rows = [[trace, "goodput x X", "ratio", "goal", ""]]
    for result in base.results:
        rows[0] += [f"at {result.load:.2f} X: TTFT mean", "ratio", "short p99", "hit"]
    for line in lines:
        cells = [f"{line.goodput:.2f}" if line.goodput else f"<{LOWEST:.2f}"]
        cells += _goodput_cells(line.goodput, base.goodput, judged=line is not base and not line.sharing.late)
        for result, alone in zip(line.results, base.results, strict=True):
            cells += [f"{result.ttft_mean:.2f}", f"{_ratio(result.ttft_mean, alone.ttft_mean):.2f}"]
            cells += [f"{result.short_ttft_p99:.2f}" if result.short_ttft_p99 else "-", f"{result.hit_ratio:.3f}"]
        rows.append([line.sharing.name, *cells])
    return aligned(rows)


def processes_table(runs: Sequence[Run]) -> str:
    """Seconds of the trace. The first run is one gateway's."""
    base = runs[0]
    rows = [["gateway processes", "goodput 1/s", "ratio", "goal", ""]]
    rows[0] += ["TTFT mean", "ratio", "p99", "short p99", "hit", "tickets"]
    for run in runs:
        figures = run.figures
        cells = [f"{run.goodput:.2f}", *_goodput_cells(run.goodput, base.goodput, judged=run is not base)]
        cells += [f"{figures.ttft_mean:.2f}", f"{_ratio(figures.ttft_mean, base.figures.ttft_mean):.2f}"]
        cells += [f"{figures.ttft_p99:.1f}", f"{figures.short_ttft_p99:.2f}", f"{figures.cached_ratio:.3f}"]
        rows.append([str(run.replicas), *cells, str(run.tickets)])
    notes = [f"CPU-BOUND: {run.replicas} processes: {reason}" for run in runs for reason in run.machine.excess()]
    notes += [f"FAILED: {run.replicas} processes: {reason}" for run in runs for reason in run.failures]
    return "\n".join([aligned(rows), *notes])


def rounds_table(costs: Sequence[Cost]) -> str:
    """The floor has no goal: nothing that speaks over a socket in the same turns can cost less."""
    rows = [["CPU us of a ticket", "follower", "owner", "goal", ""]]
    for cost in costs:
        name = "loops and sockets alone, 1 at once" if cost.floored else f"{cost.concurrent} at once"
        goal = [f"<= {TICKET_GOAL_US:.0f}", verdict(max(cost.follower, cost.owner), most=TICKET_GOAL_US)]
        rows.append([name, f"{cost.follower:.1f}", f"{cost.owner:.1f}", *(["", ""] if cost.floored else goal)])
    return aligned(rows)


def _goodput_cells(goodput: float, base: float, *, judged: bool) -> list[str]:
    """The ratio and what is said of it."""
    ratio = _ratio(goodput, base)
    goal = [f">= {GOODPUT_GOAL:.2f}", verdict(ratio, least=GOODPUT_GOAL)] if judged else ["", ""]
    return [f"{ratio:.2f}", *goal]


def _ratio(value: float, base: float) -> float:
    return value / base if base else 0.0


def replays_json(trace: str, saturation_rps: float, lines: Sequence[Line]) -> dict[str, Any]:
    base = lines[0].goodput
    return {
        "trace": trace,
        "saturation_rps": saturation_rps,
        "lines": [
            {
                **asdict(line.sharing),
                "goodput_x": line.goodput,
                "goodput_ratio": _ratio(line.goodput, base),
                "results": [result.as_json() for result in line.results],
            }
            for line in lines
        ],
    }


def processes_json(runs: Sequence[Run]) -> list[dict[str, Any]]:
    base = runs[0].goodput
    return [
        {**asdict(run), "goodput_ratio": _ratio(run.goodput, base), "cpu_bound": run.machine.excess()} for run in runs
    ]


def rounds_json(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    return [asdict(cost) for cost in costs]
