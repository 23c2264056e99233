"""The results as pictures: the time to first token, as a distribution and over the load, and the goodput.

Floor: benchmarks; writes PNG files. matplotlib is no dependency of the gateway nor of its tests, so it is imported when
it is asked for: `make bench-routing` installs it (requirements-plots.txt).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.replay_parts.goodput import LOWEST
from benchmarks.replay_parts.report import best_peer
from benchmarks.replay_parts.runs import OWN, PEERS, QUANTILES, REFERENCES, Result
from policies.registry import PROFILES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NO_PLOTS = """no plots: matplotlib is not installed in this environment. `make bench-routing` installs it, or do
    python -m pip install --require-hashes -r benchmarks/requirements-plots.txt"""

OWN_COLOURS = ("#c1121f", "#f4791f", "#7b2d8b", "#b5838d")
PEER_COLOURS = ("#8d99ae", "#5a7d9a", "#2a6f97", "#2a9d8f", "#6a994e", "#b08968", "#1d3557")
REFERENCE_STYLES = ("--", ":", "-.", (0, (1, 1)), (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (5, 4)))
"""The gateway's profiles stand out; peers have a colour each; the study's policies and the bounds are grey."""
SIZE, DPI = (9.0, 5.0), 120
LEAST_SECONDS = 0.01
"""The left end of logarithmic axes: a step of the engine."""


def write_plots(folder: Path, trace: str, results: Sequence[Result], goodput: Mapping[str, float] | None) -> list[Path]:
    """Write what there is to show, and return the files. ImportError without matplotlib."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"\W+", "-", trace.split(".")[0])
    loads = sorted({result.load for result in results})
    drawn: list[tuple[str, Figure]] = []
    for load in loads:
        figure = Figure(figsize=SIZE, layout="constrained")
        draw_distribution(figure, f"{trace}, load {load:g} X", [one for one in results if one.load == load])
        drawn.append((f"ttft-{load:g}x".replace(".", "-"), figure))
    if len(loads) > 1:
        figure = Figure(figsize=SIZE, layout="constrained")
        draw_over_load(figure, trace, results)
        drawn.append(("ttft-over-load", figure))
    if goodput:
        figure = Figure(figsize=SIZE, layout="constrained")
        draw_goodput(figure, trace, goodput)
        drawn.append(("goodput", figure))
    paths = [folder / f"{stem}-{name}.png" for name, _ in drawn]
    for path, (_, figure) in zip(paths, drawn, strict=True):
        figure.savefig(path, dpi=DPI)
    return paths


def draw_distribution(figure: Figure, title: str, results: Sequence[Result]) -> None:
    """The share of requests (a line per policy) whose first token took longer than so many seconds. Logarithmic, as the
    late ones are what matters: p50, p90 and p99 are where a line crosses .5, .1 and .01."""
    axes = figure.add_subplot()
    shares = [1 - percent / 100 for percent in QUANTILES]
    for result in results:
        if result.ttft:
            axes.plot([max(LEAST_SECONDS, at) for at in result.ttft], shares, **style(result.policy))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(title=title, xlabel="time to first token, seconds", ylabel="share of requests that wait longer")
    _finish(figure, axes)


def draw_over_load(figure: Figure, title: str, results: Sequence[Result]) -> None:
    """Mean and p99 of short prompts beside each other, over the load."""
    panels = figure.subplots(1, 2, sharey=True)
    fields = {"ttft_mean": "mean", "short_ttft_p99": "p99 of short prompts"}
    for axes, (field, name) in zip(panels, fields.items(), strict=True):
        for policy in dict.fromkeys(result.policy for result in results):
            points = sorted((one.load, getattr(one, field)) for one in results if one.policy == policy)
            loads, seconds = zip(*points, strict=True)
            axes.plot(loads, [max(LEAST_SECONDS, at) for at in seconds], marker=".", **style(policy))
        axes.set_yscale("log")
        axes.set(title=f"time to first token, {name}", xlabel="load, multiples of X")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("seconds")
    figure.suptitle(title)
    _finish(figure, panels[1])


def draw_goodput(figure: Figure, title: str, goodput: Mapping[str, float]) -> None:
    """A bar per policy, the best at the top, and a line at the best peer's."""
    axes = figure.add_subplot()
    order = sorted(goodput, key=goodput.__getitem__)
    bars = axes.barh(order, [goodput[name] for name in order], color=[style(name)["color"] for name in order])
    axes.bar_label(bars, [f"{goodput[name]:.2f}" if goodput[name] else f"<{LOWEST}" for name in order], padding=3)
    best = best_peer(goodput)
    if best is not None:
        axes.axvline(goodput[best], color="black", linewidth=0.8, linestyle=":")
    axes.set(title=title, xlabel="goodput, multiples of X: 99 % have their first token in time")
    axes.margins(x=0.1)


def style(policy: str) -> dict[str, Any]:
    """The same for a policy in every picture, whoever else is in it."""
    if policy in PEERS:
        return {"label": policy, "color": PEER_COLOURS[list(PEERS).index(policy) % len(PEER_COLOURS)]}
    if policy in REFERENCES:
        dashes = REFERENCE_STYLES[list(REFERENCES).index(policy) % len(REFERENCE_STYLES)]
        return {"label": policy, "color": "#9a9a9a", "linestyle": dashes, "linewidth": 1.0}
    number, colours = list(PROFILES).index(policy.removeprefix(OWN)), len(OWN_COLOURS)
    dashes = ("-", "--", ":")[number // colours % 3]
    return {"label": policy, "color": OWN_COLOURS[number % colours], "linestyle": dashes, "linewidth": 2.6, "zorder": 3}


def _finish(figure: Figure, axes: Axes) -> None:
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
