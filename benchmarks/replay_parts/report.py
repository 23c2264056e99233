"""The table for people and the JSON for programs.

Floor: benchmarks; text only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.replay_parts.goodput import LOWEST
from benchmarks.replay_parts.runs import PEERS, Result

COLUMNS = (
    ("TTFT mean", "ttft_mean", "{:.2f}"),
    ("p50", "ttft_p50", "{:.2f}"),
    ("p90", "ttft_p90", "{:.2f}"),
    ("p99", "ttft_p99", "{:.1f}"),
    ("short p99", "short_ttft_p99", "{:.2f}"),
    ("TPOT p99", "tpot_p99", "{:.3f}"),
    ("hit", "hit_ratio", "{:.3f}"),
    ("imbal.", "imbalance", "{:.2f}"),
    ("rejects", "rejected", "{:d}"),
)


def as_json(
    trace: str, endpoints: int, saturation_rps: float, results: Sequence[Result], goodput: Mapping[str, float] | None
) -> dict[str, object]:
    """Seconds and ratios. A policy's goodput stands at each of its loads."""
    rows = []
    for result in results:
        row = result.as_json()
        if goodput is not None:
            row["goodput_x"] = goodput[result.policy]
        rows.append(row)
    return {"trace": trace, "endpoints": endpoints, "saturation_rps": saturation_rps, "results": rows}


def table(results: Sequence[Result], goodput: Mapping[str, float] | None) -> str:
    """A block per load; ratios of the mean TTFT (below 1 is faster), then those of the goodput."""
    blocks = [_block(load, [one for one in results if one.load == load]) for load in _loads(results)]
    if goodput is not None:
        blocks.append(_goodput_block(goodput))
    return "\n\n".join(blocks)


def _loads(results: Sequence[Result]) -> list[float]:
    return sorted({result.load for result in results})


def _block(load: float, results: Sequence[Result]) -> str:
    means = {result.policy: result.ttft_mean for result in results}
    base, best = means.get("round-robin"), best_peer({name: -mean for name, mean in means.items()})
    lines = [[f"at {load:.2f} X", *(title for title, _, _ in COLUMNS), "mean: /RR", "/best peer"]]
    for result in results:
        values = [form.format(getattr(result, field)) for _, field, form in COLUMNS]
        peer = means[best] if best is not None else None
        lines.append([result.policy, *values, _ratio(result.ttft_mean, base), _ratio(result.ttft_mean, peer)])
    return _aligned(lines)


def _goodput_block(goodput: Mapping[str, float]) -> str:
    base, best = goodput.get("round-robin"), best_peer(goodput)
    lines = [["goodput", "x X", "/RR", "/best peer"]]
    for name, value in goodput.items():
        shown = f"{value:.2f}" if value else f"<{LOWEST:.2f}"
        lines.append([name, shown, _ratio(value, base), _ratio(value, goodput[best] if best else None)])
    return _aligned(lines)


def best_peer(values: Mapping[str, float]) -> str | None:
    """The peer with the highest value: other routers as they are, not the study's policies nor bounds."""
    peers = [name for name in values if name in PEERS]
    return max(peers, key=values.__getitem__) if peers else None


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else "-"


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
