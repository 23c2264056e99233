"""What is broken: gateways that share a spool and keep their records in one database, and four simulated engines.

Floor: tests only. A gateway that is killed comes back with the same configuration, as another process (`Life`).
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil

from benchmarks.engine.launch import Engine, start_engine
from tests.chaos.ask import AskClient
from tests.chaos.ledger.asks import FORBIDDEN, MODELS, Told
from tests.e2e.front import start_gateway
from tests.e2e.stack import ENGINE_MODEL
from tests.servers import PostgresServer, Server, bring_back, free_port, start_postgres, take_away, temporary_folder

SECRET = "an example secret for the chaos of the ledger"
ENGINE = {"prefill_tokens_per_second": 200_000, "decode_step_seconds": 0.003, "kv_blocks": 4000}
ENGINES = {"m0": "main", "m1": "main", "m2": "main", "p0": "private"}
"""Pools: `main` is shared by all tenants, `private` is hooli's."""
WORKERS = {"a": 1, "b": 2}
"""Gateways, and the processes of each that serve: every one has a chain of its own."""
PRICES = {"input": 3, "output": 11, "cached": 1}
HOURLY_COST = 2.5
REQUESTS_A_MINUTE = 300
"""Of hooli, which asks for more."""
POOLS = {"acme": "main", "globex": "main", "initech": "main", "hooli": "private"}
TIERS = {"acme": "platinum", "globex": "gold", "initech": "silver", "hooli": "silver"}
HEALTH = {"interval": 0.25, "timeout": 1.0, "scrape_interval": 0.5}
TIMEOUTS = {"connect": 2.0, "first_byte": 10.0, "idle": 5.0, "total": 60.0}
DATABASE_TIMEOUT = 1.0
BACK_SECONDS = 30.0
BOOT_SECONDS = 120.0
"""For a gateway to be ready, on a machine where two others, engines and clients want the processors."""


def key(tenant: str) -> str:
    return f"pl-{tenant}-chaos-key"


@dataclass
class Life:
    """One process of a gateway. `killed_at`: loop seconds; infinity where it was not. `number`: its place among all."""

    name: str
    number: int
    server: Server
    client: AskClient
    killed_at: float = float("inf")

    @property
    def alive(self) -> bool:
        return self.killed_at == float("inf")


