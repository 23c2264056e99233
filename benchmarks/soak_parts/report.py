"""From what a soak saw to a verdict, a small table and a JSON object."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean, median
from typing import Any

from benchmarks.overhead_parts.measure import percentile
from benchmarks.soak_parts.kills import FIN, GIVE_UP_SECONDS, GOAL_MS, RST, Kill
from benchmarks.soak_parts.watch import Sample, cpu_percent, slope_per_minute

FLAT_MB_PER_MINUTE = 5.0
"""Growth of memory above which it is a leak: an allocator that settles shows up to 1 MB a minute, and the default load
finishes some 15,000 streams a minute, so that a single object of 350 bytes kept per request is 5."""
SHORTEST_SLOPE_SECONDS = 20.0
"""Of watching: below, the slope is noise and no verdict."""
_KINDS_SHOWN = 5  # of errors; the JSON has all


@dataclass
class Result:
    """All that one run saw. `steady`: samples of a warm gateway with every stream open; `drained`: after the last."""

    streams: int
    seconds: float
    engines: int
    idle: Sample
    steady: list[Sample]
    drained: Sample
    finished: int
    tokens: int
    errors: dict[str, int]
    left_after_load: list[str]
    kills: list[Kill] = field(default_factory=list)
    kills_failed: str = ""
    """Why the kills ended early."""
    left_after_kills: list[str] = field(default_factory=list)

    @property
    def lasted(self) -> float:
        """Seconds of the steady part: fewer than asked for when the load ended early."""
        return _seconds(self.steady)

    @property
    def settled(self) -> list[Sample]:
        """The second half of it: by then every generation of the garbage collector has run, even under a small load."""
        return self.steady[len(self.steady) // 2 :]

    def failures(self) -> list[str]:
        """Why the run has failed; none when it has not. A kill over the goal is slow, not failed."""
        found = [f"{number} x {reason}" for reason, number in list(self.errors.items())[:_KINDS_SHOWN]]
        if not self.finished:
            found.append("no stream finished")
        slope = slope_per_minute(self.settled)
        if slope > FLAT_MB_PER_MINUTE and _seconds(self.settled) >= SHORTEST_SLOPE_SECONDS:
            found.append(f"memory grows by {slope:.1f} MB a minute, over {FLAT_MB_PER_MINUTE:.0f}")
        found += [f"left behind by the load: {what}" for what in self.left_after_load]
        stuck = [one for one in self.kills if one.freed_ms is None]
        found += [f"{one.how} at {one.endpoint}: slot still taken after {GIVE_UP_SECONDS:.0f} s" for one in stuck]
        if self.kills_failed:
            found.append(f"kills: {self.kills_failed}")
        return found + [f"left behind by the kills: {what}" for what in self.left_after_kills]


def table(result: Result) -> str:
    """What is printed."""
    lines = [_streams(result), "", *_gateway(result), "", *(_kills(one, result.kills) for one in (RST, FIN))]
    failures = [f"FAILED: {reason}" for reason in result.failures()]
    return "\n".join([*lines, *(failures or ["nothing failed, nothing was left behind"])])


def _streams(result: Result) -> str:
    opened = [one.open for one in result.steady]
    cpu = {name: cpu_percent(result.steady, f"{name}_cpu") for name in ("gateway", "engines", "load")}
    return (
        f"streams: {result.finished:,} finished with {result.tokens:,} tokens, {sum(result.errors.values())} failed;"
        f" open at once for {result.lasted:.0f} s: {min(opened):,} at least, {mean(opened):,.0f} on average\n"
        f"CPU, % of a core: gateway {cpu['gateway']:.0f}, {result.engines} engines {cpu['engines']:.0f},"
        f" load {cpu['load']:.0f}"
    )


def _gateway(result: Result) -> list[str]:
    steady = result.steady
    moments = {
        "before": result.idle,
        "warm": steady[0],
        "middle": steady[len(steady) // 2],
        "end": steady[-1],
        "drained": result.drained,
    }
    rows = [
        ("gateway", list(moments)),
        ("RSS MB", [f"{one.rss_mb:.1f}" for one in moments.values()]),
        ("files", [f"{one.files:,}" for one in moments.values()]),
    ]
    lines = [f"{title:>8}" + "".join(f"{cell:>10}" for cell in cells) for title, cells in rows]
    slope, seconds = slope_per_minute(result.settled), _seconds(result.settled)
    return [*lines, f"memory's slope over the last {seconds:.0f} s: {slope:+.1f} MB a minute"]


def _seconds(samples: Sequence[Sample]) -> float:
    return samples[-1].at - samples[0].at


def _kills(how: str, kills: Sequence[Kill]) -> str:
    times = [one.freed_ms for one in kills if one.how == how and one.freed_ms is not None]
    if not times:
        return f"{how}: no slot was freed"
    verdict = "met" if max(times) <= GOAL_MS else "MISSED"
    looks = median(one.poll_ms for one in kills)
    return (
        f"{len(times)} clients gone by {how}: slot free after p50 {percentile(times, 0.5):.1f} ms,"
        f" max {max(times):.1f} ms (looked every {looks:.1f} ms; goal {GOAL_MS:.0f} ms: {verdict})"
    )


def as_json(result: Result) -> Mapping[str, Any]:
    """Everything, with the machine."""
    machine = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    verdict = {"failures": result.failures(), "slope_mb_per_minute": slope_per_minute(result.settled)}
    return {**machine, **verdict, **asdict(result)}
