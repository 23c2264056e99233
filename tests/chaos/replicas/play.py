"""One schedule of faults on replicas, under a steady load, and everything that is checked after it.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.chaos.problems import told
from tests.chaos.replicas import judge
from tests.chaos.replicas.evidence import Evidence, Struck
from tests.chaos.replicas.faults import DEADLY, ENDS, OF_OWNER, OF_REDIS, OUT_OF_REACH, Fault, Kind, Schedule
from tests.chaos.replicas.installation import CLIENTS, LEASE_SECONDS, MAIN, MAX_IN_FLIGHT, REPLICAS, Installation
from tests.chaos.replicas.load import Attempt, Balancer, Story, cached_and_prompt, clients
from tests.chaos.replicas.processes import Life, Spell
from tests.chaos.replicas.strike import mend, strike
from tests.chaos.stalls import Stalls

LEAD_SECONDS = 0.5
SHOWN = 12
LIMITED = frozenset(name for name, (_, limits) in CLIENTS.items() if limits)
BACK_SHARE = 0.95
"""Of the hit ratio in the calm phase."""
BACK_ANSWERS = 60
"""Over so many answers in a row it is measured."""
WAIT_SECONDS = 60.0
WAIT_BOUND_SECONDS = 4.0
"""Until an answer begins: an owner that says nothing is given up after 1 s, the next is waited for 0.5 s; the rest is
what an answer in one piece takes here."""
LOOK_BACK_SECONDS = 30.0
"""Who leads since before the schedule."""
NEW_OWNER_SECONDS = 6.0
"""For so long a fault that is meant for an owner waits for one that is not broken already."""


@dataclass
class Report:
    """What a schedule did. `problems` empty: all was as promised. `figures`: what was measured, seconds by name."""

    schedule: Schedule
    problems: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    figures: list[tuple[str, float]] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        figures = "".join(f"; {what} {value:.2f}" for what, value in self.figures)
        lines = [f"seed {self.schedule.seed}: {self.schedule}", f"  {self.seconds:.1f} s: {counts}{figures}"]
        return "\n".join([*lines, *told(self.problems, SHOWN)])


class Play:
    """Plays one schedule. `before`: the hit ratio in the calm phase, None where this is it."""

    def __init__(
        self, world: Installation, evidence: Evidence, schedule: Schedule, before: float | None, calm: float = 0.0
    ) -> None:
        self._world, self._evidence, self._schedule = world, evidence, schedule
        self._before, self._calm = before, calm
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._over = asyncio.Event()
        self._stories: list[Story] = []
        self._stalls = Stalls(world.pids)
        self._lived = list(world.lives.values())
        self._report = Report(schedule)
        self._struck: list[Struck] = []

    async def run(self) -> Report:
        world, report = self._world, self._report
        balancer = Balancer(lambda: world.lives.values())
        async with asyncio.TaskGroup() as group:
            helpers = [group.create_task(balancer.run()), group.create_task(self._stalls.run())]
            asking = [
                group.create_task(one.run(self._over))
                for one in clients(self._schedule.seed, balancer, self._stories)
            ]  # fmt: skip
            await asyncio.sleep(max(LEAD_SECONDS, self._calm))
            await self._break_and_mend()
            self._over.set()
            await asyncio.wait(asking)
            for task in helpers:
                task.cancel()
        await self._hold("nothing is left on any books", world.left)
        await self._evidence.collect(self._stories, self._struck)
        self._judge()
        report.seconds = self._loop.time() - self._began
        return report

    def hit_ratio(self, since: float, last: int | None = None) -> float | None:
        """Of acme's answers that ended later; of the last so many, None where there are fewer."""
        ended = [story.last.seen for story in self._stories if story.client == "acme"]
        found = [cached_and_prompt(seen) for seen in ended if seen.ended_at > since and seen.status == 200]
        told = [one for one in found if one is not None]
        if not told or (last is not None and len(told) < last):
            return None
        told = told[-last:] if last is not None else told
        return sum(cached for cached, _ in told) / sum(prompt for _, prompt in told)

    async def _break_and_mend(self) -> None:
        async with asyncio.TaskGroup() as group:
            for fault in self._schedule.faults:
                group.create_task(self._one(fault), name=str(fault))
        mended = self._loop.time()
        await self._hold("everything is well again", self._world.unwell)
        if self._schedule.faults:
            self._report.figures.append(("well again after", self._loop.time() - mended))
        if self._before is None:
            return
        ratio: float | None = None

        async def not_back() -> list[str]:
            nonlocal ratio
            ratio = self.hit_ratio(mended, BACK_ANSWERS)
            back = ratio is not None and self._before is not None and ratio >= BACK_SHARE * self._before
            return [] if back else [f"it is {ratio}, and was {self._before}"]

        await self._hold(f"the hit ratio is back at {BACK_SHARE:.0%} of before", not_back)
        self._report.figures.append(("hit ratio back after", self._loop.time() - mended))
        if (whole := self.hit_ratio(self._began + LEAD_SECONDS)) is not None:
            self._report.figures.append(("share of the hit ratio all along", whole / self._before))

    async def _hold(self, what: str, wrong: Callable[[], Awaitable[list[str]]]) -> None:
        """Waits until nothing is wrong; what still is at the end is a problem."""
        end, found = self._loop.time() + WAIT_SECONDS, [""]
        while found and self._loop.time() < end:
            found = await wrong()
            if found:
                await asyncio.sleep(0.1)
        if found:
            self._report.problems.append(f"not within {WAIT_SECONDS:.0f} s: {what}: {'; '.join(found[:6])}")

    async def _one(self, fault: Fault) -> None:
        await asyncio.sleep(max(0.0, self._began + LEAD_SECONDS + self._calm + fault.at - self._loop.time()))
        life = None if fault.kind in OF_REDIS else await self._target(fault)
        owner = self._world.owner(MAIN)
        spell = Spell(fault.kind, self._loop.time())
        struck = Struck(fault, life, spell, owner=owner.me if owner is not None and life is owner else None)
        self._struck.append(struck)
        if life is not None:
            life.spells.append(spell)
        struck.pairs = await strike(self._world, fault.kind, life, owner)
        await asyncio.sleep(max(0.0, spell.began + fault.seconds - self._loop.time()))
        await mend(self._world, fault.kind, life, struck.pairs)
        spell.ended = self._loop.time()
        if life is not None and fault.kind in ENDS - DEADLY:
            self._report.figures.append(("ended after SIGTERM", life.ended_at - spell.began))

    async def _target(self, fault: Fault) -> Life:
        """Whom it is meant for: nobody who is broken already, as long as there is somebody else."""
        end = self._loop.time() + NEW_OWNER_SECONDS
        while (owner := self._world.owner(MAIN)) is None and self._loop.time() < end:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        free = [life for life in self._world.lives.values() if life.alive and not life.struck]
        if fault.kind in OF_OWNER:
            return owner or free[0]
        others = [life for life in free if life is not owner]
        return others[fault.pick % len(others)] if others else free[0]

    # -- what is judged

    def _judge(self) -> None:
        evidence, report = self._evidence, self._report
        self._measure_waits()
        for story in self._stories:
            ending = story.last.verdict.ending
            report.counts["refused by a limit" if story.last.seen.status == 429 else ending] += 1
            report.counts["tried again"] += len(story.attempts) - 1
        for attempt, why in judge.lost(self._stories, LIMITED):
            seen, spells = attempt.seen, ", ".join(f"{s.kind} {self._at(s.began)}" for s in attempt.life.spells)
            report.problems.append(
                f"{seen.ask.id} sent {self._at(seen.sent_at)} to {attempt.life.name}, ended {self._at(seen.ended_at)} "
                f"at {seen.endpoint} after {len(seen.body)} bytes: {why}; its replica met: {spells or 'nothing'}"
            )
        gone = evidence.gone
        trail = [one for one in evidence.trail if one.at > self._began - LOOK_BACK_SECONDS]
        report.problems += judge.terms_twice(evidence.trail) + judge.going_back(evidence.trail)
        if (both := judge.both_acted(trail, MAIN, self._began)) > 0.0:
            report.figures.append(("two acted at once", both))
        for one, age in judge.stale(trail, gone, evidence.slots, self._stood):
            report.problems.append(
                f"{one.pool}: {one.me} carried out at {self._at(one.at)} what {one.by} decided with term {one.term}, "
                f"{age:.2f} s after a higher one was led"
            )
        self._judge_owners()
        report.problems += evidence.limits_exceeded(self._began)
        report.problems += evidence.problems
        evidence.problems.clear()
        lived = {life.me for life in self._lived}
        if all(life.alive for life in self._lived):
            whiles = [(max(began, self._began), ended) for began, ended in judge.steady(evidence.trail, MAIN, lived)]
            whiles = [(began, ended) for began, ended in whiles if ended > began]
            served = [one for one in evidence.served if one.began > self._began]
            report.problems += judge.seats_given_twice(served, MAX_IN_FLIGHT, whiles, gone)

    def _measure_waits(self) -> None:
        """Of requests that were not tried again, at replicas that clients could reach: until the answer begins."""
        waits = sorted(
            story.last.seen.pieces[0][0] - story.last.seen.sent_at
            for story in self._stories
            if story.client in ("acme", "initech")
            and len(story.attempts) == 1
            and story.last.seen.pieces
            and not _out_of_reach(story.last)
        )
        if waits and waits[-1] > WAIT_BOUND_SECONDS + self._stood(self._began, self._loop.time()):
            self._report.problems.append(
                f"a request waited {waits[-1]:.2f} s for its first byte, at a replica in reach"
            )
        if waits:
            self._report.figures += [("first byte p99", waits[int(0.99 * len(waits))]), ("first byte most", waits[-1])]

    def _judge_owners(self) -> None:
        """How soon another led, where the owner was the one that was struck."""
        for struck in self._struck:
            fault, spell, old = struck.fault, struck.spell, struck.owner
            if old is None:
                continue
            took = judge.led_again(self._evidence.trail, MAIN, old, spell.began)
            bound = LEASE_SECONDS + judge.TAKEN_OVER_SECONDS
            until = spell.began + (bound if took is None else min(took, bound))
            bound += self._stood(spell.began, until)
            meanwhile = [other.spell for other in self._struck if other is not struck]
            alone = not any(other.overlaps(spell.began - 1.0, spell.began + bound) for other in meanwhile)
            must = alone and (fault.seconds > bound or fault.kind in (Kind.KILL_OWNER, Kind.TERM_OWNER))
            if took is not None and (must or took < fault.seconds):
                self._report.figures.append((f"led again after {fault.kind}", took))
            if must and (took is None or took > bound):
                said = f"only after {took:.2f} s" if took is not None else "by nobody"
                self._report.problems.append(f"{MAIN} was led {said} after {fault.kind}; bound {bound:.2f} s")

    def _stood(self, began: float, ended: float) -> float:
        """Of the one that stood still for the longest."""
        ours = self._stalls.seconds(began, ended, ())  # the harness writes none of the trails
        return max(self._stalls.seconds(began, ended, (name,)) - ours for name in (*REPLICAS, judge.REDIS))

    def _at(self, time: float) -> str:
        return f"+{time - self._began:.2f}"


def _out_of_reach(attempt: Attempt) -> bool:
    seen = attempt.seen
    met = [spell for spell in attempt.life.spells if spell.overlaps(seen.sent_at, seen.ended_at)]
    return any(spell.kind in OUT_OF_REACH for spell in met)
