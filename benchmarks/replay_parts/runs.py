"""One replay, and the saturation throughput: what a figure of the table is made of.

Floor: benchmarks, pure. Everything here is decided by the trace, the setup and the seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

from benchmarks.replay_parts import baselines, references, scraping, study
from benchmarks.replay_parts.fleet import Fleet, Log, Router
from benchmarks.replay_parts.gateway import LONG_TOKENS, Gateway
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, arrivals
from policies.registry import PROFILES

OVERLOAD = 2.0
"""X is measured at this multiple of the fleet's cold prefill rate; from 1.5 to 100 it gives the same X within 0.5 %."""

PEERS: Mapping[str, type[baselines.AtOnce]] = MappingProxyType(
    {
        "round-robin": baselines.RoundRobin,
        "least-in-flight": baselines.LeastInFlight,
        "least-tokens": baselines.LeastTokens,
        "cache-aware": baselines.CacheAware,
        "kthena": scraping.Kthena,
        "llm-d": scraping.LlmD,
        "dynamo": baselines.Dynamo,
    }
)
REFERENCES: Mapping[str, type[baselines.AtOnce]] = MappingProxyType(
    {
        "policy-a": study.PolicyA,
        "policy-b": study.PolicyB,
        "policy-c": study.PolicyC,
        "policy-d": study.PolicyD,
        "policy-dfl": references.PolicyDFL,
        "oracle": references.Oracle,
        "bound": references.Bound,
    }
)
OWN = "profile:"
"""Before a name: the gateway's profile, where a peer has the same name."""
QUANTILES = (*(float(percent) for percent in range(1, 100)), 99.5, 99.9)
"""Percents of which a result keeps the time to first token, for the plots."""


@dataclass(frozen=True, slots=True)
class Result:
    """A line of the table: seconds and ratios.

    `imbalance`: requests at the fullest engine over the mean, as arrivals find them. `hit_ratio`: of prompt tokens.
    `ttft`: the time to first token at each of `QUANTILES`; empty without an answer.
    """

    policy: str
    load: float
    ttft_mean: float
    ttft_p50: float
    ttft_p90: float
    ttft_p99: float
    short_ttft_p99: float
    tpot_p99: float
    hit_ratio: float
    imbalance: float
    rejected: int
    ttft: tuple[float, ...] = ()

    def as_json(self) -> dict[str, object]:
        """The figures, without the distribution."""
        return {name: value for name, value in asdict(self).items() if name != "ttft"}


def known_policies() -> list[str]:
    own = [name if name not in PEERS else OWN + name for name in PROFILES]
    return [*own, *PEERS, *REFERENCES]


def build(policy: str, setup: Setup) -> tuple[Fleet, Router]:
    """A new fleet and the policy in front of it. ValueError for an unknown name."""
    fleet = Fleet(setup.engine(), setup.endpoints, shared=policy == "bound")
    peer = PEERS.get(policy) or REFERENCES.get(policy)
    if peer is not None:
        return fleet, peer(fleet, setup, policy)
    name = policy.removeprefix(OWN)
    if name not in PROFILES:
        raise ValueError(f"unknown policy {policy!r}; known: {', '.join(known_policies())}")
    return fleet, Gateway(fleet, setup, name)


def replay(policy: str, setup: Setup, jobs: Sequence[Job], rate: float, load: float) -> Result:
    """The whole trace at `rate` requests a second; `load` is its name in the table."""
    fleet, router = build(policy, setup)
    return summarize(policy, load, jobs, fleet.run(router, jobs, arrivals(jobs, rate)))


def summarize(policy: str, load: float, jobs: Sequence[Job], log: Log) -> Result:
    """All requests count, also the first ones, which find empty caches."""
    ttft: list[float] = []
    short: list[float] = []
    tpot: list[float] = []
    prompt = cached = 0
    for job in jobs:
        first, finished = log.first[job.number], log.finished[job.number]
        if first is None or finished is None:
            continue  # rejected
        ttft.append(first - log.arrived[job.number])
        if job.prompt <= LONG_TOKENS:
            short.append(ttft[-1])
        if job.output > 1:
            tpot.append((finished - first) / (job.output - 1))
        prompt += job.prompt
        cached += log.cached[job.number]
    return Result(
        policy,
        load,
        sum(ttft) / len(ttft) if ttft else 0.0,
        percentile(ttft, 50),
        percentile(ttft, 90),
        percentile(ttft, 99),
        percentile(short, 99),
        percentile(tpot, 99),
        cached / prompt if prompt else 0.0,
        log.fullest / log.present if log.present else 1.0,
        log.rejected,
        tuple(percentiles(ttft, QUANTILES)) if ttft else (),
    )


def percentile(values: Sequence[float], percent: float) -> float:
    """The least value that at least `percent` % of the values do not exceed; 0 of none."""
    return percentiles(values, (percent,))[0]


def percentiles(values: Sequence[float], percents: Sequence[float]) -> list[float]:
    """The same for several, sorted once."""
    ordered = sorted(values)
    ranks = [int(-(-len(ordered) * percent // 100)) for percent in percents]
    return [ordered[max(0, rank - 1)] if ordered else 0.0 for rank in ranks]


def saturation(setup: Setup, jobs: Sequence[Job]) -> float:
    """X, requests per second: what the fleet finishes under round robin when no engine ever lacks work.

    The whole trace is offered at `OVERLOAD` times the rate of its cold prefills, so all queues stay full. Each engine's
    requests over the time of its last finish are its own throughput; X is the sum over the engines. So an engine that
    was dealt longer prompts, and works on alone at the end, does not count as a slow fleet.
    """
    cold = sum(job.cold_seconds for job in jobs) / len(jobs)
    fleet, router = build("round-robin", setup)
    log = fleet.run(router, jobs, arrivals(jobs, OVERLOAD * setup.endpoints / cold))
    counts, ends = [0] * setup.endpoints, [0.0] * setup.endpoints
    for engine, at in log.ended_at():
        counts[engine] += 1
        ends[engine] = max(ends[engine], at)
    return sum(count / end for count, end in zip(counts, ends, strict=True) if count)
