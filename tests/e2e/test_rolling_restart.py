"""Two gateways behind HAProxy are restarted one after the other, under load: nobody notices."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from benchmarks.engine.launch import start_engine
from tests.e2e.front import HEALTH, MODEL, key, start_gateway
from tests.e2e.load import under_load
from tests.e2e.replicas import SECRET
from tests.e2e.stack import ENGINE_MODEL, poll
from tests.router.coordination.servers import redis_process
from tests.servers import Server, ServerFailed, free_port, launch, temporary_folder

DOMAIN = "llm.example.com"
TENANTS = ("acme", "globex")
# Nothing is tried again at the other gateway: what saves requests is to be the gateways' own doing.
BALANCER = """
defaults
    mode http
    retries 0
    timeout connect 5s
    timeout client 90s
    timeout server 90s
frontend tenants
    bind 127.0.0.1:{port}
    http-request deny deny_status 404 unless {{ req.hdr(host),field(1,:) -m end .{domain} }}
    default_backend gateways
backend gateways
    balance roundrobin
    option httpchk
    http-check send meth GET uri /readyz
    http-check expect status 200
    default-server check inter 100ms fall 1 rise 1
"""


@dataclass
class Gateway:
    """One of the two. `server` is another one after each restart."""

    file: Path
    folder: Path
    ports: tuple[int, int]
    server: Server

    def restart(self) -> None:
        """As an orchestrator does it: it is told to end, ends, and is started again."""
        self.server.process.send_signal(signal.SIGTERM)
        assert self.server.process.wait(60.0) == 0, self.server.log_tail()
        self.server = start_gateway(self.file, self.folder, self.ports, SECRET, lambda: None)


def haproxy() -> str:
    found = shutil.which("haproxy") or next(filter(os.path.exists, ["/usr/sbin/haproxy"]), None)
    if found is None:
        if os.environ.get("CI_NEEDS_HAPROXY"):
            raise ServerFailed("CI has no haproxy")
        pytest.skip("haproxy is not on PATH (apt-get install haproxy)")
    return found


def configuration(ports: tuple[int, int], engines: list[str], redis: str) -> dict[str, Any]:
    return {
        "server": {
            "port": ports[0], "admin_port": ports[1], "base_domain": DOMAIN, "shutdown_delay": 1.5,
            "shutdown_grace": 30.0,
        },
        "state": {"redis_url": redis},
        "replicas": {"listen": "tcp://127.0.0.1:0"},
        "tenants": {
            name: {
                "api_keys": [{"id": "app", "sha256": hashlib.sha256(key(name).encode()).hexdigest()}],
                "models": {MODEL: {"pool": name, "engine_model": ENGINE_MODEL}},
            }
            for name in TENANTS
        },
        "pools": {
            name: {"health": HEALTH, "endpoints": [{"name": f"{name}-0", "url": url}]}
            for name, url in zip(TENANTS, engines, strict=True)
        },
    }  # fmt: skip


@contextmanager
def two_gateways() -> Iterator[tuple[str, list[Gateway]]]:
    """The balancer's URL, and the gateways behind it."""
    binary = haproxy()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_process())
        engines = [stack.enter_context(start_engine(ENGINE_MODEL, decode_step_seconds=0.01)).url for _ in TENANTS]
        gateways = []
        for _ in range(2):
            folder, remove = stack.enter_context(temporary_folder("gateway"))
            stack.callback(remove)
            file, ports = folder / "promptlane.yaml", (free_port(), free_port())
            file.write_text(json.dumps(configuration(ports, engines, redis.url)))
            gateways.append(Gateway(file, folder, ports, start_gateway(file, folder, ports, SECRET, lambda: None)))
            stack.callback(lambda one: one.server.stop(), gateways[-1])
        folder, remove = stack.enter_context(temporary_folder("haproxy"))
        stack.callback(remove)
        port, file = free_port(), folder / "haproxy.cfg"
        lines = [f"    server g{n} 127.0.0.1:{one.ports[0]} port {one.ports[1]}\n" for n, one in enumerate(gateways)]
        file.write_text(BALANCER.format(port=port, domain=DOMAIN) + "".join(lines))
        process, log = launch("haproxy", [binary, "-db", "-f", str(file)], folder)
        balancer = Server("haproxy", f"http://127.0.0.1:{port}", process, log)
        stack.callback(balancer.stop)
        balancer.start(lambda: _answers(balancer.url), 60.0)
        yield balancer.url, gateways


def _answers(url: str) -> bool:
    headers = {"host": f"acme.{DOMAIN}", "authorization": f"Bearer {key('acme')}"}
    try:
        return httpx2.get(f"{url}/v1/models", headers=headers, timeout=5.0, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


def requests(gateway: Gateway) -> float:
    """What it has answered since it was started."""
    text = httpx2.get(f"http://127.0.0.1:{gateway.ports[1]}/metrics", timeout=60.0, trust_env=False).text
    lines = [line for line in text.splitlines() if line.startswith("promptlane_requests_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


async def test_both_gateways_are_restarted_one_after_the_other_and_no_request_fails() -> None:
    with two_gateways() as (url, gateways):
        other = httpx2.get(f"{url}/v1/models", headers={"host": "other.example.com"}, timeout=60.0, trust_env=False)
        assert other.status_code == 404, "the balancer takes hosts of the wildcard only"
        async with under_load(url, TENANTS, domain=DOMAIN) as load:
            await load.more(40)
            for gateway in (*gateways, gateways[0]):
                before = gateway.server.process.pid
                await asyncio.to_thread(gateway.restart)
                assert gateway.server.process.pid != before
                await load.more(20)
                await asyncio.to_thread(poll, "it serves again", lambda one=gateway: requests(one) > 10)
        assert load.failures == []
        assert all(load.answered[f"{name} {kind}"] > 0 for name in TENANTS for kind in ("stream", "whole"))


def test_the_balancers_configuration_is_good(tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(BALANCER.format(port=free_port(), domain=DOMAIN) + "    server g0 127.0.0.1:1 port 2\n")
    checked = subprocess.run([haproxy(), "-c", "-f", str(file)], capture_output=True, text=True, timeout=60.0)
    assert checked.returncode == 0, checked.stdout + checked.stderr
