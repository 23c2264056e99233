"""Sockets of one engine: the main port, which a fault may close, and a control port, which always listens.

Floor: the only room that binds ports. uvicorn's protocol speaks HTTP; its `Server` is not used, as a port must be
closed and opened again while requests are under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator
from email.utils import formatdate
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from benchmarks.engine.app import EngineApp
from benchmarks.engine.config import EngineConfig

BACKLOG = 4_096
"""Connections that may wait to be accepted: a load test opens thousands at once."""
DATE_SECONDS = 1.0
GRACE_SECONDS = 0.3
"""For answers that end with `abort` to get out before the sockets close."""


class EngineProtocol(HttpToolsProtocol):
    """uvicorn's, and the request knows its connection, so that a fault can cut it before the first byte."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport


class Port:
    """One listening address. Closed, it keeps the number: a bound socket that does not listen refuses connections."""

    def __init__(self, config: uvicorn.Config, host: str, port: int, state: dict[str, Any]) -> None:
        self._config = config
        self._state = state
        self.connections = ServerState()
        self._reserved: socket.socket | None = self._bind(host, port)
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self.address: tuple[str, int] = self._reserved.getsockname()[:2]

    @staticmethod
    def _bind(host: str, port: int) -> socket.socket:
        bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
        except OSError:
            bound.close()
            raise
        return bound

    @property
    def url(self) -> str:
        host = f"[{self.address[0]}]" if ":" in self.address[0] else self.address[0]
        return f"http://{host}:{self.address[1]}"

    @property
    def listening(self) -> bool:
        return self._server is not None

    def listen(self) -> None:
        """From here on nothing is refused; what connects waits until `open` accepts it."""
        if self._reserved is not None:
            self._reserved.listen(BACKLOG)

    async def open(self) -> None:
        if self._reserved is None:
            return
        reserved, self._reserved = self._reserved, None
        self._listener = reserved
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, sock=reserved, backlog=BACKLOG)

    def _protocol(self) -> EngineProtocol:
        return EngineProtocol(config=self._config, server_state=self.connections, app_state=dict(self._state))

    def refuse(self) -> None:
        """Stop listening at once; drop what is connected in the loop's next turn, so that the order gets its answer."""
        if self._server is not None and self._listener is not None:
            # At once: a loop may close its server's socket only in its next turn, and accept until then.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._server.close()
            self._server = None
            self._reserved = self._bind(*self.address)
        asyncio.get_running_loop().call_soon(self._drop)

    def _drop(self) -> None:
        for connection in list(self.connections.connections):
            cycle = getattr(connection, "cycle", None)
            complete = cycle is None or cycle.response_complete
            (connection.transport.close if complete else connection.transport.abort)()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._reserved is not None:
            self._reserved.close()
        for connection in list(self.connections.connections):
            connection.transport.close()

    def tick(self, headers: list[tuple[bytes, bytes]]) -> None:
        self.connections.default_headers = headers


class EngineServer:
    """One engine with its ports. `start`, then `stop`; both on the same event loop."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self.app = EngineApp(config, self._refuse, self._accept)
        http = uvicorn.Config(
            self.app,
            http=EngineProtocol,
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            timeout_keep_alive=int(config.keep_alive_seconds),
        )
        http.load()
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        self._headers = http.encoded_headers
        self.main = Port(http, config.host, config.port, {"control": False})
        control = config.control_port
        self.control = None if control is None else Port(http, config.host, control, {"control": True})
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def ports(self) -> list[Port]:
        return [self.main] if self.control is None else [self.main, self.control]

    async def start(self) -> None:
        self._tick()
        for port in self.ports:
            await port.open()
        self._tasks = [
            asyncio.create_task(self.app.runtime.run(), name="engine steps"),
            asyncio.create_task(self._keep_date(), name="engine date"),
        ]

    async def stop(self) -> None:
        """Running answers end with `abort`, as a terminated vLLM ends them; then everything is closed."""
        self.app.runtime.abort_all()
        requests = [task for port in self.ports for task in port.connections.tasks]
        if requests:
            await asyncio.wait(requests, timeout=GRACE_SECONDS)
        for port in self.ports:
            port.close()
        left = [task for task in requests if not task.done()]
        for task in [*left, *self._tasks]:
            task.cancel()
        await asyncio.gather(*left, *self._tasks, return_exceptions=True)

    def _refuse(self) -> None:
        self.main.refuse()

    def _accept(self) -> None:
        if not self.main.listening:
            self.main.listen()
            self._tasks.append(asyncio.create_task(self.main.open(), name="engine port"))

    def _tick(self) -> None:
        date = (b"date", formatdate(time.time(), usegmt=True).encode())
        for port in self.ports:
            port.tick([date, *self._headers])

    async def _keep_date(self) -> None:
        while True:
            await asyncio.sleep(DATE_SECONDS)
            self._tick()


@contextlib.asynccontextmanager
async def running_server(config: EngineConfig) -> AsyncIterator[EngineServer]:
    server = EngineServer(config)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
