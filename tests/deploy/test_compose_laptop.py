"""`docker compose --profile cpu up` without Docker: the same commands and configuration, between other ports."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest
import yaml

from tests.deploy.test_compose import COMPOSE, CONFIG, engines, names
from tests.router.gateway_process import Gateway
from tests.servers import Server, free_port, launch, start_postgres, start_redis

SECONDS = 90.0


@dataclass
class Laptop:
    gateway: Gateway
    engines: dict[str, Server]

    def key(self, tenant: str) -> str:
        """As the README says, inside the container."""
        command = [sys.executable, "-m", "router.cli", "keys", "create", "--config", str(self.gateway.file)]
        done = subprocess.run([*command, "--tenant", tenant], capture_output=True, text=True, cwd=self.gateway.folder)
        assert done.returncode == 0, done.stderr
        return next(word for word in done.stdout.split() if word.startswith("pl-"))

    def ask(self, key: str) -> httpx2.Response:
        body = {"model": "chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        url = f"http://127.0.0.1:{self.gateway.port}/v1/chat/completions"
        headers = {"authorization": f"Bearer {key}"}
        return httpx2.post(url, json=body, headers=headers, timeout=SECONDS, trust_env=False)


def engine(name: str, words: list[str], folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.engine", "--host", "127.0.0.1", "--port", str(port), *words]
    process, log = launch(name, command, folder)
    server = Server(name, f"http://127.0.0.1:{port}", process, log)
    server.start(lambda: "engine ready on" in log.read_text(), SECONDS)
    return server


@pytest.fixture(scope="module")
def laptop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Laptop]:
    folder = tmp_path_factory.mktemp("laptop")
    with contextlib.ExitStack() as stack:
        started: dict[str, Server] = {}
        for service, one in engines("cpu").items():
            server = engine(service, one["command"], folder)
            stack.callback(server.stop)
            started |= dict.fromkeys(names(service, one), server)
        redis, postgres = start_redis(), start_postgres()
        stack.callback(redis.stop)
        stack.callback(postgres.stop)
        said = yaml.safe_load((COMPOSE / "promptlane.yaml").read_text())
        for pool in said["pools"].values():
            for endpoint in pool["endpoints"]:
                endpoint["url"] = started[urlsplit(endpoint["url"]).hostname or ""].url
        said["server"] |= {"port": 0, "admin_port": 0, "admin_host": "localhost", "secret_file": str(folder / "secret")}
        said["state"] |= {"redis_url": redis.url, "ledger_url": postgres.url, "drills_file": str(folder / "drills")}
        said["replicas"] = {"listen": "tcp://127.0.0.1:0"}
        gateway = Gateway(folder, said).wait_ready()
        stack.callback(gateway.stop)
        gateway.wait_healthy(*(endpoint.name for pool in CONFIG.pools.values() for endpoint in pool.endpoints))
        yield Laptop(gateway, started)


@pytest.mark.parametrize("tenant", CONFIG.tenants)
def test_each_tenant_makes_a_key_and_is_answered_by_its_own_engine(laptop: Laptop, tenant: str) -> None:
    key = laptop.key(tenant)
    answers: list[httpx2.Response] = []

    def known() -> bool:  # within two seconds on every gateway that uses the database
        answers.append(laptop.ask(key))
        return answers[-1].status_code != 401

    laptop.gateway.until(known, f"the key of {tenant} known")
    assert answers[-1].status_code == 200, answers[-1].text
    assert answers[-1].headers["x-promptlane-endpoint"] == f"{tenant}-0"
    assert answers[-1].json()["model"] == "chat"


def test_a_standby_that_sleeps_wakes_when_its_gpu_s_neighbour_dies(laptop: Laptop) -> None:
    key = laptop.key("acme")
    laptop.gateway.until(lambda: laptop.ask(key).status_code == 200, "the key known")
    warm = laptop.engines["acme-warm"].url
    assert httpx2.post(f"{warm}/sleep", timeout=60.0, trust_env=False).status_code == 200
    laptop.gateway.until(lambda: laptop.gateway.endpoints()["acme-warm"]["status"] == "sleeping", "asleep")
    laptop.engines["acme-0"].stop()
    answer = laptop.ask(key)
    assert (answer.status_code, answer.headers.get("x-promptlane-endpoint")) == (200, "acme-warm"), answer.text
