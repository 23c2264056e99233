"""What tests of standbys do, whatever engines stand behind the gateway: serve, look, wait, and send a steady trickle.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx2

from tests.e2e.front import Front, chat, until
from tests.e2e.stack import ROOT

CHAT = "/v1/chat/completions"
HEALTH = {"interval": 1.0, "timeout": 5.0, "scrape_interval": 0.5}
"""Probes so seldom that requests find out first who has died."""
STANDBY = {"calm_seconds": 1.0, "heartbeat_seconds": 0.3}

_names = count()


def pool(front: Front, roles: Mapping[int, str], name: str = "", **standby: Any) -> dict[str, Any]:
    """Endpoints of these engines with their roles."""
    endpoints = [
        {"name": f"{name}e{number}", "url": front.urls[number], "role": role} for number, role in roles.items()
    ]
    return {"endpoints": endpoints, "health": HEALTH, "standby": {**STANDBY, **standby}}


async def serve(front: Front, roles: Mapping[int, str], tier: str = "platinum", **standby: Any) -> None:
    """acme has a pool that nobody has had before; returns when its hot endpoints are well."""
    front.pool = f"main-{next(_names)}"
    await front.reload(front.configuration((), tenants={"acme": {"tier": tier}}, pool=pool(front, roles, **standby)))

    async def hot_is_well() -> bool:
        return all(one["healthy"] for one in (await front.state())["endpoints"] if one["role"] == "hot")

    await until("the hot endpoints are well", hot_is_well)


async def order(front: Front, engine: int, path: str) -> None:
    """Tells an engine, as its operator, to sleep, wake, pause or resume."""
    async with httpx2.AsyncClient(base_url=front.urls[engine], timeout=60.0, trust_env=False) as client:
        assert (await client.post(path)).status_code == 200


async def put_to_sleep(front: Front, engine: int) -> None:
    await order(front, engine, "/sleep?level=1")


async def until_asleep(front: Front, *endpoints: str, asleep: bool = True) -> None:
    async def there() -> bool:
        found = {one["name"]: one["sleeping"] for one in (await front.state())["endpoints"]}
        return all(found[name] is asleep for name in endpoints)

    await until(f"{', '.join(endpoints)} {'sleep' if asleep else 'are awake'}", there)


async def until_level(front: Front, level: str) -> None:
    async def there() -> bool:
        return bool((await front.state())["standby"]["level"] == level)

    await until(f"the level is {level}", there)


async def recovered(front: Front) -> dict[str, Any]:
    """The first event with a recovery."""
    found: list[dict[str, Any]] = []

    async def there() -> bool:
        found[:] = [one for one in (await front.state())["standby"]["events"] if one["recoveries"]]
        return bool(found)

    try:
        await until("a recovery is measured", there)
    except AssertionError:
        raise AssertionError(f"no recovery is measured: {(await front.state())['standby']}") from None
    return found[0]


@dataclass
class Trickle:
    """What became of a steady trickle of requests."""

    statuses: list[int] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def send(self, client: httpx2.AsyncClient) -> None:
        self.statuses.append((await client.post(CHAT, json=chat())).status_code)

    async def answered(self, more: int) -> None:
        """Returns when so many more have been answered."""
        wanted = len(self.statuses) + more

        async def there() -> bool:
            return len(self.statuses) >= wanted

        await until(f"{wanted} requests of a trickle are answered", there)


@asynccontextmanager
async def trickle(front: Front, seconds: float = 0.03) -> AsyncIterator[Trickle]:
    """Answers in one piece, one request every so often, until the block ends; then all are awaited."""
    sent = Trickle()
    async with front.client() as client:

        async def drip() -> None:
            while True:
                sent.tasks.append(asyncio.create_task(sent.send(client)))
                await asyncio.sleep(seconds)

        dripping = asyncio.create_task(drip())
        try:
            yield sent
        finally:
            dripping.cancel()
            await asyncio.gather(*sent.tasks)


def moves(events: Sequence[Mapping[str, Any]]) -> list[str]:
    """From which level to which, in order."""
    return [f"{one['from']}-{one['to']}" for one in events]


async def until_rising(front: Front, name: str) -> None:
    front.pool = name

    async def there() -> bool:
        found = (await front.state())["standby"]
        return bool(found["rising"] or found["level"] != "hot")

    await until(f"{name} raises a standby", there)


async def drill(front: Front, *options: str) -> tuple[int, str, str]:
    """`promptlane drill` of acme: its exit status, what it printed, and its errors."""
    argv = ["-m", "router.cli", "drill", "--config", str(front.config_file), "--tenant", "acme", *options]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, *argv, cwd=ROOT, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def drill_under_load(front: Front, *options: str) -> tuple[dict[str, Any], list[int]]:
    """A drill that must pass, while two clients keep asking: its result, and the statuses that they got."""
    statuses: list[int] = []
    over = asyncio.Event()

    async def client() -> None:
        async with front.client() as http:
            while not over.is_set():
                statuses.append((await http.post(CHAT, json=chat())).status_code)

    clients = [asyncio.create_task(client()) for _ in range(2)]
    status, out, err = await drill(front, *options, "--json")
    over.set()
    await asyncio.gather(*clients)
    result: dict[str, Any] = json.loads(out) if out else {}
    assert (status, err, result.get("status")) == (0, "", "passed"), f"{out}{err}"
    return result, statuses