class Installation:
    """`lives`: the gateways' processes of now, by name; `past`: all that there were."""

    def __init__(self, folder: Path, database: PostgresServer | Path, engines: dict[str, Engine]) -> None:
        self.folder, self.database, self.engines = folder, database, engines
        self.lives: dict[str, Life] = {}
        self.past: list[Life] = []
        self.told: dict[str, list[Told | None]] = {}  # by request, what engines have said of it; None: no usage
        self._ports = {name: (free_port(), free_port()) for name in WORKERS}
        self._numbers = count()
        self._lock: sqlite3.Connection | None = None

    @property
    def url(self) -> str:
        return self.database.url if isinstance(self.database, PostgresServer) else f"sqlite:///{self.database}"

    @property
    def config_file(self) -> Path:
        """For commands, which ask no gateway."""
        return self.folder / f"{next(iter(WORKERS))}.yaml"

    def admin(self, name: str) -> str:
        """The URL of a gateway's operator plane."""
        return f"http://127.0.0.1:{self._ports[name][1]}"

    # -- gateways

    async def boot(self, name: str) -> None:
        """A new process of it; returns when it is ready."""
        starting = asyncio.create_task(asyncio.to_thread(self._start, name, next(self._numbers)), name=f"start {name}")
        try:
            await asyncio.shield(starting)
        finally:  # who gives up waiting must not leave a process behind
            life = await starting
            self.past.append(life)
        self.lives[name] = life

    async def kill(self, name: str) -> None:
        """With its workers."""
        life = self.lives[name]
        life.killed_at = asyncio.get_running_loop().time()
        for process in (*psutil.Process(life.server.process.pid).children(recursive=True), life.server.process):
            process.kill()
        await asyncio.to_thread(life.server.process.wait)

    def _start(self, name: str, number: int) -> Life:
        file, folder = self.folder / f"{name}.yaml", self.folder / f"{name}.{number}"
        folder.mkdir()
        file.write_text(json.dumps(self._configuration(name)))  # YAML holds JSON
        server = start_gateway(file, folder, self._ports[name], SECRET, lambda: None, BOOT_SECONDS)
        server.wait_until(lambda: _accepts(self._ports[name][0]), BOOT_SECONDS)  # else somebody else has our other port
        return Life(name, number, server, AskClient(server.url, key))

    def _configuration(self, name: str) -> dict[str, Any]:
        port, admin = self._ports[name]

        def pool(pool: str) -> dict[str, Any]:
            endpoints = [
                {"name": engine, "url": self.engines[engine].url, "hourly_cost": HOURLY_COST}
                for engine, whose in ENGINES.items()
                if whose == pool
            ]
            return {"shared": pool == "main", "endpoints": endpoints, "health": HEALTH, "timeouts": TIMEOUTS}

        def tenant(tenant: str) -> dict[str, Any]:
            model = {"pool": POOLS[tenant], "engine_model": ENGINE_MODEL}
            prices = {"priced": {"prices": PRICES}, "timed": {}}
            return {
                "tier": TIERS[tenant],
                "api_keys": [{"id": "main", "sha256": hashlib.sha256(key(tenant).encode()).hexdigest()}],
                "models": {one: {**model, **prices[one]} for one in MODELS[tenant]},
            }

        tenants = {one: tenant(one) for one in POOLS}
        tenants["hooli"]["limits"] = {"requests_per_minute": REQUESTS_A_MINUTE}
        rule = {"name": "places", "find": {"words": [FORBIDDEN]}, "action": "block"}
        tenants["initech"]["guards"] = [rule]
        return {
            "server": {"port": port, "admin_port": admin, "workers": WORKERS[name], "shutdown_grace": 20.0},
            "state": {"ledger_url": self.url, "ledger_timeout": DATABASE_TIMEOUT},
            "ledger": {"spool_dir": str(self.folder / "spool")},
            "tiers": {"platinum": {"resume": True}},
            "tenants": tenants,
            "pools": {one: pool(one) for one in dict.fromkeys(ENGINES.values())},
        }

    # -- the database

    async def take_away(self, *, killed: bool = False, locked: bool = False) -> None:
        if killed and isinstance(self.database, PostgresServer):
            await asyncio.to_thread(self.database.kill)
        elif locked and isinstance(self.database, Path):
            self._lock = await asyncio.to_thread(_locked, self.database)
        else:
            await asyncio.to_thread(take_away, self.database)

    async def bring_back(self, *, killed: bool = False, locked: bool = False) -> None:
        if killed and isinstance(self.database, PostgresServer):
            await asyncio.to_thread(self.database.start_again)
        elif locked and self._lock is not None:
            self._lock.close()
        else:
            await asyncio.to_thread(bring_back, self.database)

    # -- engines

    async def listen(self) -> None:
        """Takes what engines have told of requests that have ended."""
        for engine in self.engines.values():
            for record in await asyncio.to_thread(engine.take):
                name = next((value for header, value in record["headers"] if header == "x-request-id"), "")
                told = record["told"]
                self.told.setdefault(name, []).append(Told(*told) if told is not None else None)

    async def idle(self) -> bool:
        """Whether no engine works on anything."""
        states = [await asyncio.to_thread(engine.state) for engine in self.engines.values()]
        return not any(state["running"] or state["waiting"] or state["held"] for state in states)

    async def close(self) -> None:
        for life in self.past:
            await asyncio.to_thread(life.server.stop)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5.0).close()
    except OSError:
        return False
    return True


def _locked(file: Path) -> sqlite3.Connection:
    """A connection that keeps everybody else from it, readers too, until it is closed."""
    connection = sqlite3.connect(file, timeout=BACK_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("begin exclusive")
    return connection


@contextlib.asynccontextmanager
async def installed(kind: str) -> AsyncIterator[Installation]:
    """All of it, started. `kind`: of the database."""
    async with contextlib.AsyncExitStack() as stack:
        folder, remove = stack.enter_context(temporary_folder("chaos-ledger"))
        stack.callback(remove)
        database: PostgresServer | Path = folder / "ledger.db"
        if kind == "postgres":
            database = await asyncio.to_thread(start_postgres)
            stack.callback(database.stop)
        engines = {name: await asyncio.to_thread(lambda: start_engine(ENGINE_MODEL, **ENGINE)) for name in ENGINES}
        for engine in engines.values():
            stack.callback(engine.stop)
        world = Installation(folder, database, engines)
        stack.push_async_callback(world.close)
        for name in WORKERS:
            await world.boot(name)
        yield world
