"""One gateway process whose pools each test configures anew by a reload, and what operators and clients see of it.

Floor: tests only. What stands behind it is the caller's: simulated engines (`fleet.py`), or real ones.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import re
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

import httpx2

from tests.e2e.stack import ENGINE_MODEL, ROOT, START_SECONDS
from tests.servers import POLL_SECONDS, Server, free_port, launch, temporary_folder

MODEL = "chat"
"""What clients ask for; engines know it by another name, so that answers are rewritten as in most installations."""
WAIT_SECONDS = 90.0
"""For what happens within a fraction of a second on a machine that is not busy."""
HEALTH = {"interval": 0.05, "timeout": 5.0, "scrape_interval": 0.05, "detect_hung": False, "slow_start": 0}
"""Engines are made to hang so that requests wait for as long as a test likes; what finds them out has its own tests."""

_names = count()
F = TypeVar("F", bound="Front")


def prompt(tokens: int, seed: object = None) -> str:
    """A prompt of about so many tokens, of 4 bytes each, which no other seed has; without one, no other prompt."""
    draw = random.Random(str(seed) if seed is not None else None)
    return "".join(" " + "".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=3)) for _ in range(tokens))


def chat(tokens: int = 16, text: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chat with a prompt of about so many tokens and, if not said otherwise, an answer of 2."""
    messages = [{"role": "user", "content": text if text is not None else prompt(tokens)}]
    return {"model": MODEL, "messages": messages, "max_tokens": 2, **fields}


def key(tenant: str) -> str:
    return f"pl-{tenant}-fleet-key"


@dataclass
class Front:
    """One gateway process, and the URLs of engines. `serve` gives it a configuration of some of them."""

    urls: tuple[str, ...]
    gateway: Server
    admin_url: str
    config_file: Path
    ports: tuple[int, int]
    pool: str = ""
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return self.gateway.url

    def configuration(
        self,
        engines: Sequence[int] = (0,),
        *,
        tenants: Mapping[str, Mapping[str, Any]] | None = None,
        pool: Mapping[str, Any] | None = None,
        endpoint: Mapping[str, Any] | None = None,
        **sections: Any,
    ) -> dict[str, Any]:
        """One pool of these engines. `endpoint`: fields of each; `tenants`: their fields; `sections`: of the file."""
        endpoints = [{"name": f"e{i}", "url": self.urls[i], **(endpoint or {})} for i in engines]
        names = tenants if tenants is not None else {"acme": {}}
        return {
            "server": {"host": "127.0.0.1", "port": self.ports[0], "admin_port": self.ports[1]},
            "tenants": {
                name: {
                    "api_keys": [{"id": "app", "sha256": hashlib.sha256(key(name).encode()).hexdigest()}],
                    "models": {MODEL: {"pool": self.pool, "engine_model": ENGINE_MODEL}},
                    **fields,
                }
                for name, fields in names.items()
            },
            "pools": {self.pool: {"shared": len(names) > 1, "health": HEALTH, "endpoints": endpoints, **(pool or {})}},
            **sections,
        }

    async def serve(self, engines: Sequence[int] = (0,), **options: Any) -> None:
        """A new pool of these engines, of which nothing is known yet; returns when all are healthy."""
        self.pool = f"p{next(_names)}"
        await self.reload(self.configuration(engines, **options))
        await until("every endpoint is healthy", lambda: self._all_healthy(len(engines)))

    async def reload(self, config: dict[str, Any]) -> None:
        self.config = config
        self.config_file.write_text(json.dumps(config))  # YAML holds JSON
        async with _client(self.admin_url) as operator:
            answer = await operator.post("/admin/reload")
        assert answer.status_code == 200, answer.text

    def client(self, tenant: str = "acme", **options: Any) -> httpx2.AsyncClient:
        """A client of the data plane, with as many connections as it likes."""
        return _client(self.url, headers={"authorization": f"Bearer {key(tenant)}"}, **options)

    async def whole(self) -> dict[str, Any]:
        """All of `/admin/state`."""
        async with _client(self.admin_url) as operator:
            return dict((await operator.get("/admin/state")).json())

    async def state(self) -> dict[str, Any]:
        """Of the pool, as `/admin/state` shows it."""
        return dict((await self.whole())["pools"][self.pool])

    async def endpoint(self, name: str) -> dict[str, Any]:
        return next(dict(one) for one in (await self.state())["endpoints"] if one["name"] == name)

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of the values that have these labels in the gateway's `/metrics`."""
        async with _client(self.admin_url) as operator:
            text = (await operator.get("/metrics")).text
        rows = re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
        wanted = {f'{label}="{value}"' for label, value in labels.items()}
        return sum(float(value) for found, value in rows if wanted <= set(found.split(",")))

    async def until_waiting(self, requests: int) -> None:
        """Until so many are held back at the gateway, by its metrics."""

        async def there() -> bool:
            return await self.metric("promptlane_waiting", pool=self.pool) == requests

        await until(f"{requests} requests wait at the gateway", there)

    async def until_in_flight(self, requests: int, *endpoints: str) -> None:
        async def there() -> bool:
            found = (await self.state())["endpoints"]
            counts = [int(one["in_flight"]) for one in found if not endpoints or one["name"] in endpoints]
            return sum(counts) == requests

        await until(f"{requests} requests are in flight", there)

    async def settled(self) -> None:
        """Until nothing is held by the gateway's books any more; fails, naming it, what stays."""
        left: list[str] = []

        async def nothing() -> bool:
            left[:] = held(await self.state())
            return not left

        try:
            await until("nothing is left in the gateway's books", nothing)
        except AssertionError:
            raise AssertionError(f"left in the gateway's books: {left}") from None

    async def _all_healthy(self, endpoints: int) -> bool:
        found = (await self.state())["endpoints"]
        # A capacity shows that its metrics have been read too: what is learned from them does not change later.
        return len(found) == endpoints and all(one["healthy"] and one["kv_capacity_tokens"] for one in found)


