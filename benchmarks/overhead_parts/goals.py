"""What Promptlane is to cost beside other gateways, and whether it did in this run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from benchmarks.overhead_parts.measures import CONVERSATION
from benchmarks.overhead_parts.report import BASELINE, Result

RESUME = "promptlane+resume"
_SGLANG, _NGINX, _LITELLM = "sglang-router", "nginx", "litellm"


@dataclass(frozen=True)
class Goal:
    """A figure of ours is at most (or, with `least`, theirs at least) so many times the other. `engine_ms`: what of
    both is the engine's own and is taken off."""

    what: str
    figure: str
    bound: float
    of: str
    ours: str = BASELINE
    least: bool = False
    engine_ms: float = 0.0


_FIRST_BYTE = "added time to first byte, 64 streams together"
GOALS = (
    Goal("CPU per request, short chat, 32 connections", "request_us", 0.65, _SGLANG),
    Goal("CPU per request, short chat, 32 connections", "request_us", 3.0, _NGINX),
    Goal("CPU per streamed chunk, 64 streams", "chunk_us", 0.75, _SGLANG),
    Goal("CPU per streamed chunk, 64 streams", "chunk_us", 1.4, _NGINX),
    Goal("the same with resume on", "chunk_us", 1.1, _SGLANG, ours=RESUME),
    Goal("added p50 at one connection", "added_p50_ms", 1.0, _SGLANG),
    Goal(_FIRST_BYTE, "first_byte_p50_ms", 0.15, _SGLANG, engine_ms=10.0),
    Goal(_FIRST_BYTE, "first_byte_p50_ms", 3.0, _NGINX, engine_ms=10.0),
    Goal("CPU per request, growing conversation", f"{CONVERSATION}: µs/request", 0.8, _SGLANG),
    Goal("CPU per request over ours", "request_us", 80.0, _LITELLM, least=True),
)


def lines(results: Mapping[str, Result]) -> Iterator[str]:
    """A line per goal of which this run has both figures."""
    for goal in GOALS:
        ours, theirs = (value(results, name, goal.figure) for name in (goal.ours, goal.of))
        if ours is None or theirs is None:
            continue
        ratio = share(goal, ours, theirs)
        met = ratio >= goal.bound if goal.least else ratio <= goal.bound
        wanted = f"at least {goal.bound:g} times" if goal.least else f"at most {goal.bound:g} times {goal.of}'s"
        subject = f"{goal.of}'s {goal.what}" if goal.least else goal.what
        yield f"goal: {subject}: {wanted}: {ratio:.2f} {'met' if met else 'MISSED'}"


def share(goal: Goal, ours: float, theirs: float) -> float:
    """Ours over theirs, or theirs over ours. What is too small to be told from nothing counts as that."""
    mine, other = (max(figure - goal.engine_ms, _NOTHING) for figure in (ours, theirs))
    return other / mine if goal.least else mine / other


_NOTHING = 1e-3  # a microsecond, of figures in milliseconds


def value(results: Mapping[str, Result], name: str, figure: str) -> float | None:
    """The median of a figure of the table, or of a full run's, of one gateway."""
    result = results.get(name)
    if result is None or not result.turns:
        return None
    return result.median(figure) if hasattr(result.turns[0], figure) else result.median_of_more(figure)
