"""The table, the two goals, and the JSON.

Floor: benchmarks; text only.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.fleet_parts.report import BASELINE, aligned
from benchmarks.real_vllm_parts.runs import Measured

GOAL_TTFT = 0.4
"""Mean time to first token over round robin's, at most (issue 3: "Figures to reach")."""
GOAL_HITS = 0.8
"""Hit ratio over the ideal one, at least (the same)."""
OURS = "prompt-aware"
NOISY_PERCENT = 30.0
"""Of a core, for other programs: engines have one thread each and want a core for it. With a core and a half taken,
a cold prefill took 10 s and more instead of 3, and everything was a queue."""


@dataclass(frozen=True)
class About:
    """What was measured: tokens, and the hit ratio of one infinite cache."""

    conversations: int
    requests: int
    prompt_tokens: int
    ideal_hit_ratio: float
    live_tokens: int
    kv_tokens: int
    engines: int

    def line(self) -> str:
        return (
            f"{self.engines} real vLLM servers of {self.kv_tokens:,} KV tokens each; {self.conversations} conversations"
            f" that need {self.live_tokens:,} at their ends; {self.requests} requests of"
            f" {self.prompt_tokens / self.requests:,.0f} tokens on average, ideal hit ratio {self.ideal_hit_ratio:.3f}"
        )


@dataclass(frozen=True)
class Verdict:
    """The goals of the issue. None: not both profiles were measured."""

    ttft_ratio: float | None
    hit_share: float | None

    def lines(self) -> list[str]:
        found = []
        if self.ttft_ratio is not None:
            met = "met" if self.ttft_ratio <= GOAL_TTFT else "MISSED"
            found.append(f"mean TTFT of {OURS}: {self.ttft_ratio:.2f} x {BASELINE} (goal at most {GOAL_TTFT}: {met})")
        if self.hit_share is not None:
            met = "met" if self.hit_share >= GOAL_HITS else "MISSED"
            found.append(f"hit ratio of {OURS}: {self.hit_share:.2f} x ideal (goal at least {GOAL_HITS}: {met})")
        return found


def verdict(about: About, runs: Sequence[Measured]) -> Verdict:
    """Over the rounds of each profile."""
    ours = [run for run in runs if run.profile == OURS]
    base = [run for run in runs if run.profile == BASELINE]
    ttft = hits = None
    if ours and base:
        ttft = _mean([run.figures.ttft_mean for run in ours]) / _mean([run.figures.ttft_mean for run in base])
    if ours and about.ideal_hit_ratio:
        hits = _mean([run.hit_ratio for run in ours]) / about.ideal_hit_ratio
    return Verdict(ttft, hits)


_HEAD = ["profile", "TTFT mean", "p50", "p90", "p99", "hit", "/ideal", "stayed", "placed", "foreseen", "TTFT seen"]
_CPU = ["queued", "engines %", "gateway %", "others %", "seconds"]


def table(about: About, runs: Sequence[Measured]) -> str:
    lines = [[*_HEAD, *_CPU], *(_line(run, about) for run in runs)]
    failures = [f"FAILED: {run.profile}: {reason}" for run in runs for reason in run.failures()]
    return "\n".join([aligned(lines), "", *verdict(about, runs).lines(), *map(_noise, noisy(runs)), *failures])


def noisy(runs: Sequence[Measured]) -> list[Measured]:
    """Runs in which other programs had the cores, so that their times are no result."""
    return [run for run in runs if run.machine.others > NOISY_PERCENT]


def _noise(run: Measured) -> str:
    return (
        f"NOISY: other programs took {run.machine.others:.0f} % of a core from {run.profile}: its times are no result"
    )


def _line(run: Measured, about: About) -> list[str]:
    figures, machine = run.figures, run.machine
    times = [f"{value:.2f}" for value in (figures.ttft_mean, figures.ttft_p50, figures.ttft_p90, figures.ttft_p99)]
    hits = [f"{run.hit_ratio:.3f}", f"{run.hit_ratio / about.ideal_hit_ratio:.2f}" if about.ideal_hit_ratio else "-"]
    where = [f"{run.stayed:.2f}", "/".join(map(str, run.placed))]
    told = ["-" if value is None else f"{value:.2f}" for value in (figures.foreseen, figures.ttft_seen)]
    used = [f"{value:.0f}" for value in (machine.engines, machine.gateway, machine.others, machine.seconds)]
    return [run.profile, *times, *hits, *where, *told, f"{figures.queued_mean:.2f}", *used]


def as_json(about: About, runs: Sequence[Measured]) -> dict[str, Any]:
    """Seconds, tokens and ratios."""
    here = {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()}
    taken = noisy(runs)
    rows = [{**asdict(run), "noisy": run in taken, "failures": run.failures()} for run in runs]
    return {**asdict(about), **here, **asdict(verdict(about, runs)), "results": rows}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
