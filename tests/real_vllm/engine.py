"""A real vLLM server that can be broken, paused and put to sleep, and comes back at the same address.

Floor: tests only. What the server itself does not do on a CPU is to give its memory free: its worker ignores that it is
to sleep. Scheduling stops all the same, requests hang, and its figures say that it sleeps.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import httpx2

from tests.real_vllm.servers import launch_vllm, wait_healthy
from tests.servers import Server, free_port

ENVIRONMENT = {"VLLM_SERVER_DEV_MODE": "1"}
"""With it come /sleep and /pause. `--enable-sleep-mode`, which GPUs need beside it, is refused on a CPU."""
CALL_SECONDS = 60.0


class RealEngine:
    """`launch` it, `wait` until it is well, break it; `launch` it again; `stop` it at the end."""

    def __init__(self) -> None:
        self._port = free_port()
        self._server: Server | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> tuple[str, int]:
        return "127.0.0.1", self._port

    @property
    def alive(self) -> bool:
        return self._server is not None and self._server.process.poll() is None

    def launch(self) -> None:
        """Returns at once; whatever is left of an earlier process ends first."""
        self.stop()
        self._server = launch_vllm(self._port, env=ENVIRONMENT)

    def wait(self) -> None:
        assert self._server is not None
        wait_healthy(self._server)

    def stop(self) -> None:
        if self._server is not None:
            self.signal(signal.SIGCONT)
            self._server.stop()

    def signal(self, number: signal.Signals) -> None:
        """To all of its processes."""
        if self.alive and self._server is not None:
            os.killpg(self._server.process.pid, number)

    async def order(self, path: str) -> dict[str, Any]:
        """A POST that must be answered with 200: /sleep, /wake_up, /pause, /resume."""
        async with self._client() as http:
            answer = await http.post(path)
        assert answer.status_code == 200, answer.text
        said: dict[str, Any] = answer.json()
        return said

    async def says(self, path: str) -> Any:
        """What it answers to a GET with 200: JSON, or nothing (/health)."""
        async with self._client() as http:
            answer = await http.get(path)
        assert answer.status_code == 200, answer.text
        return answer.json() if answer.content else None

    async def figures(self, *names: str) -> list[float]:
        """The sums of these families of its metrics now."""
        async with self._client() as http:
            page = (await http.get("/metrics")).text
        return [
            sum(float(value) for value in re.findall(rf"^vllm:{name}{{.*}} (\S+)$", page, re.MULTILINE))
            for name in names
        ]

    def _client(self) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(base_url=self.url, timeout=CALL_SECONDS, trust_env=False, verify=False)
