"""When a request must succeed whatever breaks: the promise that is checked, in one place.

Floor: tests only, pure.

A fault's **spell** lasts from the moment it is ordered until it is undone and the gateway takes the endpoint for well
again. A request is **savable** when at least one endpoint of its tenant's pool had no spell at any time between the
request being sent and its end. A savable request must succeed:

    - always while its client has seen no text: it is tried again elsewhere;
    - also after that where its tier resumes streams: the stream goes on elsewhere.

A stream of another tier that had shown text may end with an error event. A request that is not savable may end with an
honest error. Nothing may lie (`judge.py`), and who has no spell in its own pool notices nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.ask import Seen
from tests.chaos.faults import HANGS, Kind
from tests.chaos.judge import Ending, Verdict


@dataclass(frozen=True)
class Features:
    """What this gateway can do; the lead switches on what has been merged.

    `hung`: engines that make no progress are found out, and what they had is tried elsewhere. `held_back`: a stream's
    chunks before its first text are held back, so that it can be tried elsewhere until then. `resumes`: tiers whose
    streams go on elsewhere. `aborts`: an answer that the engine ends with `abort` is a failure, and tried elsewhere.
    `honest_done`: no `[DONE]` after an error event. `standby_events`: recovery times stand in /admin/state.
    """

    hung: bool = False
    held_back: bool = False
    resumes: frozenset[str] = frozenset()
    aborts: bool = False
    honest_done: bool = False
    standby_events: bool = False


EXPECT = Features(
    hung=True, held_back=True, resumes=frozenset({"platinum"}), aborts=True, honest_done=True, standby_events=True
)


@dataclass
class Spell:
    """One fault on one host as it was. Loop seconds; `ended` is infinite while it lasts. `kind` None: from before.
    `mended`: when the engine itself was well again, whether the gateway had seen it or not."""

    host: str
    pool: str
    kind: Kind | None
    began: float
    ended: float = float("inf")
    mended: float = float("inf")

    def overlaps(self, seen: Seen) -> bool:
        return self.began <= seen.ended_at and seen.sent_at <= self.ended


def savable(seen: Seen, hosts: Iterable[str], spells: Iterable[Spell]) -> bool:
    """Whether one of its pool's hosts was well from the request's beginning to its end."""
    ill = {spell.host for spell in spells if spell.overlaps(seen)}
    return any(host not in ill for host in hosts)


def nobody_there(hosts: Iterable[str], spells: Iterable[Spell], now: float) -> float:
    """Seconds until now in which every one of these hosts was ill: no gateway recovers then."""
    spells, hosts = list(spells), list(hosts)
    times = sorted({min(at, now) for spell in spells for at in (spell.began, spell.mended)})
    gone = 0.0
    for begins, ends in pairwise(times):
        ill = {spell.host for spell in spells if spell.began <= begins and spell.mended >= ends}
        gone += (ends - begins) * all(host in ill for host in hosts)
    return gone


def must_succeed(
    seen: Seen, verdict: Verdict, tier: str, hosts: Iterable[str], spells: Iterable[Spell], features: Features
) -> bool:
    """`hosts`: of its pool; `spells`: of its pool."""
    met = [spell for spell in spells if spell.overlaps(seen)]
    if not savable(seen, hosts, met):
        return False
    resumes = tier in features.resumes
    shown = verdict.content > 0 or (verdict.began and not features.held_back)
    if shown and not resumes:
        return not met  # in a pool where nothing is broken, no stream fails
    kinds = {spell.kind for spell in met}
    if kinds & HANGS and not features.hung:
        return False
    return not (kinds & {Kind.ABORT, Kind.TERM} and not features.aborts)


def is_known_lie(verdict: Verdict, spells: Iterable[Spell], seen: Seen, features: Features) -> bool:
    """A lie that this gateway is known to pass on from an engine, as long as a feature is not there."""
    kinds = {spell.kind for spell in spells if spell.overlaps(seen)}
    if verdict.ending is not Ending.LIE:
        return False
    if not features.aborts and kinds & {Kind.ABORT, Kind.TERM} and "'abort'" in verdict.why:
        return True
    dead = kinds & {Kind.LATE_ERROR, Kind.TERM, Kind.KILL}
    return not features.honest_done and bool(dead) and ("[DONE]" in verdict.why or "after the end" in verdict.why)
