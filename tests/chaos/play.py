"""One schedule, played under a steady load, and everything that is checked after it.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.ask import Seen, draw_ask
from tests.chaos.bystanders import Waits
from tests.chaos.controls import Controls
from tests.chaos.faults import COMPUTES_NOTHING, Fault, Kind, Schedule
from tests.chaos.judge import Ending, Verdict, judge
from tests.chaos.problems import told
from tests.chaos.rules import EXPECT, Features, Spell, is_known_lie, must_succeed, nobody_there
from tests.chaos.world import ENGINE_MODEL, GATEWAY, MODEL, SPARE_FILES, World, until

CLIENTS = 4
"""Of every tenant, each with one request at a time: a steady load that leaves two slow cores room to breathe."""
PAUSE_SECONDS = 0.2
"""What a client waits after an error: 503 is answered in a millisecond, and would be all that a schedule sees."""
LEAD_SECONDS = 0.3
"""Served without a fault before the first one and after the last."""
LOOK_SECONDS = 0.2
"""Between two looks at the gateway's state, and what one takes."""
SHOWN = 12
"""Problems of one schedule that are printed: one fault fails many requests alike."""


@dataclass
class Report:
    """What a schedule did. `problems` empty: all was as promised. `waits`: of the tenants that no fault touched.
    `found`: how soon hung engines were."""

    schedule: Schedule
    problems: list[str] = field(default_factory=list)
    waits: dict[str, Waits] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    recoveries: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        recovered = "".join(f"; {what}" for what in [*self.recoveries, *self.found])
        lines = [f"seed {self.schedule.seed}: {self.schedule}", f"  {self.seconds:.1f} s: {counts}{recovered}"]
        return "\n".join([*lines, *told(self.problems, SHOWN)])


