"""Three tenants, three engines and one gateway: real processes, real sockets, one configuration file.

Floor: tests only. What is an engine here is decided by the caller: simulated ones, or real vLLM servers on the CPU.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from benchmarks.engine.launch import start_engine
from tests.e2e.tap import Tap
from tests.real_vllm.servers import launch_vllm, wait_healthy
from tests.servers import POLL_SECONDS, Server, ServerFailed, free_port, launch, temporary_folder

ROOT = Path(__file__).resolve().parents[2]
ENGINE_MODEL = "tiny"
ALIAS = "qwen2-7b"
ACME_HOST = "acme.llm.example.com"
ACME_OWN_HOST = "llm.acme.example"
GLOBEX_HOST = "globex.llm.example.com"
ACME_KEY = "pl-acme-e2e-key"
ACME_EXPIRED_KEY = "pl-acme-e2e-expired-key"
GLOBEX_KEY = "pl-globex-e2e-key"
INITECH_KEY = "pl-initech-e2e-key"
GLOBEX_ONLY_MODEL = "globex-private-model"
POOLS = {"acme-qwen": ("acme-0", "acme-1"), "globex-qwen": ("globex-0",), "initech-tapped": ("initech-0",)}
TAPPED, TAPPED_ENGINE = "initech-0", "acme-0"
"""initech's endpoint is a wire tap before one of the other engines, for looking at the very bytes that were sent."""

START_SECONDS = 90.0
"""A process of ours starts in about a second; two noisy cores get ninety times that."""
SETTLE_SECONDS = 60.0
"""Within this a freed slot is seen free: an engine frees it in 10-30 ms, a busy machine takes longer to look."""
MAX_BODY_BYTES = 1024 * 1024


def configuration(ports: tuple[int, int], engines: Mapping[str, str]) -> dict[str, Any]:
    """The contract file's shape, with free ports and these engines (endpoint name -> URL)."""
    return {
        "server": {
            "host": "127.0.0.1",
            "port": ports[0],
            "admin_port": ports[1],
            "base_domain": "llm.example.com",
            "routing_headers": True,
            "max_body_bytes": MAX_BODY_BYTES,
        },
        "tenants": {
            "acme": {
                "tier": "platinum",
                "hosts": [ACME_OWN_HOST],
                "api_keys": [
                    {"id": "app", "sha256": _sha256(ACME_KEY)},
                    {"id": "old", "sha256": _sha256(ACME_EXPIRED_KEY), "expires": "2020-01-01"},
                ],
                "models": {
                    ALIAS: {"pool": "acme-qwen", "engine_model": ENGINE_MODEL},
                    ENGINE_MODEL: {"pool": "acme-qwen", "engine_model": ENGINE_MODEL},
                },
            },
            "globex": {
                "tier": "silver",
                "anonymous": True,
                "api_keys": [{"id": "app", "sha256": _sha256(GLOBEX_KEY)}],
                "models": {GLOBEX_ONLY_MODEL: {"pool": "globex-qwen", "engine_model": ENGINE_MODEL}},
            },
            "initech": {
                "api_keys": [{"id": "app", "sha256": _sha256(INITECH_KEY)}],
                "models": {
                    ALIAS: {"pool": "initech-tapped", "engine_model": ENGINE_MODEL},
                    ENGINE_MODEL: {"pool": "initech-tapped", "engine_model": ENGINE_MODEL},
                },
            },
        },
        "pools": {
            pool: {"endpoints": [{"name": name, "url": engines[name], "role": "hot"} for name in names]}
            for pool, names in POOLS.items()
        },
    }


