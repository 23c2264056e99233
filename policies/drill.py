"""A drill: which endpoints are to fail on purpose, and what the probes that were sent meanwhile say of the recovery.

Floor: `policies`, pure. Times are monotonic seconds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from policies.types import Role


class DrillFault(StrEnum):
    """How endpoints fail. `kill`: connections are refused and what is under way breaks; `hang`: requests are accepted
    and nothing comes, `/health` stays good; `refuse`: connections are refused; `slow`: answers are delayed."""

    KILL = "kill"
    HANG = "hang"
    REFUSE = "refuse"
    SLOW = "slow"


@dataclass(frozen=True, slots=True)
class Member:
    """An endpoint of the pool as a drill sees it. `usable`: it serves, or can be made to (a standby)."""

    name: str
    role: Role
    usable: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """`struck` fail, `left` are there to take over."""

    struck: tuple[str, ...]
    left: tuple[str, ...]


def plan(members: Sequence[Member], endpoint: str | None) -> Plan:
    """All hot endpoints fail, or the named one. Raises ValueError, for the operator, when there is none to fail."""
    struck = tuple(
        member.name for member in members if (member.role is Role.HOT if endpoint is None else member.name == endpoint)
    )
    if not struck:
        known = ", ".join(member.name for member in members)
        raise ValueError(
            f"there is no endpoint '{endpoint}' in the pool. Known: {known}" if endpoint else "none is hot"
        )
    return Plan(struck, tuple(member.name for member in members if member.usable and member.name not in struck))


@dataclass(frozen=True, slots=True)
class Probe:
    """One request of the drill's own. `why`: empty for a good answer, else what came instead of it."""

    sent_at: float
    ended_at: float
    endpoint: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`recovery_seconds`: from the first probe until probes were answered for good; None where they were not.

    `sent` and `lost` count probes, `reasons` why they were lost, `answered_by` the good answers of each endpoint.
    """

    recovery_seconds: float | None
    sent: int
    lost: int
    reasons: dict[str, int]
    answered_by: dict[str, int]
    met: bool


def judge(probes: Iterable[Probe], target_seconds: float) -> Verdict:
    """`probes`: sent while the fault lasted. A good answer among lost ones is luck: recovered is who loses no more."""
    ordered = sorted(probes, key=lambda probe: probe.sent_at)
    lost = [probe for probe in ordered if probe.why]
    last = lost[-1].sent_at if lost else float("-inf")
    answered = [probe.ended_at for probe in ordered if not probe.why and probe.sent_at > last]
    recovery = max(0.0, min(answered) - ordered[0].sent_at) if answered else None
    return Verdict(
        recovery,
        len(ordered),
        len(lost),
        dict(Counter(probe.why for probe in lost)),
        dict(Counter(probe.endpoint for probe in ordered if not probe.why)),
        recovery is not None and recovery <= target_seconds,
    )