class Play:
    """Plays one schedule on a world."""

    def __init__(self, world: World, schedule: Schedule, features: Features = EXPECT) -> None:
        self._world = world
        self._schedule = schedule
        self._features = features
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._over = asyncio.Event()
        self._seen: list[Seen] = []
        self._under_way: dict[int, tuple[str, float]] = {}  # by client: its tenant, and when it sent
        self._spells: list[Spell] = []
        self._report = Report(schedule)
        self._controls = Controls(world, schedule)

    async def run(self) -> Report:
        report = self._report
        await self._note_unwell()
        last = max([event["at"] for event in await self._recoveries()], default=0.0)
        async with asyncio.TaskGroup() as group:
            for number in range(CLIENTS * len(self._world.tiers)):
                tenant = list(self._world.tiers)[number % len(self._world.tiers)]
                group.create_task(self._client(tenant, number), name=f"client {number} of {tenant}")
            await self._controls.begin(group)
            await self._break_and_mend()
            self._controls.end()
            self._over.set()
        self._judge()
        report.waits = self._controls.waits(self._seen)
        report.problems += await self._controls.disturbed()
        await self._check_what_is_left()
        self._check_recoveries([event for event in await self._recoveries() if event["at"] > last])
        report.seconds = self._loop.time() - self._began
        return report

    async def _client(self, tenant: str, number: int) -> None:
        draw = random.Random(f"{self._schedule.seed} {tenant} {number}")
        while not self._over.is_set():
            self._under_way[number] = tenant, self._loop.time()
            seen = await self._world.client.send(draw_ask(draw, tenant, MODEL, ENGINE_MODEL))
            del self._under_way[number]
            self._seen.append(seen)
            await asyncio.sleep(draw.uniform(0.0, 0.05) if seen.status == 200 else PAUSE_SECONDS)

    async def _note_unwell(self) -> None:
        """A standby that failed in a schedule before may be on trial for as long as nobody needs it."""
        unwell = [host for host in self._world.hosts.values() if not await self._world.is_well(host.name)]
        self._spells += [Spell(host.name, host.spec.pool, None, self._began) for host in unwell]

    async def _break_and_mend(self) -> None:
        """All faults, each in its time, until the gateway takes everything for well again."""
        await asyncio.sleep(max(LEAD_SECONDS, self._schedule.lasts))
        try:
            async with asyncio.TaskGroup() as group:
                for fault in self._schedule.faults:
                    group.create_task(self._one(fault), name=str(fault))
        except* AssertionError as errors:
            self._report.problems += [str(error) for error in errors.exceptions]
        await asyncio.sleep(LEAD_SECONDS)

    async def _one(self, fault: Fault) -> None:
        host = self._world.hosts[fault.host]
        await asyncio.sleep(max(0.0, self._began + LEAD_SECONDS + fault.at - self._loop.time()))
        spell = Spell(fault.host, fault.pool, fault.kind, self._loop.time())
        self._spells.append(spell)
        bound = 2 * (await self._world.endpoints())[fault.host]["learned"]["first_token_p99"] + 1
        await host.strike(fault)
        if fault.kind is Kind.RESTART:
            spell.mended = self._loop.time()
        if fault.kind in COMPUTES_NOTHING and host.spec.role == "hot":
            await self._until_found(fault, bound)
        await asyncio.sleep(max(0.0, spell.began + fault.seconds - self._loop.time()))
        await host.mend(fault)
        mended = self._loop.time()
        spell.mended = min(spell.mended, mended)

        async def over() -> bool:
            """What was sent before may still fail, and speak against the endpoint."""
            if any(tenant == fault.pool and sent <= mended for tenant, sent in self._under_way.values()):
                return False
            return await self._world.is_well(fault.host)

        async def usable() -> bool:
            return bool((await self._world.endpoints())[fault.host]["healthy"])

        what = f"the gateway finds {fault.host} well again after {fault.kind}"
        if host.spec.role == "hot":
            await until(what, over)
        else:  # a standby that nobody needs proves itself to nobody
            await until(what, usable)
        if await over():
            spell.ended = self._loop.time()

    async def _until_found(self, fault: Fault, bound: float) -> None:
        """For as long as it lasts. Where others of the pool are ill too, it may have to stay in. `bound`: seconds
        within which it is to be found once it has something to do, what the machine held up taken off."""
        began = self._loop.time()
        since: float | None = None
        while (now := self._loop.time()) < began + fault.seconds:
            if any(
                spell.pool == fault.pool and spell.ended > began for spell in self._spells if spell.host != fault.host
            ):
                return
            found = (await self._world.endpoints())[fault.host]
            if since is None and found["in_flight"]:
                since = now
            if found["status"] not in ("healthy", "starting", "suspected"):
                self._note_found(fault, found["status"], since if since is not None else now, bound)
                return
            await asyncio.sleep(0.05)

    def _note_found(self, fault: Fault, status: str, since: float, bound: float) -> None:
        now = self._loop.time()
        stood = self._controls.stalls.seconds(since, now, (GATEWAY,))
        figures = f"{now - since:.2f} s, {stood:.2f} s of it the machine's; bound {bound:.2f} s"
        self._report.found.append(f"{fault.host} {status} after {figures}")
        if now - since - stood > bound + LOOK_SECONDS:
            self._report.problems.append(f"{fault.host}, which computes nothing, was found after {figures}")

    # What the clients saw

    def _judge(self) -> None:
        for seen in self._seen:
            verdict = judge(seen)
            tenant = seen.ask.tenant
            spells = [spell for spell in self._spells if spell.pool == tenant]
            if is_known_lie(verdict, spells, seen, self._features):
                self._report.counts["known lies"] += 1
                continue
            self._report.counts[f"{verdict.ending}s" if verdict.ending is Ending.ERROR else verdict.ending] += 1
            hosts, tier = self._world.of_pool(tenant), self._world.tiers[tenant]
            if verdict.ending is Ending.LIE:
                self._blame(seen, verdict, spells, "")
            elif verdict.ending is Ending.ERROR and must_succeed(seen, verdict, tier, hosts, spells, self._features):
                self._blame(seen, verdict, spells, "though it could be saved: ")
            if seen.endpoint != "-" and seen.endpoint not in hosts:
                self._blame(seen, verdict, spells, f"answered by {seen.endpoint}, which is not {tenant}'s: ")

    def _blame(self, seen: Seen, verdict: Verdict, spells: list[Spell], why: str) -> None:
        ask = seen.ask
        shape = f"{ask.api}{' stream' if ask.stream else ''}{' usage' if ask.usage else ''} max_tokens={ask.max_tokens}"
        met = [
            f"{spell.kind or 'unwell before'} {spell.host} {self._at(spell.began)}..{self._at(spell.ended)}"
            for spell in spells
            if spell.overlaps(seen)
        ]
        self._report.problems.append(
            f"{ask.tenant} {shape}, sent {self._at(seen.sent_at)}, ended {self._at(seen.ended_at)} at {seen.endpoint} "
            f"after {len(seen.body)} bytes and {verdict.content} events with text: "
            f"{why}{verdict.ending}: {verdict.why}; faults met: {', '.join(met) or 'none'}"
        )

    def _at(self, time: float) -> str:
        return f"+{time - self._began:.2f}"

    # What is left

    async def _check_what_is_left(self) -> None:
        problems = self._report.problems
        try:
            await self._world.until_settled()
        except AssertionError as error:
            problems.append(str(error))
        problems += await self._world.strangers()
        files, most = await self._world.files(), self._world.files_at_rest + SPARE_FILES
        if files > most:
            problems.append(f"the gateway has {files} files open beside its connections to engines; {most} are allowed")
        if self._world.gateway.process.poll() is not None:
            problems.append(f"the gateway has ended:\n{self._world.gateway.log_tail()}")

    async def _recoveries(self) -> list[dict[str, Any]]:
        """The failovers that the gateway has counted so far, oldest first, each with its pool."""
        pools = (await self._world.state())["pools"]
        return [
            {"pool": name} | event
            for name, pool in pools.items()
            for event in (pool.get("standby") or {}).get("events", [])
        ]

    def _check_recoveries(self, events: list[dict[str, Any]]) -> None:
        if not self._features.standby_events:
            return
        for event in events:
            pool, took, target = event["pool"], event.get("rto_seconds"), event.get("target_seconds")
            spells = [spell for spell in self._spells if spell.pool == pool]
            gone = nobody_there(self._world.of_pool(pool), spells, self._loop.time())
            if event.get("missed") and not gone:
                self._report.problems.append(f"{pool} was not answered again in time: {event['missed']}")
            if took is None or target is None:
                continue  # nobody was in trouble
            self._report.recoveries.append(f"{pool} recovered in {took:.2f} s")
            if took > target + gone:
                without = f", {gone:.2f} s of it without any engine" if gone else ""
                self._report.problems.append(f"{pool} took {took:.2f} s to recover{without}; promised: {target:g} s")