def _sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def poll(what: str, condition: Callable[[], bool], seconds: float = SETTLE_SECONDS) -> None:
    """Returns once `condition` holds; fails, naming `what`, when it does not within `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} s: {what}"
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Stack:
    """The running product. `engines`: endpoint name -> the engine's own URL, for looking behind the gateway."""

    kind: str
    url: str
    admin_url: str
    engines: Mapping[str, str]
    gateway: Server
    tap: Tap

    def client(self, key: str | None = ACME_KEY, host: str | None = None) -> httpx2.Client:
        """A plain HTTP client of the data plane; `host` overrides the Host header."""
        headers = {"authorization": f"Bearer {key}"} if key else {}
        if host:
            headers["host"] = host
        return httpx2.Client(base_url=self.url, headers=headers, timeout=60.0, trust_env=False)

    def state(self) -> dict[str, Any]:
        answer = httpx2.get(f"{self.admin_url}/admin/state", timeout=60.0, trust_env=False)
        answer.raise_for_status()
        state: dict[str, Any] = answer.json()
        return state

    def endpoints(self) -> dict[str, dict[str, Any]]:
        """Endpoint name -> its live state, over all pools."""
        pools = self.state()["pools"].values()
        return {endpoint["name"]: endpoint for pool in pools for endpoint in pool["endpoints"]}

    def metric(self, endpoint: str, name: str) -> float:
        """The sum of one metric family's values as the engine behind `endpoint` reports it now."""
        text = httpx2.get(f"{self.engines[endpoint]}/metrics", timeout=60.0, trust_env=False).text
        values = re.findall(rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$", text, re.MULTILINE)
        assert values, f"{endpoint} reports no {name}"
        return sum(float(value) for value in values)

    def running(self, *endpoints: str) -> float:
        return sum(self.metric(endpoint, "vllm:num_requests_running") for endpoint in endpoints)


@contextmanager
def running_stack(kind: str) -> Iterator[Stack]:
    """Starts engines and gateway, waits until every endpoint is healthy, and ends all of it."""
    with ExitStack() as servers:
        names = [name for endpoints in POOLS.values() for name in endpoints if name != TAPPED]
        engines = dict(zip(names, _start_engines(kind, len(names), servers), strict=True))
        tap = servers.enter_context(Tap(("127.0.0.1", int(engines[TAPPED_ENGINE].rpartition(":")[2]))))
        engines[TAPPED] = tap.url
        ports = (free_port(), free_port())
        gateway = _launch_gateway(ports, engines)
        servers.callback(gateway.stop)
        stack = Stack(kind, gateway.url, f"http://127.0.0.1:{ports[1]}", engines, gateway, tap)
        gateway.start(lambda: _is_ready(stack), START_SECONDS)
        yield stack


def _start_engines(kind: str, count: int, servers: ExitStack) -> list[str]:
    """URLs of that many running engines, which end with `servers`. Real ones start side by side: each takes 20 s."""
    if kind == "sim":
        return [servers.enter_context(start_engine(ENGINE_MODEL)).url for _ in range(count)]
    starting = []
    for _ in range(count):
        starting.append(launch_vllm())
        servers.callback(starting[-1].stop)
    return [wait_healthy(server).url for server in starting]


def _launch_gateway(ports: tuple[int, int], engines: Mapping[str, str]) -> Server:
    with temporary_folder("gateway") as (folder, remove):
        config = folder / "promptlane.yaml"
        config.write_text(yaml.safe_dump(configuration(ports, engines)))
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PROMPTLANE_")}
        env = {**ours, "PROMPTLANE_SECRET": "an example secret for the end-to-end suite"}
        argv = [sys.executable, "-m", "router.cli", "serve", "--config", str(config)]
        process, log = launch("gateway", argv, folder, env=env, cwd=ROOT)
        return Server("gateway", f"http://127.0.0.1:{ports[0]}", process, log, [remove])


def _is_ready(stack: Stack) -> bool:
    try:
        if httpx2.get(f"{stack.admin_url}/readyz", timeout=5.0, trust_env=False).status_code != 200:
            return False
        endpoints = stack.endpoints()
    except httpx2.TransportError:
        return False
    if set(endpoints) != set(stack.engines):
        raise ServerFailed(f"the gateway shows other endpoints than configured: {sorted(endpoints)}")
    return all(endpoint["healthy"] for endpoint in endpoints.values())
