"""From turns to a table and a JSON file: medians over the rounds, ratios against Promptlane of the same run."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.overhead_parts.interpreters import interpreter
from benchmarks.overhead_parts.rounds import Turn

BASELINE = "promptlane"
_NOISY_PERCENT = (
    20.0  # of a core, for other programs: with a whole core, one gateway's rounds differed by a factor of 2
)
_SATURATED_PERCENT = 90.0  # of a core: below it the gateway could have done more, and requests/s is the load's figure


@dataclass
class Result:
    """One gateway's turns, and why there are no more of them."""

    name: str
    turns: list[Turn] = field(default_factory=list)
    absent: str = ""
    """Why it was not measured at all (not installed, not started)."""
    failed: str = ""
    """Why a turn ended early: wrong answers, a crash, silence."""

    def median(self, figure: str) -> float:
        """Of a field of Turn over the turns."""
        return float(median(getattr(turn, figure) for turn in self.turns))

    def median_of_more(self, name: str) -> float | None:
        """Of a full run's figure over the turns; None where the gateway was not asked for it."""
        values = [turn.more[name] for turn in self.turns if name in turn.more]
        return float(median(values)) if values else None

    def spread(self, figure: str) -> float:
        """(highest - lowest) / median over the turns: how far to trust a difference."""
        values = [getattr(turn, figure) for turn in self.turns]
        return float((max(values) - min(values)) / median(values))


@dataclass(frozen=True)
class Column:
    """A figure of the table: a field of Turn. With `ratio`, followed by how many times Promptlane's it is."""

    figure: str
    title: str
    digits: int
    ratio: bool = True


COLUMNS = (
    Column("request_us", "µs/request", 1),
    Column("chunk_us", "µs/chunk", 1),
    Column("added_p50_ms", "added p50 ms", 3),
    Column("first_byte_p50_ms", "first byte ms", 1),
    Column("requests_per_s", "requests/s", 0),
    Column("rss_mb", "RSS MB", 0),
    Column("busy_percent", "core busy %", 0, ratio=False),
    Column("others_percent", "others %", 0, ratio=False),
)


def _baseline(results: Sequence[Result]) -> Result | None:
    return next((result for result in results if result.name == BASELINE and result.turns), None)


def _cell(column: Column, result: Result, baseline: Result | None) -> str:
    value = result.median(column.figure)
    text = f"{value:,.{column.digits}f}"
    if column.figure == "requests_per_s" and result.median("busy_percent") < _SATURATED_PERCENT:
        text = f">{text}"
    if column.ratio and baseline is not None:
        text += f" {value / baseline.median(column.figure):5.2f}x"
    return text


def table(results: Sequence[Result]) -> str:
    """The table, a line per gateway, then a line for each that is absent or failed."""
    baseline = _baseline(results)
    rows = [["gateway", *(column.title for column in COLUMNS), "spread", "rounds"]]
    for result in results:
        if result.turns:
            cells = [_cell(column, result, baseline) for column in COLUMNS]
            rows.append([result.name, *cells, f"{result.spread('request_us'):.0%}", str(len(result.turns))])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    lines += [f"{result.name}: absent: {result.absent}" for result in results if result.absent]
    lines += [f"{result.name}: FAILED: {result.failed}" for result in results if result.failed]
    if noisy := [
        result.name for result in results if result.turns and result.median("others_percent") > _NOISY_PERCENT
    ]:
        lines.append(
            f"NOISY: other programs took over {_NOISY_PERCENT:.0f} % of a core beside {', '.join(noisy)}: run again"
        )
    if baseline is None:
        lines.append(f"no ratios: {BASELINE} was not measured in this run")
    return "\n".join(lines)


def full_table(results: Sequence[Result]) -> str:
    """A line per figure of a full run, a column per gateway, each with how many times Promptlane's it is."""
    measured = [result for result in results if result.turns]
    names = list(dict.fromkeys(name for result in measured for turn in result.turns for name in turn.more))
    baseline = _baseline(results)
    rows = [["", *(result.name for result in measured)]]
    rows += [[name, *(_full_cell(result, baseline, name) for result in measured)] for name in names]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def _full_cell(result: Result, baseline: Result | None, name: str) -> str:
    value = result.median_of_more(name)
    if value is None:
        return "-"
    ours = baseline.median_of_more(name) if baseline is not None else None
    ratio = f" {value / ours:5.2f}x" if ours else ""
    return f"{value:,.{2 if value < 10 else 0}f}{ratio}"


def as_json(results: Sequence[Result], run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything: `run` (how it was measured), then per gateway medians, ratios and each turn as it was."""
    python = {"python": platform.python_version(), "python_compiled_by_counts": interpreter().counted}
    machine = {**python, "system": platform.platform(), "cores": os.cpu_count()}
    baseline = _baseline(results)
    return {"run": {**run, **machine}, "gateways": {result.name: _gateway(result, baseline) for result in results}}


def _gateway(result: Result, baseline: Result | None) -> dict[str, Any]:
    medians = {column.figure: result.median(column.figure) for column in COLUMNS if result.turns}
    compared = [column.figure for column in COLUMNS if column.ratio and medians and baseline is not None]
    ratios = {figure: medians[figure] / baseline.median(figure) for figure in compared if baseline is not None}
    names = dict.fromkeys(name for turn in result.turns for name in turn.more)
    return {
        "medians": medians,
        "ratios": ratios,
        "more": {name: result.median_of_more(name) for name in names},
        **asdict(result),
    }
