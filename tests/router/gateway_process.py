"""The real command in a process of its own, and recording engines for it: for tests of start, signals and reloads."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import yaml

from tests.router.stack import RecordingEngine, read_answer, sha256
from tests.servers import Server, launch

ROOT = Path(__file__).resolve().parents[2]
SECRET = "a secret for tests, 32 characters"
START_SECONDS = 90.0
"""A gateway is up in about a second; a busy machine gets ninety times that."""
WAIT_SECONDS = 60.0
READY = re.compile(r"promptlane ready: tenants (https?)://[^:]+:(\d+), operators http://[^:]+:(\d+)")
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class HeldEngine(RecordingEngine):
    """Begins a stream with one event, and ends it with another when `release` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.release = asyncio.Event()
        self.tls: ssl.SSLContext | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def held(self, _: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + b"d\r\ndata: first\n\n\r\n")
        await writer.drain()
        self.began.set()
        await self.release.wait()
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")


class Engines:
    """Engines on a loop in a thread."""

    def __init__(self, *names: str, tls: ssl.SSLContext | None = None) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.by_name = {name: self.run(self._engine(tls)) for name in names}

    def __getitem__(self, name: str) -> HeldEngine:
        return self.by_name[name]

    def run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_SECONDS)

    def url(self, name: str, scheme: str = "http") -> str:
        return f"{scheme}://localhost:{self[name].port}"

    def reset(self) -> None:
        async def work() -> None:
            for engine in self.by_name.values():
                engine.received.clear()
                engine.reply = engine.answer
                engine.release, engine.began, engine.client_left = asyncio.Event(), asyncio.Event(), asyncio.Event()

        self.run(work())

    def release(self, name: str) -> None:
        self.loop.call_soon_threadsafe(self[name].release.set)

    def stop(self) -> None:
        for engine in self.by_name.values():
            self.run(engine.stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    async def _engine(self, tls: ssl.SSLContext | None) -> HeldEngine:
        engine = HeldEngine()
        engine.tls = tls
        await engine.start()
        return engine


class Gateway:
    """`promptlane serve` with the configuration file of its folder. Ports are 0 and read from the ready line."""

    def __init__(self, folder: Path, config: dict[str, Any] | Path, **environment: str) -> None:
        self.folder = folder
        self.file = config if isinstance(config, Path) else folder / "promptlane.yaml"
        if not isinstance(config, Path):
            self.write(config)
        ours = ("PROMPTLANE_", "PROMPT_TOKEN_", "ENABLE_KV_")
        env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        argv = [sys.executable, "-m", "router.cli", "serve", "--config", str(self.file)]
        env |= {"PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)), **environment}
        self.process, self.log = launch("gateway", argv, folder, env=env, cwd=folder)
        self.server = Server("gateway", "", self.process, self.log)
        self.port = self.admin_port = 0

    def write(self, config: dict[str, Any] | str) -> None:
        self.file.write_text(config if isinstance(config, str) else yaml.safe_dump(config))

    def wait_ready(self) -> Gateway:
        self.server.start(lambda: READY.search(self.output) is not None, START_SECONDS)
        found = READY.search(self.output)
        assert found is not None
        self.port, self.admin_port = int(found[2]), int(found[3])
        return self

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def ended(self) -> int:
        """The exit status, once it has ended by itself."""
        return self.process.wait(WAIT_SECONDS)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        self.server.name = f"gateway ({what})"
        self.server.wait_until(condition, WAIT_SECONDS)

    # -- operators

    def admin(self, path: str, method: str = "GET", order: Any = None) -> httpx2.Response:
        """`order`: a body, sent as JSON."""
        url = f"http://127.0.0.1:{self.admin_port}{path}"
        return httpx2.request(method, url, json=order, timeout=WAIT_SECONDS, trust_env=False)

    def endpoints(self) -> dict[str, dict[str, Any]]:
        pools = self.admin("/admin/state").json()["pools"].values()
        return {endpoint["name"]: endpoint for pool in pools for endpoint in pool["endpoints"]}

    def wait_healthy(self, *names: str) -> None:
        def healthy() -> bool:
            found = self.endpoints()
            return all(name in found and found[name]["healthy"] for name in names)

        self.until(healthy, f"{names} healthy")

    # -- tenants

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_SECONDS)

    def post(self, body: Any, key: str = "acme-key", **headers: str) -> tuple[int, dict[str, str], Any]:
        with self.connect() as sock:
            sock.sendall(request(body, key, **headers))
            status, found, data = read_answer(sock)
        with contextlib.suppress(ValueError):
            return status, found, json.loads(data)
        return status, found, data

    @contextlib.contextmanager
    def stream(self, engines: Engines, name: str, body: Any, key: str = "acme-key") -> Iterator[socket.socket]:
        """A stream whose first event has arrived, and whose last one waits for `engines.release(name)`."""
        engines[name].reply = engines[name].held
        with self.connect() as sock:
            sock.sendall(request(body, key))
            data = b""
            while b"data: first" not in data:
                piece = sock.recv(65536)
                assert piece, data
                data += piece
            yield sock

    def stop(self) -> None:
        self.server.stop()


def request(body: Any, key: str = "acme-key", **headers: str) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"host": "gateway", "authorization": f"Bearer {key}", "content-length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + data


def rest(sock: socket.socket) -> bytes:
    """Everything that still comes, up to the end of the connection or of the chunked body."""
    data = b""
    end = time.monotonic() + WAIT_SECONDS
    while not data.endswith(b"0\r\n\r\n") and time.monotonic() < end:
        try:
            piece = sock.recv(65536)
        except ConnectionResetError:
            break
        if not piece:
            break
        data += piece
    return data


def configuration(engines: dict[str, str], **server: Any) -> dict[str, Any]:
    """acme with a pool of all these engines, and as many limits as the tests look at."""
    health = {"interval": 0.2, "scrape_interval": 0.2}
    endpoints = [{"name": name, "url": url} for name, url in engines.items()]
    return {
        "server": {"port": 0, "admin_port": 0, "base_domain": "llm.test", **server},
        "tenants": {
            "acme": {
                "api_keys": [{"id": "main", "sha256": sha256("acme-key")}],
                "limits": {"requests_per_minute": 50},
                "models": {"qwen": {"pool": "acme", "engine_model": "tiny"}},
            }
        },
        "pools": {"acme": {"endpoints": endpoints, "health": health}},
    }
