"""One run: clients that ask without a pause, faults on the way, and then everything that the books say.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import httpx2

from router.wire.record import Kind as Recorded
from router.wire.record import Record
from tests.chaos.ask import CLIENT_SECONDS
from tests.chaos.ledger import judge
from tests.chaos.ledger.asks import Asked, draw_order
from tests.chaos.ledger.books import Books
from tests.chaos.ledger.faults import OUTAGE_SECONDS, OUTAGE_SHARE, Fault, Kind, draw_faults
from tests.chaos.ledger.installation import ENGINES, HOURLY_COST, POOLS, PRICES, WORKERS, Installation, Life, key
from tests.chaos.problems import told

CLIENTS = 24
WAIT_SECONDS = 60.0
NOBODY_SECONDS = 0.05
"""Between two tries of a client whose gateway is gone."""
LISTEN_SECONDS = 1.0
"""Between two looks at what engines have told: they remember a thousand requests."""
SHOWN = 20


@dataclass
class Report:
    """`problems` empty: the books are true."""

    database: str
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.counts.items()))
        lines = [f"{self.database}: {self.seconds:.0f} s: {counts}"]
        return "\n".join([*lines, *told(self.problems, SHOWN)])


class Play:
    """So many `requests`, `kills` of gateways and `outages` of the database, and the other faults of `seed`."""

    def __init__(self, world: Installation, database: str, seed: int, requests: int, kills: int, outages: int) -> None:
        self._world, self._seed, self._requests = world, seed, requests
        self._books = Books(world)
        self._asked: list[Asked] = []
        self._begun = 0
        self._faults = draw_faults(seed, database, len(WORKERS), len(ENGINES), kills, outages)
        self._moved = asyncio.Event()
        self._down = asyncio.Lock()  # one outage at a time
        self._coming_back = {name: asyncio.Lock() for name in WORKERS}
        self._loop = asyncio.get_running_loop()
        self._report = Report(database)

    async def run(self) -> Report:
        began = self._loop.time()
        await self._until("every endpoint is healthy", self._healthy)
        async with asyncio.TaskGroup() as group:
            listening = group.create_task(self._listen(), name="listen")
            breaking = [group.create_task(self._one(fault), name=str(fault)) for fault in self._faults]
            asking = [group.create_task(self._client(number), name=f"client {number}") for number in range(CLIENTS)]
            await asyncio.wait([*asking, *breaking])
            listening.cancel()
        await self._until("engines have ended all work", self._world.idle)
        await self._world.listen()
        await self._judge()
        self._report.seconds = self._loop.time() - began
        return self._report

    # -- clients

    async def _client(self, number: int) -> None:
        chance = random.Random(f"client {self._seed} {number}")
        while self._begun < self._requests:
            lives = [life for life in self._world.lives.values() if life.alive]
            if not lives:
                await asyncio.sleep(NOBODY_SECONDS)
                continue
            self._begun += 1
            self._moved.set()
            order = draw_order(chance, f"{self._seed}-{number}-{self._begun}")
            life = chance.choice(lives)
            seconds = order.seconds if order.seconds is not None else CLIENT_SECONDS
            seen = await life.client.send(order, seconds, order.most)
            self._asked.append(Asked(order, life.number, seen))
            if not seen.status and not life.alive:
                await asyncio.sleep(NOBODY_SECONDS)

    async def _listen(self) -> None:
        while True:
            await self._world.listen()
            await asyncio.sleep(LISTEN_SECONDS)

    # -- faults

    async def _one(self, fault: Fault) -> None:
        await self._share(fault.at)
        if fault.kind is Kind.BREAK_ENGINE:
            engine = list(self._world.engines.values())[fault.pick]
            order: dict[str, Any] = dict(fault.order)
            await asyncio.to_thread(lambda: engine.fault(**order))
            self._report.counts["engine faults"] += 1
        elif fault.kind is Kind.KILL_GATEWAY:
            await self._restart(list(WORKERS)[fault.pick])
        else:
            async with contextlib.AsyncExitStack() as stack:
                await stack.enter_async_context(self._down)
                if fault.kind is Kind.AWAY_DATABASE:  # who starts meanwhile would begin a new file in its place
                    for one in self._coming_back.values():
                        await stack.enter_async_context(one)
                await self._outage(fault)

    async def _restart(self, name: str) -> None:
        async with self._coming_back[name]:
            await self._world.kill(name)
            await self._world.boot(name)
            self._report.counts["kills of a gateway"] += 1

    async def _outage(self, fault: Fault) -> None:
        how = {"killed": fault.kind is Kind.KILL_DATABASE, "locked": fault.kind is Kind.LOCK_DATABASE}
        await self._world.take_away(**how)
        await asyncio.gather(self._share(fault.at + OUTAGE_SHARE), asyncio.sleep(OUTAGE_SECONDS))
        await self._world.bring_back(**how)
        self._report.counts["outages of the database"] += 1

    async def _share(self, at: float) -> None:
        """Until so much of the requests has begun."""
        while self._begun < min(1.0, at) * self._requests:
            self._moved.clear()
            await self._moved.wait()

    # -- waiting

    async def _until(self, what: str, holds: Callable[[], Awaitable[bool]]) -> None:
        end = self._loop.time() + WAIT_SECONDS
        while not await holds():
            if self._loop.time() > end:
                self._report.problems.append(f"not within {WAIT_SECONDS:.0f} s: {what}")
                return
            await asyncio.sleep(0.1)

    async def _healthy(self) -> bool:
        async with httpx2.AsyncClient(timeout=60.0, trust_env=False) as client:
            for name in WORKERS:
                pools = (await client.get(f"{self._world.admin(name)}/admin/state")).json()["pools"].values()
                if not all(endpoint["healthy"] for pool in pools for endpoint in pool["endpoints"]):
                    return False
        return True

    # -- what the books say

    async def _judge(self) -> None:
        world, report = self._world, self._report
        killed = {life.number: life.killed_at for life in world.past}
        report.problems += judge.wrong_answers(self._asked, killed)
        lost: list[str] = []

        async def all_there() -> bool:
            records = await asyncio.to_thread(self._books.records, Recorded.REQUEST.value)
            lost[:] = judge.missing(self._asked, killed, records, world.told)
            return not lost

        await self._until("every record is in the database", all_there)
        report.problems += [f"{name} has no record" for name in lost]
        await self._ask_tenants()
        for life in world.lives.values():
            await asyncio.to_thread(_end, life)
        records = await asyncio.to_thread(self._books.records, Recorded.REQUEST.value)
        report.problems += judge.untrue(self._asked, records, world.told, {**PRICES, "hour": round(HOURLY_COST * 1e6)})
        gaps = await asyncio.to_thread(self._books.records, Recorded.GAP.value)
        report.problems += [f"{gap.detail} in the chain of {gap.replica}" for gap in gaps]
        await asyncio.to_thread(self._judge_reports, records)
        self._count(records, killed)

    async def _ask_tenants(self) -> None:
        """Each for its own usage, which is in the sums of the end: nothing is asked of gateways any more."""
        self._own: dict[str, Any] = {}
        life = next(iter(self._world.lives.values()))
        async with httpx2.AsyncClient(base_url=life.server.url, timeout=60.0, trust_env=False) as client:
            for tenant in POOLS:
                headers = {"authorization": f"Bearer {key(tenant)}"}
                answer = await client.get("/v1/usage?from=2020-01-01&by=day", headers=headers)
                if answer.status_code != 200:
                    self._report.problems.append(f"/v1/usage of {tenant}: {answer.status_code} {answer.text}")
                    continue
                self._own[tenant] = answer.json()["rows"]

    def _judge_reports(self, records: list[Record]) -> None:
        report, books = self._report, self._books
        right = judge.summed(records)
        report.problems += judge.differences("usage", right, books.usage()["rows"])
        report.problems += judge.differences("usage --from-records", right, books.usage("--from-records")["rows"])
        for tenant, rows in self._own.items():
            own = {place: row for place, row in right.items() if place[1] == tenant}
            report.problems += judge.differences(f"/v1/usage of {tenant}", own, rows)
        for more in ((), ("--spool",)):
            status, text = books.command("ledger", "verify", "--format", "json", *more)
            if status:
                report.problems.append(f"ledger verify {' '.join(more)} ended with {status}: {text[-600:]}")
            elif not more:
                report.counts["chains"] += len(json.loads(text)["chains"])

    def _count(self, records: list[Record], killed: dict[int, float]) -> None:
        counts = self._report.counts
        safe = sum(judge.must_be_there(one, killed[one.life], self._world.told) for one in self._asked)
        counts["requests"] += len(self._asked)
        counts["records"] += len(records)
        counts["that had to be there"] += safe
        counts["tokens"] += sum((record.prompt_tokens or 0) + (record.completion_tokens or 0) for record in records)
        counts["micro-units of cost"] += sum(record.cost_micro for record in records)
        counts["failed over or resumed"] += sum(record.attempts > 1 or record.resumes > 0 for record in records)
        for record in records:
            counts[f"{record.outcome}"] += 1


def _end(life: Life) -> None:
    """It writes and moves what is left."""
    life.server.process.send_signal(signal.SIGTERM)
    life.server.process.wait(WAIT_SECONDS)
