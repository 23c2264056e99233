"""uvicorn, guarded: connections of our own, two listeners in one loop.

Floor: an adapter around uvicorn.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import uvicorn

from router.doors import Doors, let_in_the_last
from router.guarded import Guard, GuardedProtocol

_BACKLOG = 2048


class Listener(uvicorn.Server):
    """One of several servers in a process: signals are the process's business, not a server's.

    `listening` is set once connections are accepted. `doors`: sockets from which it accepts beside its own. `last`:
    whether nobody accepts from them after it; `closed` is called when it accepts no more.
    """

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self.doors = Doors(self._serve_too)
        self.last = False
        self.closed: Callable[[], None] = lambda: None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    async def _serve_too(self, listening: socket.socket) -> asyncio.AbstractServer:
        config, state = self.config, self.server_state

        def protocol() -> asyncio.Protocol:
            made = config.http_protocol_class(config=config, server_state=state, app_state=self.lifespan.state)  # type: ignore[call-arg]
            assert isinstance(made, asyncio.Protocol)  # noqa: S101  # uvicorn's type is any callable
            return made

        loop = asyncio.get_running_loop()
        return await loop.create_server(protocol, sock=listening, ssl=config.ssl, backlog=config.backlog)

    def let_go(self) -> None:
        """From now on every answer is its connection's last one, and says so: clients and balancers that keep
        connections are elsewhere before the listener closes, and none meets a connection that closes as it asks."""
        guard: Any = self.config.http_protocol_class  # uvicorn takes whatever makes a protocol
        if not isinstance(guard, Guard):
            return
        guard.let_go = True  # it is this listener's alone
        for connection in self.server_state.connections:
            assert isinstance(connection, GuardedProtocol)  # noqa: S101  # made by the guard
            connection.end_after_answers()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's, once nobody is left behind in the kernel's queues."""
        if self.last:
            await let_in_the_last([*(sockets or ()), *self.doors.sockets])
        self.doors.close()
        self.closed()
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def guarded_protocol(header_timeout: float, max_header_bytes: int) -> Any:
    """What makes connections, within bounds (seconds and bytes), for `listener(http=...)`. One for each listener."""
    return Guard(header_timeout, max_header_bytes)


def open_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A listening socket; `shared`: others of this user may listen there too, and the kernel deals connections out.
    Raises OSError when the address is taken or not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=_BACKLOG, reuse_port=shared)
    listening.setblocking(False)
    return listening


def listener(app: Any, **settings: Any) -> Listener:
    """A uvicorn server with what all of ours have in common. Raises OSError for a certificate that cannot be used."""
    config = uvicorn.Config(
        app,
        http=settings.pop("http", "httptools"),
        loop="none",
        ws="none",
        lifespan="off",
        proxy_headers=False,  # forwarded headers are believed per configured proxy, in `router.origin`
        server_header=False,
        date_header=False,
        access_log=False,
        log_config=None,
        **settings,
    )
    config.load()
    return Listener(config)


class QuietAbort(logging.Filter):
    """Drops uvicorn's complaint about answers left unfinished: breaking off is how a broken answer is told."""

    def filter(self, record: logging.LogRecord) -> bool:
        return "without completing response" not in record.getMessage()
