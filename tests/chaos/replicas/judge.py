"""What must hold of several replicas, whatever breaks: nothing lost, no two owners, no seat and no limit given twice.

Floor: tests only, pure. Times are the machine's monotonic seconds, which all its processes share.

    - A request ends in its right answer; what a replica's end broke, in the right answer of another one.
    - A term belongs to one replica. Nobody carries out a decision of a lower term after one of a higher.
    - A decision is not carried out while a higher term has been led for `TOLD_SECONDS`, unless nobody could tell.
    - An owner's pools are led again within a lease and `TAKEN_OVER_SECONDS`, where Redis is there.
    - In no minute, and at no moment, does more pass than a limit allows: 1 % above at most for what a minute holds.
    - Where one leads and all others follow, no engine has more requests than seats.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.judge import Ending
from tests.chaos.replicas.load import Attempt, Story, excused
from tests.chaos.replicas.trail import Carried, Part

TOLD_SECONDS = 1.5
"""A look at Redis (0.25 s, and 0.5 s where it does not answer), and what follows."""
RELINKED_SECONDS = 2.5
"""The same by a link between two that had none: an attempt takes a second where nothing arrives, and the next is made a
second later at most."""
TAKEN_OVER_SECONDS = 2.0
SPARE_SHARE = 0.01
MINUTE = 60.0
ENDING_SECONDS = 0.05
"""Two requests of which one begins within that of the other's end are not there at once: the engine ends its own books
after the last byte has left."""
KNOWN_SECONDS, HEALED_SECONDS = 0.3, 2.0
"""An owner that all others follow has heard of all that is under way; and also from who was out of reach, and has to
connect anew."""
REDIS = "redis"
Stood = Callable[[float, float], float]
"""For how long (seconds) the machine let the processes stand still between two times."""


@dataclass(frozen=True)
class Gone:
    """From `began` to `ended` a node was not there (one name), or nothing passed between two."""

    nodes: frozenset[str]
    began: float
    ended: float


@dataclass(frozen=True)
class Served:
    """One request as an engine had it. `sent`: when its client sent it; `replica`: the life that it came by."""

    id: str
    client: str
    engine: str
    sent: float
    began: float
    ended: float
    replica: str


def lost(stories: Iterable[Story], limited: Collection[str]) -> list[tuple[Attempt, str]]:
    """Attempts that should not have ended as they did, and why. `limited`: clients that may be refused by a limit."""
    found = []
    for story in stories:
        for attempt in story.attempts:
            seen, verdict = attempt.seen, attempt.verdict
            refused = seen.status == 429 and verdict.ending is Ending.ERROR and story.client in limited
            if verdict.ending is Ending.COMPLETE or refused or attempt.gave_up:
                continue
            if verdict.ending is Ending.LIE and not seen.broken:
                found.append((attempt, f"lie: {verdict.why}"))
            elif not excused(attempt):
                found.append((attempt, f"lost: {verdict.why}"))
    return found


# -- owners


def terms_twice(trail: Iterable[Part | Carried]) -> list[str]:
    """Terms of a pool that two replicas decided with, and the first sign of each."""
    deciders: dict[tuple[str, int], dict[str, Part | Carried]] = defaultdict(dict)
    for one in trail:
        if isinstance(one, Part) and one.mode == "leads":
            deciders[one.pool, one.term].setdefault(one.me, one)
        elif isinstance(one, Carried) and not one.alone:
            deciders[one.pool, one.term].setdefault(one.by, one)
    return [
        f"{pool}: term {term} is {' and '.join(sorted(names))}'s: {'; '.join(map(str, names.values()))}"
        for (pool, term), names in deciders.items()
        if len(names) > 1
    ]


def going_back(trail: Iterable[Part | Carried]) -> list[str]:
    """Replicas that carried out a decision of a lower term after one of a higher."""
    highest: dict[tuple[str, str], int] = {}
    found = []
    for one in sorted(_decisions(trail), key=lambda one: one.at):
        before = highest.get((one.me, one.pool), 0)
        if one.term < before:
            found.append(f"{one.pool}: {one.me} carried out term {one.term} of {one.by} after {before}")
        highest[one.me, one.pool] = max(before, one.term)
    return found


def stale(
    trail: Sequence[Part | Carried], gone: Iterable[Gone], slots: Mapping[str, str], stood: Stood
) -> list[tuple[Carried, float]]:
    """Decisions that were carried out though a higher term had been led for so many seconds, and somebody could have
    told who carried them out, or who made them. `slots`: a process's name for itself -> its node."""
    leading: dict[str, list[Part]] = defaultdict(list)
    for one in trail:
        if isinstance(one, Part) and one.mode == "leads":
            leading[one.pool].append(one)
    gone, found = list(gone), []
    for one in _decisions(trail):
        for new in leading[one.pool]:
            age = one.at - new.at
            if new.term <= one.term or age <= TOLD_SECONDS:
                continue
            told = TOLD_SECONDS * (
                1 + min(1.0, stood(new.at, one.at) / age)
            )  # half the time on, everything takes twice
            if age <= told:
                continue
            there, linked = slots[new.me], told * RELINKED_SECONDS / TOLD_SECONDS
            out = {
                away.nodes
                for away in gone
                if away.began <= one.at and one.at - (told if REDIS in away.nodes else linked) <= away.ended
            }
            if any(_reached(slots[who], there, {REDIS, *slots.values()}, out) for who in {one.me, one.by}):
                found.append((one, age))
                break
    return found


