"""What a line of the table of replays is made of: some replicas that share in some way, on a trace.

Floor: benchmarks, pure. Everything here is decided by the trace, the setup and the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.replay_parts.fleet import Log
from benchmarks.replay_parts.goodput import LATE_SHARE, Lateness, search
from benchmarks.replay_parts.runs import Result, summarize
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, arrivals
from benchmarks.replicas_parts.engines import LoopFleet
from benchmarks.replicas_parts.replicas import Group, Late, Owned
from benchmarks.virtual_loop import VirtualLoop, run


@dataclass(frozen=True, slots=True)
class Sharing:
    """How many replicas, and how they share. `late`: they tell each other what they did `seconds` later; else one
    decides, and a ticket takes the others `seconds`."""

    replicas: int
    seconds: float = 0.0
    late: bool = False

    @property
    def name(self) -> str:
        if self.replicas == 1:
            return "1 replica"
        how = "late by" if self.late else "tickets of"
        return f"{self.replicas} replicas, {how} {1000 * self.seconds:g} ms"

    def group(self, fleet: LoopFleet, setup: Setup) -> Group:
        return (Late if self.late else Owned)(fleet, setup, self.replicas, self.seconds)


def play(
    sharing: Sharing,
    setup: Setup,
    jobs: Sequence[Job],
    rate: float,
    stop: Callable[[Log, Job], bool] = lambda log, job: False,
) -> Log:
    """The trace at `rate` requests a second."""

    async def played() -> Log:
        fleet = LoopFleet(setup.engine(), setup.endpoints)
        return await fleet.play(sharing.group(fleet, setup), jobs, arrivals(jobs, rate), stop)

    return run(played(), lambda: VirtualLoop(now=0.0))


def replay(sharing: Sharing, setup: Setup, jobs: Sequence[Job], rate: float, load: float) -> Result:
    """`load`: what the rate is called in the table."""
    return summarize(sharing.name, load, jobs, play(sharing, setup, jobs, rate))


def keeps_up(sharing: Sharing, setup: Setup, jobs: Sequence[Job], rate: float) -> bool:
    """As `benchmarks.replay_parts.goodput.keeps_up`."""
    allowed = int(LATE_SHARE * len(jobs))
    lateness = Lateness(jobs, arrivals(jobs, rate))
    log = play(sharing, setup, jobs, rate, lambda log, job: lateness.judge(log, _moment(log, job)) > allowed)
    return lateness.judge(log, float("inf")) <= allowed


def goodput(sharing: Sharing, setup: Setup, jobs: Sequence[Job], saturation_rps: float) -> float:
    """In multiples of X."""
    return search(lambda load: keeps_up(sharing, setup, jobs, load * saturation_rps))


def _moment(log: Log, job: Job) -> float:
    """Of the first token by which the replay asks whether to go on."""
    first = log.first[job.number]
    assert first is not None
    return first
