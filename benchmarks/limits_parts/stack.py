"""What is hammered: gateway processes that share one Redis, an engine of its tenants, and another tenant's."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.limits_parts.bystander import OTHER, Bystander, bystander
from benchmarks.limits_parts.engine import MODEL, CountingEngine, key, listening
from tests.e2e.front import start_gateway
from tests.servers import Server, free_port, start_redis, temporary_folder

_SECRET = "an example secret for hammering limits"  # 32 characters at least; nobody's


@dataclass
class Fleet:
    redis: Server
    engine: CountingEngine
    bystander: Bystander
    gateways: list[Server]


@asynccontextmanager
async def fleet(replicas: int, tenants: Mapping[str, Mapping[str, Any]], seconds: float = 0.1) -> AsyncIterator[Fleet]:
    """Starts all of it. `tenants`: their `limits`; `seconds`: how long the engine takes."""
    async with AsyncExitStack() as stack:
        redis = await asyncio.to_thread(start_redis)
        stack.callback(redis.stop)
        engine = await stack.enter_async_context(listening(CountingEngine(seconds)))
        other = await stack.enter_async_context(bystander(seconds))
        gateways = []
        for _ in range(replicas):
            gateway = await asyncio.to_thread(
                _start, configuration(redis.url, (engine.port, other.port), tenants, replicas)
            )
            stack.callback(gateway.stop)
            gateways.append(gateway)
        yield Fleet(redis, engine, other, gateways)


def configuration(
    redis_url: str, engine_ports: tuple[int, int], tenants: Mapping[str, Mapping[str, Any]], replicas: int
) -> dict[str, Any]:
    """A shared pool of one engine for these tenants, and one for the bystander alone."""
    ports = {"port": free_port(), "admin_port": free_port()}
    return {
        "server": {"host": "127.0.0.1", "shutdown_grace": 2, **ports},
        "state": {"redis_url": redis_url, "replicas": replicas},
        "replicas": {"listen": "tcp://127.0.0.1:0"},
        "tenants": {
            name: {
                "api_keys": [{"id": "app", "sha256": hashlib.sha256(key(name).encode()).hexdigest()}],
                "models": {MODEL: {"pool": OTHER if name == OTHER else "hammered"}},
                "limits": dict(limits),
            }
            for name, limits in tenants.items()
        },
        "pools": {"hammered": _pool(engine_ports[0], shared=True), OTHER: _pool(engine_ports[1], shared=False)},
        "lanes": {"short": {"max_waiting": 4096}},
    }


def _pool(engine_port: int, *, shared: bool) -> dict[str, Any]:
    endpoint = {"name": f"e{engine_port}", "url": f"http://127.0.0.1:{engine_port}", "max_in_flight": 4096}
    return {"shared": shared, "endpoints": [endpoint], "health": {"detect_hung": False, "slow_start": 0}}


def _start(config: dict[str, Any]) -> Server:
    with temporary_folder("limits") as (folder, remove):
        file = folder / "promptlane.yaml"
        file.write_text(json.dumps(config))  # YAML holds JSON
        ports = (config["server"]["port"], config["server"]["admin_port"])
        return start_gateway(file, folder, ports, _SECRET, remove)
