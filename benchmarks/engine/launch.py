"""Starting simulated engines from tests, demos and benchmarks: as a process of its own, or on this event loop.

Floor: no engine is left behind. A child has its own process group and ends when its standard input closes, which the
kernel does when the parent dies, however it dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.server import running_server

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
"""A busy machine imports slowly; an engine that is not up by then will not come."""
CALL_SECONDS = 60.0


class Engine:
    """A running engine process. `url` is the main port, `control_url` the one that faults never close."""

    def __init__(self, process: subprocess.Popen[str], url: str, control_url: str) -> None:
        self._process = process
        self.url = url
        self.control_url = control_url
        self.port = int(url.rsplit(":", 1)[1])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self, timeout: float = 5.0) -> None:
        """SIGTERM, then SIGKILL after `timeout` seconds. May be called again."""
        if self.alive:
            self._process.terminate()
            try:
                self._process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()
        self._close()

    def kill(self) -> None:
        """SIGKILL to the whole process group: what a dead host looks like."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._close()

    def freeze(self) -> None:
        """SIGSTOP: connections open, nothing answers, not even /health. `thaw` undoes it."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def fault(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Switch a fault on, or with "none" off."""
        answer: dict[str, Any] = self._call("/fault", {"kind": kind, **fields})
        return answer

    def state(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._call("/debug/state")
        return answer

    def requests(self) -> list[dict[str, Any]]:
        """The inference requests that reached it: method, path, headers (pairs), body (text), at (Unix seconds), began
        and ended (monotonic seconds of this machine; None while it lasts)."""
        answer: list[dict[str, Any]] = self._call("/debug/requests")
        return answer

    def take(self) -> list[dict[str, Any]]:
        """Those of `requests` that have ended, each once. `told`: prompt, cached and completion tokens, where the
        answer has said them; None where it has not."""
        answer: list[dict[str, Any]] = self._call("/debug/take", {})
        return answer

    def clear(self) -> None:
        self._call("/debug/clear", {})

    def _call(self, path: str, body: dict[str, Any] | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.control_url + path, data, {"content-type": "application/json"})  # noqa: S310 our own URL
        with urllib.request.urlopen(request, timeout=CALL_SECONDS) as response:  # noqa: S310 our own URL
            return json.loads(response.read())

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start_engine(model: str = "tiny", **options: Any) -> Engine:
    """Start one and wait until it listens. `options` are `EngineConfig` fields. RuntimeError when it does not start."""
    chosen = {"model": model, "control_port": 0, **options}
    command = [sys.executable, "-m", "benchmarks.engine", "--exit-with-stdin"]
    for name, value in chosen.items():
        if value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True
    )
    timer = threading.Timer(START_SECONDS, process.kill)
    timer.start()
    try:
        return _ready(process)
    finally:
        timer.cancel()


def _ready(process: subprocess.Popen[str]) -> Engine:
    assert process.stdout is not None
    control = ""
    for line in process.stdout:
        if line.startswith("engine control on "):
            control = line.split()[-1]
        if line.startswith("engine ready on "):
            url = line.split()[-1]
            return Engine(process, url, control or url)
    failed = Engine(process, "http://127.0.0.1:0", "")
    failed.kill()
    raise RuntimeError(f"the engine ended with {process.returncode} before it listened")


@contextlib.asynccontextmanager
async def serve_in_process(config: EngineConfig | None = None) -> AsyncIterator[str]:
    """An engine on this event loop; yields its URL."""
    async with running_server(config or EngineConfig()) as server:
        yield server.main.url