def both_acted(trail: Sequence[Part | Carried], pool: str, since: float) -> float:
    """For how many seconds at most decisions of an owner were still carried out, from `since` on, after another led:
    allowed only where nobody could tell."""
    new = [one for one in trail if isinstance(one, Part) and (one.pool, one.mode) == (pool, "leads")]
    ages = [
        one.at - later.at
        for one in _decisions(trail)
        for later in new
        if one.pool == pool and one.term < later.term and one.at > max(later.at, since)
    ]
    return max(ages, default=0.0)


def led_again(trail: Iterable[Part | Carried], pool: str, old: str, since: float) -> float | None:
    """Seconds after `since` at which another than `old` leads the pool; None: nobody yet."""
    times = [
        one.at - since
        for one in trail
        if isinstance(one, Part) and (one.pool, one.mode) == (pool, "leads") and one.me != old and one.at > since
    ]
    return min(times, default=None)


def _decisions(trail: Iterable[Part | Carried]) -> list[Carried]:
    return [one for one in trail if isinstance(one, Carried) and not one.alone]


def _reached(one: str, other: str, nodes: Collection[str], out: Collection[frozenset[str]]) -> bool:
    """Whether there is a way between two nodes, straight or by a third, without what is `out`."""

    def way(a: str, b: str) -> bool:
        return not {frozenset((a,)), frozenset((b,)), frozenset((a, b))} & set(out)

    return one == other or way(one, other) or any(way(one, by) and way(by, other) for by in {*nodes} - {one, other})


# -- limits


def over_a_minute(
    served: Iterable[Served], limit: int, each: int, forgotten: Callable[[Served, float, float], bool]
) -> tuple[int, float] | None:
    """The most that was admitted in a minute, and when, where it is above the limit; `each`: what a request counts.

    A request was admitted between being sent and reaching an engine: it is counted only in minutes that hold both.
    `forgotten`: whether nobody could know of it any more in the minute from the one time to the other (as the documents
    say: a Redis that lost its memory, and a replica that could not tell it).
    """
    ordered = sorted(served, key=lambda one: one.sent)
    worst: tuple[int, float] | None = None
    for number, first in enumerate(ordered):
        end = first.sent + MINUTE
        within = [one for one in ordered[number : _after(ordered, end)] if one.began <= end]
        counted = each * sum(not forgotten(one, first.sent, end) for one in within)
        if counted > limit * (1 + SPARE_SHARE) and (worst is None or counted > worst[0]):
            worst = counted, first.sent
    return worst


def _after(ordered: Sequence[Served], end: float) -> int:
    return bisect_right(ordered, end, key=lambda one: one.sent)


def most_at_once(served: Iterable[Served], counts: Callable[[float], bool] = lambda _: True) -> tuple[int, float]:
    """The most requests that engines had at one moment, and when; `counts`: only such moments."""
    changes = sorted(
        change
        for one in served
        if one.ended - ENDING_SECONDS > one.began
        for change in ((one.began, 1), (one.ended - ENDING_SECONDS, -1))
    )
    running, worst = 0, (0, 0.0)
    for at, change in changes:
        running += change
        if running > worst[0] and counts(at):
            worst = running, at
    return worst


# -- seats


def steady(trail: Iterable[Part | Carried], pool: str, names: Collection[str]) -> list[tuple[float, float]]:
    """Whiles in which one of these processes led and all others followed."""
    now: dict[str, str] = {}
    times: list[tuple[float, bool]] = []
    for one in sorted((one for one in trail if isinstance(one, Part) and one.pool == pool), key=lambda one: one.at):
        now[one.me] = one.mode
        modes = sorted(now.get(name, "") for name in names)
        times.append((one.at, modes == ["follows"] * (len(names) - 1) + ["leads"]))
    times.append((float("inf"), False))
    found: list[tuple[float, float]] = []
    for (began, well), (ended, _) in pairwise(times):
        if well and found and found[-1][1] == began:
            found[-1] = found[-1][0], ended
        elif well:
            found.append((began, ended))
    return found


def seats_given_twice(
    served: Sequence[Served], seats: int, whiles: Iterable[tuple[float, float]], gone: Iterable[Gone]
) -> list[str]:
    """Engines that got a request for which they had no seat, while one led and knew of everything."""
    blind = [(away.began, away.ended + HEALED_SECONDS) for away in gone if away.nodes != frozenset((REDIS,))]
    known = [(began + KNOWN_SECONDS, ended) for began, ended in whiles]

    def counts(at: float) -> bool:
        return any(began <= at <= ended for began, ended in known) and not any(a <= at <= b for a, b in blind)

    found = []
    for engine in sorted({one.engine for one in served}):
        most, at = most_at_once([one for one in served if one.engine == engine], counts)
        if most > seats:
            found.append(f"{engine} had {most} requests at {at:.2f}, and has {seats} seats")
    return found
