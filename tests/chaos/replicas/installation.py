"""What is broken: three gateway processes, the Redis by which they know each other, four simulated engines.

Floor: tests only. Everybody has a place in the network (`network.py`); a replica that is started anew comes back at the
same address, as another process (`Life`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx2

from benchmarks.engine.launch import Engine, start_engine
from tests.chaos.replicas.network import HUB, Net
from tests.chaos.replicas.processes import Life, Redis
from tests.chaos.replicas.trail import FILE
from tests.e2e.front import held
from tests.e2e.stack import ENGINE_MODEL, ROOT, START_SECONDS
from tests.servers import Server, free_port, launch, temporary_folder

REPLICAS, REDIS = ("r0", "r1", "r2"), "redis"
MODEL, SECRET = "chat", "an example secret for the chaos of replicas"
MAIN, OWN = "main", "own"
"""Pools: a shared one, whose owner is meant by faults, and one with a single engine."""
ENGINES = {"m0": MAIN, "m1": MAIN, "m2": MAIN, "o0": OWN}
MAX_IN_FLIGHT = 3
"""Of each engine: few enough that requests wait, so that a seat given twice shows."""
ENGINE = {"prefill_tokens_per_second": 60_000, "decode_step_seconds": 0.008, "reply_tokens": 64, "kv_blocks": 420}
"""A cache of 6,720 tokens: three engines together hold the prefixes of `load.GROUPS`, none of them holds all."""
HEALTH = {"interval": 0.5, "timeout": 1.0, "scrape_interval": 0.5}
TIMEOUTS = {"connect": 2.0, "first_byte": 15.0, "idle": 10.0, "total": 60.0}
LEASE_SECONDS = 1.5
REQUESTS_A_MINUTE, TOKENS_A_MINUTE, AT_ONCE = 240, 4000, 4
CLIENTS = {
    "acme": ("acme", {}),
    "globex-requests": ("globex", {"requests_per_minute": REQUESTS_A_MINUTE}),
    "globex-tokens": ("globex", {"tokens_per_minute": TOKENS_A_MINUTE}),
    "globex-seats": ("globex", {"concurrency": AT_ONCE}),
    "initech": ("initech", {}),
}
"""Who asks: their tenant, and the limits of their key."""
POOLS = {"acme": MAIN, "globex": MAIN, "initech": OWN}
TIERS = {"acme": "platinum", "globex": "gold", "initech": "silver"}


def key(client: str) -> str:
    return f"pl-{client}-chaos-key"


class Installation:
    """`lives`: the processes that replicas have now; `past`: all that there were, those too."""

    def __init__(self, net: Net, redis: Redis, engines: dict[str, Engine], folder: Path) -> None:
        self.net, self.redis, self.engines = net, redis, engines
        self.lives: dict[str, Life] = {}
        self.past: list[Life] = []
        self._folder = folder
        self._ports = {name: [free_port() for _ in range(3)] for name in REPLICAS}
        self._clients: dict[str, httpx2.AsyncClient] = {}

    async def boot(self, replica: str) -> Life:
        """A new process of it; returns when it is ready."""
        number = sum(one.replica == replica for one in self.past)
        life = await asyncio.to_thread(self._start, replica, number)
        self.lives[replica] = life
        self.past.append(life)
        return life

    def _start(self, replica: str, number: int) -> Life:
        place, name = self.net.place(replica), f"{replica}.{number}"
        file, trail = self._folder / f"{name}.yaml", self._folder / f"{name}.trail"
        file.write_text(json.dumps(self._configuration(replica)))  # YAML holds JSON
        argv = [*place.prefix, sys.executable, "-m", "tests.chaos.replicas.trail", "serve", "--config", str(file)]
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTLANE_")}
        env = {**ours, "PROMPTLANE_SECRET": SECRET, FILE: str(trail)}
        launched_at = time.monotonic()
        process, log = launch(name, argv, self._folder, env=env, cwd=ROOT)
        server = Server(name, f"http://{place.address}:{self._ports[replica][0]}", process, log)
        admin = f"http://{place.address}:{self._ports[replica][1]}"
        server.start(lambda: _ready(f"{admin}/readyz"), START_SECONDS)
        return Life(replica, number, server, admin, trail, launched_at=launched_at)

    def _configuration(self, replica: str) -> dict[str, Any]:
        address, (port, admin, links) = self.net.place(replica).address, self._ports[replica]

        def pool(name: str) -> dict[str, Any]:
            names = [engine for engine, whose in ENGINES.items() if whose == name]
            endpoints = [{"name": n, "url": self.engines[n].url, "max_in_flight": MAX_IN_FLIGHT} for n in names]
            return {"shared": name == MAIN, "endpoints": endpoints, "health": HEALTH, "timeouts": TIMEOUTS}

        def keys(tenant: str) -> list[dict[str, Any]]:
            mine = {name: limits for name, (whose, limits) in CLIENTS.items() if whose == tenant}
            digests = {name: hashlib.sha256(key(name).encode()).hexdigest() for name in mine}
            return [{"id": name, "sha256": digests[name], "limits": limits} for name, limits in mine.items()]

        return {
            "server": {
                "host": address, "port": port, "admin_host": address, "admin_port": admin,
                "shutdown_grace": 20.0, "shutdown_delay": 1.0,
            },
            "state": {"redis_url": self.redis.url, "replicas": len(REPLICAS)},
            "replicas": {"listen": f"tcp://{address}:{links}", "lease_seconds": LEASE_SECONDS},
            "tenants": {
                tenant: {
                    "tier": TIERS[tenant],
                    "api_keys": keys(tenant),
                    "models": {MODEL: {"pool": where, "engine_model": ENGINE_MODEL}},
                }
                for tenant, where in POOLS.items()
            },
            "pools": {MAIN: pool(MAIN), OWN: pool(OWN)},
        }  # fmt: skip

    async def state(self, life: Life) -> dict[str, Any]:
        """Raises HTTPError where it does not answer."""
        if life.admin_url not in self._clients:  # a connection that is kept may be closed in the moment it is used
            each = httpx2.Limits(max_keepalive_connections=0)
            self._clients[life.admin_url] = httpx2.AsyncClient(timeout=10.0, trust_env=False, limits=each)
        client = self._clients[life.admin_url]
        found: dict[str, Any] = (await client.get(f"{life.admin_url}/admin/state")).json()
        return found

    def owner(self, pool: str) -> Life | None:
        """Who leads by its own trail, with the highest term, and is not broken."""
        for life in self.lives.values():
            life.follow()
        whole = [one for one in self.lives.values() if one.alive and not one.struck]
        leaders = [one for one in whole if pool in one.part and one.part[pool].mode == "leads"]
        return max(leaders, key=lambda one: one.part[pool].term, default=None)

    async def unwell(self) -> list[str]:
        """What is not as it is without a fault: everybody reaches Redis, one leads each pool and all others follow it,
        and every engine is well to all."""
        try:
            states = {name: await self.state(life) for name, life in self.lives.items()}
        except httpx2.HTTPError as error:
            return [f"a replica does not answer: {error!r}"]
        found = [f"{name} has lost its store" for name, one in states.items() if one["replicas"]["store"] != "ok"]
        for pool in (MAIN, OWN):
            parts = {name: one["pools"][pool]["replica"] for name, one in states.items()}
            if sorted(part["part"] for part in parts.values()) != ["follows"] * (len(parts) - 1) + ["leads"]:
                found.append(f"{pool}: { ({name: part['part'] for name, part in parts.items()}) }")
            elif len({part["owner"] for part in parts.values()}) > 1:
                found.append(f"{pool}: owners { ({name: part['owner'] for name, part in parts.items()}) }")
            for name, one in states.items():
                ill = [e["name"] for e in one["pools"][pool]["endpoints"] if not (e["healthy"] and not e["ejected"])]
                found += [f"{name} takes {', '.join(ill)} for ill"] if ill else []
        return found

    async def left(self) -> list[str]:
        """What any replica's books or any engine still hold."""
        found = []
        for name, life in self.lives.items():
            for pool, one in (await self.state(life))["pools"].items():
                found += [f"{name}: {pool}: {what}" for what in held(one)]
                books = {what: one["replica"][what] for what in ("under_way", "seats_of_followers")}
                found += [f"{name}: {pool}: {what} {value}" for what, value in books.items() if value]
        for name, engine in self.engines.items():
            state = await asyncio.to_thread(engine.state)
            found += [f"engine {name}: {what} {state[what]}" for what in ("running", "waiting") if state[what]]
        return found

    def pids(self) -> dict[str, int]:
        """Of what answers requests and decides, by name."""
        alive = {name: life.server.process.pid for name, life in self.lives.items() if life.alive}
        return alive | {name: engine.pid for name, engine in self.engines.items()} | {REDIS: self.redis.pid}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        for life in self.past:
            with contextlib.suppress(ProcessLookupError):
                life.signal(signal.SIGCONT)
            await asyncio.to_thread(life.server.stop)


def _ready(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


@contextlib.asynccontextmanager
async def installed(net: Net) -> AsyncIterator[Installation]:
    """All of it, started."""
    async with contextlib.AsyncExitStack() as stack:
        stack.callback(net.close)
        folder, remove = stack.enter_context(temporary_folder("chaos-replicas"))
        stack.callback(remove)
        redis = Redis(net.place(REDIS), folder)
        redis.start()
        stack.callback(redis.stop)
        start = partial(start_engine, ENGINE_MODEL, host=net.place(HUB).address, **ENGINE)
        started = await asyncio.gather(*(asyncio.to_thread(start) for _ in ENGINES))
        for engine in started:
            stack.callback(engine.kill)
        found = Installation(net, redis, dict(zip(ENGINES, started, strict=True)), folder)
        stack.push_async_callback(found.close)
        for replica in REPLICAS:
            net.place(replica)
        await asyncio.gather(*(found.boot(replica) for replica in REPLICAS))
        yield found
