"""A run as a picture: a panel per figure, a bar per gateway, and the cost of a request over the length of its prompt.

matplotlib is no dependency of the gateway nor of its tests, so it is imported when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.overhead_parts.measures import PROMPTS
from benchmarks.overhead_parts.report import BASELINE, COLUMNS, Result
from benchmarks.overhead_parts.traffic import REQUESTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NO_PLOT = """no plot: matplotlib is not installed in this environment. `make bench-overhead-full` installs it, or do
    python -m pip install --require-hashes -r benchmarks/requirements-plots.txt"""
_PANELS = ("request_us", "chunk_us", "added_p50_ms", "rss_mb")
_OURS, _OTHERS = "#c1121f", "#8d99ae"


def write_plot(path: Path, results: Sequence[Result]) -> None:
    """PNG or SVG, as the name ends. ImportError without matplotlib."""
    from matplotlib.figure import Figure

    measured = [result for result in results if result.turns]
    figure = Figure(figsize=(11.0, 7.0), layout="constrained")
    panels = figure.subplots(2, 3).flat
    titles = {column.figure: column.title for column in COLUMNS}
    for axes, name in zip(panels, _PANELS, strict=False):
        _bars(axes, titles[name], measured, name)
    _over_length(figure.axes[len(_PANELS)], measured)
    figure.axes[-1].set_axis_off()
    handles, labels = figure.axes[len(_PANELS)].get_legend_handles_labels()
    figure.axes[-1].legend(handles, labels, loc="center", fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


def _bars(axes: Axes, title: str, results: Sequence[Result], figure: str) -> None:
    """Logarithmic, as LiteLLM's are a hundred times the others'. A time that adds nothing is not drawn."""
    names = [result.name for result in results][::-1]
    values = [max(0.0, result.median(figure)) for result in results][::-1]
    bars = axes.barh(names, values, color=[_OURS if name.startswith(BASELINE) else _OTHERS for name in names])
    axes.bar_label(bars, [f"{value:,.3g}" for value in values], padding=2, fontsize="x-small")
    axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.tick_params(labelsize="x-small")
    axes.tick_params(which="minor", labelbottom=False)  # they lie over each other; the bars have their figures
    axes.set_title(title, fontsize="medium")


def _over_length(axes: Axes, results: Sequence[Result]) -> None:
    """µs/request over the characters of the prompt; a single point outside of a full run."""
    for result in results:
        points = [(REQUESTS.prompt_chars, result.median("request_us"))]
        for length, name in PROMPTS.items():
            if (value := result.median_of_more(f"{name}: µs/request")) is not None:
                points.append((length, value))
        ours = result.name == BASELINE
        axes.plot(*zip(*points, strict=True), marker=".", label=result.name, linewidth=2.6 if ours else 1.2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title("µs/request over characters", fontsize="medium")
    axes.grid(alpha=0.3)