def held(pool: Mapping[str, Any]) -> list[str]:
    """What is not 0 in the pool's state."""
    found = [f"{what} {pool[what]}" for what in ("waiting",) if pool[what]]
    books = ("in_flight", "pending_prefill_seconds", "outstanding_tokens", "kv_tokens_in_flight")
    for one in pool["endpoints"]:
        figures = {what: one[what] for what in books} | {"busy": one["connections"]["busy"]}
        found += [f"{one['name']}: {what} {value}" for what, value in figures.items() if value]
    return found


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    """Returns once it holds; fails, naming it, when it does not within `WAIT_SECONDS`."""
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            while not await condition():  # noqa: ASYNC110 - it is true in another process
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise AssertionError(f"not within {WAIT_SECONDS:.0f} s: {what}") from None


def _client(url: str, **options: Any) -> httpx2.AsyncClient:
    bounds = httpx2.Limits(max_connections=None)
    # Without the authorities of TLS, which take longer to load than most answers.
    return httpx2.AsyncClient(base_url=url, timeout=60.0, trust_env=False, limits=bounds, verify=False, **options)


@contextmanager
def running_front(kind: type[F], urls: Sequence[str], *, grace: float = 20.0) -> Iterator[F]:
    """Starts the gateway, which knows nobody yet. `grace`: seconds for what is under way when it is told to end."""
    with ExitStack() as stack:
        folder, remove = stack.enter_context(temporary_folder("front"))
        ports = (free_port(), free_port())
        file, admin = folder / "promptlane.yaml", f"http://127.0.0.1:{ports[1]}"
        front = kind(tuple(urls), _launch(file, folder, ports, grace, remove), admin, file, ports)
        stack.callback(front.gateway.stop)
        yield front


def _launch(file: Path, folder: Path, ports: tuple[int, int], grace: float, remove: Callable[[], None]) -> Server:
    nobody = {"p": {"endpoints": [{"name": "nobody", "url": "http://127.0.0.1:9"}]}}
    server = {"host": "127.0.0.1", "port": ports[0], "admin_port": ports[1], "shutdown_grace": grace}
    file.write_text(json.dumps({"server": server, "tenants": {}, "pools": nobody}))
    return start_gateway(file, folder, ports, "an example secret for the end-to-end suite", remove)


def start_gateway(
    file: Path,
    folder: Path,
    ports: tuple[int, int],
    secret: str,
    remove: Callable[[], None],
    seconds: float = START_SECONDS,
) -> Server:
    """A gateway process with this configuration, ready within so many `seconds`. `folder`: for its log; `remove`:
    called when it has ended."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTLANE_")}
    argv = [sys.executable, "-m", "router.cli", "serve", "--config", str(file)]
    process, log = launch("gateway", argv, folder, env={**ours, "PROMPTLANE_SECRET": secret}, cwd=ROOT)
    gateway = Server("gateway", f"http://127.0.0.1:{ports[0]}", process, log, [remove])
    gateway.start(lambda: _ready(f"http://127.0.0.1:{ports[1]}/readyz"), seconds)
    return gateway


def _ready(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=5.0, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False
