"""The installation under test: a gateway process, three tenants of three tiers, and the engines of each.

Floor: tests only. One world serves many schedules, so that what one of them leaks shows in the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import psutil

from router.secret import cache_salt
from tests.chaos.ask import REPLY_TOKENS, AskClient
from tests.chaos.faults import HostSpec
from tests.chaos.host import Host
from tests.e2e.front import held, start_gateway
from tests.e2e.stack import ENGINE_MODEL
from tests.servers import Server, free_port, temporary_folder

MODEL = "chat"
SECRET = "an example secret for the chaos suite"
TIERS = {"acme": "platinum", "globex": "gold", "initech": "silver"}
"""Every tenant has one pool, of its own name."""
HOSTS = (
    *(HostSpec(f"{tenant}-{number}", tenant, "hot", wired=number == 1) for tenant in TIERS for number in range(2)),
    HostSpec("acme-warm", "acme", "warm"),
)
ENGINE = {"prefill_tokens_per_second": 150_000, "decode_step_seconds": 0.008, "reply_tokens": REPLY_TOKENS}
HEALTH = {"interval": 0.25, "timeout": 1.0, "scrape_interval": 0.25}
TIMEOUTS = {"connect": 2.0, "first_byte": 10.0, "idle": 5.0, "total": 60.0}
"""Far above what a busy machine does to an engine that is well, far below a client's patience."""
STANDBY = {"calm_seconds": 2.0, "max_failovers": 1000}
"""Schedules follow each other within seconds: each is to find the hot engines at work, and may fail over again."""
WAIT_SECONDS = 120.0
"""For conditions that hold within a second or two on a machine that is not busy; a circuit may stay open for 30 s."""
SPARE_FILES = 48
"""Descriptors that a gateway may have open beyond those at rest before the first schedule and its idle connections to
engines: probes' connections, a file being read."""

DISTURBANCES = ("attempt_failures", "retries", "resumes", "endpoint_ejections")
"""Counters that stand still in a pool where nothing goes wrong. Failovers do not: a minute's errors bring them, and the
schedule before was within that."""
GATEWAY = "the gateway"


def key(tenant: str) -> str:
    return f"pl-{tenant}-chaos-key"


def configuration(
    ports: tuple[int, int], hosts: Mapping[str, Host], tiers: Mapping[str, str], timeouts: Mapping[str, float]
) -> dict[str, Any]:
    """The file. What schedules rely on is said; everything else is as an operator gets it."""

    def pool(name: str) -> dict[str, Any]:
        mine = [host for host in hosts.values() if host.spec.pool == name]
        endpoints = [{"name": host.name, "url": host.url, "role": host.spec.role} for host in mine]
        return {"endpoints": endpoints, "health": HEALTH, "timeouts": dict(timeouts), "standby": STANDBY}

    return {
        "server": {"host": "127.0.0.1", "port": ports[0], "admin_port": ports[1]},
        "tenants": {
            tenant: {
                "tier": tier,
                "api_keys": [{"id": "app", "sha256": hashlib.sha256(key(tenant).encode()).hexdigest()}],
                "models": {MODEL: {"pool": tenant, "engine_model": ENGINE_MODEL}},
            }
            for tenant, tier in tiers.items()
        },
        "pools": {tenant: pool(tenant) for tenant in tiers},
    }


