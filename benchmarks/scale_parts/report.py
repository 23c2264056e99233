"""Curves as tables: a line per size, then what the growth is called.

Floor: benchmarks, pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from benchmarks.scale_parts.curve import TAIL, Curve, Point

RSS_GOAL_MB = 150.0


def lines(curve: Curve) -> Iterator[str]:
    """The table of one axis."""
    yield f"{curve.axis:>24} {'µs/' + curve.unit:>12} {'ratio':>7} {'load s':>8} {'RSS MB':>8}"
    for point, ratio in zip(curve.points, curve.ratios(), strict=True):
        yield f"{point.size:>24,} {point.microseconds:>12.2f} {_or_dash(ratio, '.2f'):>7} {_rest(point)}"
    last = min(TAIL, len(curve.points))
    yield f"{'slope':>24} {curve.slope:>12.2f}   {curve.tail:.2f} over the last {last}: {verdict(curve)}"


def verdict(curve: Curve) -> str:
    if curve.defect:
        return f"DEFECT: {curve.growth}, where {curve.allowed} is allowed"
    return curve.growth


def memory(rss_mb: float) -> str:
    """The goal's line."""
    found = "met" if rss_mb <= RSS_GOAL_MB else "MISSED"
    return f"RSS with 1,000 idle tenants and 1,000 open streams: {rss_mb:.0f} MB (goal {RSS_GOAL_MB:.0f}: {found})"


def as_json(curves: Mapping[str, Curve], rss_mb: float | None) -> dict[str, Any]:
    """Everything."""
    return {
        "axes": {
            name: {**asdict(one), "slope": one.slope, "tail": one.tail, "growth": one.growth, "defect": one.defect}
            for name, one in curves.items()
        },
        "rss_mb": rss_mb,
    }


def _rest(point: Point) -> str:
    return f"{_or_dash(point.load_seconds, '.1f'):>8} {_or_dash(point.rss_mb, '.0f'):>8}"


def _or_dash(value: float | None, how: str) -> str:
    return "-" if value is None else format(value, how)
