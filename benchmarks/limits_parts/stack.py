"""What is hammered: gateway processes that share one Redis, and an engine that counts what really reaches it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.front import start_gateway
from tests.servers import Server, free_port, start_redis, temporary_folder

MODEL = "chat"
TOKENS = 20
"""Of a request: of its prompt, which is token ids, so that nothing of it is an estimate, and one for the answer."""
_USAGE = {"prompt_tokens": TOKENS - 1, "completion_tokens": 1, "total_tokens": TOKENS}
_CHOICE = {"index": 0, "text": "hi", "finish_reason": "stop"}
_ANSWER = json.dumps(
    {"id": "x", "object": "text_completion", "created": 1, "model": MODEL, "choices": [_CHOICE], "usage": _USAGE}
).encode()
_SECRET = "an example secret for hammering limits"  # 32 characters at least; nobody's


def key(tenant: str) -> str:
    return f"pl-{tenant}-limits-key"


@dataclass
class CountingEngine:
    """Answers after `seconds`. `admitted`, `running`, `most` (at once), `arrivals`: by tenant, which clients write into
    `user`."""

    seconds: float
    port: int = 0
    admitted: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    arrivals: dict[str, list[float]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def stop(self) -> None:
        """Gives up what it is doing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next((int(one[15:]) for one in head.split(b"\r\n") if one.startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith(b"post /v1/completions"):
                    await self._count(json.loads(body)["user"])
                    self._answer(writer, _ANSWER)
                else:
                    self._answer(writer, b"")
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _count(self, tenant: str) -> None:
        self.admitted[tenant] += 1
        self.arrivals.setdefault(tenant, []).append(time.monotonic())
        self.running[tenant] += 1
        self.most[tenant] = max(self.most[tenant], self.running[tenant])
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running[tenant] -= 1

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )


@dataclass
class Fleet:
    redis: Server
    engine: CountingEngine
    gateways: list[Server]


@asynccontextmanager
async def fleet(replicas: int, tenants: Mapping[str, Mapping[str, Any]], seconds: float = 0.1) -> AsyncIterator[Fleet]:
    """Starts all of it. `tenants`: their `limits`; `seconds`: how long the engine takes."""
    async with AsyncExitStack() as stack:
        redis = await asyncio.to_thread(start_redis)
        stack.callback(redis.stop)
        engine = CountingEngine(seconds)
        server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, backlog=2048)
        stack.push_async_callback(engine.stop)
        stack.callback(server.close)
        engine.port = server.sockets[0].getsockname()[1]
        gateways = []
        for _ in range(replicas):
            gateway = await asyncio.to_thread(_start, configuration(redis.url, engine.port, tenants, replicas))
            stack.callback(gateway.stop)
            gateways.append(gateway)
        yield Fleet(redis, engine, gateways)


def configuration(
    redis_url: str, engine_port: int, tenants: Mapping[str, Mapping[str, Any]], replicas: int
) -> dict[str, Any]:
    """One shared pool of one engine, and these tenants."""
    ports = {"port": free_port(), "admin_port": free_port()}
    endpoint = {"name": "e0", "url": f"http://127.0.0.1:{engine_port}", "max_in_flight": 4096}
    return {
        "server": {"host": "127.0.0.1", "shutdown_grace": 2, **ports},
        "state": {"redis_url": redis_url, "replicas": replicas},
        "replicas": {"listen": "tcp://127.0.0.1:0"},
        "tenants": {
            name: {
                "api_keys": [{"id": "app", "sha256": hashlib.sha256(key(name).encode()).hexdigest()}],
                "models": {MODEL: {"pool": "p"}},
                "limits": dict(limits),
            }
            for name, limits in tenants.items()
        },
        "pools": {"p": {"shared": True, "endpoints": [endpoint], "health": {"detect_hung": False, "slow_start": 0}}},
        "lanes": {"short": {"max_waiting": 4096}},
    }


def _start(config: dict[str, Any]) -> Server:
    with temporary_folder("limits") as (folder, remove):
        file = folder / "promptlane.yaml"
        file.write_text(json.dumps(config))  # YAML holds JSON
        ports = (config["server"]["port"], config["server"]["admin_port"])
        return start_gateway(file, folder, ports, _SECRET, remove)