@dataclass
class World:
    """`hosts` by name. All waits raise AssertionError, naming what did not come."""

    hosts: dict[str, Host]
    tiers: Mapping[str, str]
    gateway: Server
    admin: httpx2.AsyncClient
    client: AskClient
    files_at_rest: int = 0

    def past_gateway(self, tenant: str) -> AskClient:
        """A client of the tenant's first engine itself."""
        return AskClient(self.hosts[self.of_pool(tenant)[0]].url, key)

    def of_pool(self, pool: str) -> list[str]:
        return [host.name for host in self.hosts.values() if host.spec.pool == pool]

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = (await self.admin.get("/admin/state")).json()
        return state

    async def endpoints(self) -> dict[str, dict[str, Any]]:
        pools = (await self.state())["pools"].values()
        return {endpoint["name"]: endpoint for pool in pools for endpoint in pool["endpoints"]}

    def pids(self) -> dict[str, int]:
        """Of all processes, by name."""
        alive = {host.name: host.engine.pid for host in self.hosts.values() if host.alive}
        return alive | {GATEWAY: self.gateway.process.pid}

    async def disturbances(self) -> dict[str, Counter[str]]:
        """By pool: what is counted of it that is not where every request is one attempt at an engine that is well."""
        text = (await self.admin.get("/metrics")).text
        counted: dict[str, Counter[str]] = {pool: Counter() for pool in self.tiers}
        for name, labels, value in re.findall(r"^promptlane_(\w+)_total{(.*)} (\S+)$", text, re.MULTILINE):
            pool = re.search(r'pool="([^"]*)"', labels)
            if name in DISTURBANCES and pool is not None:
                counted[pool[1]][f"{name} {labels}"] += int(float(value))
        return counted

    async def is_well(self, *hosts: str) -> bool:
        """Whether the gateway takes these for wholly well: it is available, and on no trial."""
        found = await self.endpoints()
        return all(found[name]["healthy"] and found[name]["health"] == "healthy" for name in hosts)

    async def left(self) -> list[str]:
        """What the gateway's books or the engines still hold."""
        found = [f"{name}: {one}" for name, pool in (await self.state())["pools"].items() for one in held(pool)]
        for host in self.hosts.values():
            if not host.alive:
                continue  # a dead one holds nothing
            state = await host.state()
            busy = {what: state[what] for what in ("running", "waiting", "held", "kv_used_blocks") if state[what]}
            found += [f"{host.name}: engine {what} {value}" for what, value in busy.items()]
        return found

    async def until_settled(self) -> None:
        left: list[str] = []

        async def nothing() -> bool:
            left[:] = await self.left()
            return not left

        try:
            await until("nothing is left", nothing)
        except AssertionError:
            raise AssertionError(f"left: {left}") from None

    async def files(self) -> int:
        """Open descriptors of the gateway, those of idle connections to engines not counted."""
        idle = sum(endpoint["connections"]["idle"] for endpoint in (await self.endpoints()).values())
        return int(psutil.Process(self.gateway.process.pid).num_fds()) - idle

    async def strangers(self) -> list[str]:
        """Engines that got another tenant's request, or one without the salt that keeps tenants apart."""
        salts = {tenant: cache_salt(SECRET.encode(), tenant) for tenant in self.tiers}
        found = []
        for host in self.hosts.values():
            bodies = [json.loads(one["body"]) for one in await host.requests()]
            # The gateway's own canaries are nobody's: they ask for a token or two, and carry no tenant's salt.
            asked = [body for body in bodies if body.get("cache_salt") in salts.values() or body.get("stream")]
            wrong = sum(body.get("cache_salt") != salts[host.spec.pool] for body in asked)
            bare = sum("cache_salt" not in body for body in bodies)
            found += [f"{host.name}: {wrong} requests that are not {host.spec.pool}'s"] if wrong else []
            found += [f"{host.name}: {bare} requests without a salt"] if bare else []
        return found


async def until(what: str, condition: Callable[[], Awaitable[bool]], seconds: float = WAIT_SECONDS) -> None:
    """Returns once it holds; fails, naming it, when it does not."""
    try:
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - it is true in another process
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {seconds:.0f} s: {what}") from None


def simulated(specs: Iterable[HostSpec], **engine: Any) -> list[Host]:
    """`engine`: options of the simulated engines."""
    return [Host(spec, ENGINE_MODEL, ENGINE | engine) for spec in specs]


@contextlib.asynccontextmanager
async def running_world(
    hosts: Sequence[Host] | None = None, tiers: Mapping[str, str] = TIERS, timeouts: Mapping[str, float] = TIMEOUTS
) -> AsyncIterator[World]:
    """All of it, started and well."""
    async with contextlib.AsyncExitStack() as stack:
        started = {host.name: host for host in (hosts if hosts is not None else simulated(HOSTS))}
        for host in started.values():
            stack.push_async_callback(host.stop)
        await asyncio.gather(*(host.start() for host in started.values()))
        ports = (free_port(), free_port())
        gateway = await asyncio.to_thread(_gateway, ports, configuration(ports, started, tiers, timeouts))
        stack.callback(gateway.stop)
        admin = httpx2.AsyncClient(base_url=f"http://127.0.0.1:{ports[1]}", timeout=30.0, trust_env=False)
        await stack.enter_async_context(admin)
        world = World(started, tiers, gateway, admin, AskClient(gateway.url, key))
        await until("every endpoint is well", lambda: world.is_well(*started))
        world.files_at_rest = await world.files()
        yield world


def _gateway(ports: tuple[int, int], config: dict[str, Any]) -> Server:
    with temporary_folder("chaos") as (folder, remove):
        file = folder / "promptlane.yaml"
        file.write_text(json.dumps(config))  # YAML holds JSON
        return start_gateway(file, folder, ports, SECRET, remove)
