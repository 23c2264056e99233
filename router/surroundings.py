"""Where a gateway process serves: by itself, or (`router.workers.worker`) as one of several that a supervisor keeps.

Floor: beside `router.serve`, whose questions to its surroundings these are: sockets, secret, configuration, signals.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from router.config import Config, ServerConfig, load
from router.process import Worker
from router.secret import load_secret
from router.server import open_socket


class CannotServe(Exception):
    """The process cannot start; the message says why and what to do."""


class Surroundings(Protocol):
    """`worker`: None for a process by itself."""

    worker: Worker | None

    def secret(self) -> bytes:
        """Raises SecretUnavailable."""

    def tenants(self) -> socket.socket:
        """What tenants reach, listening. Raises CannotServe."""

    def operators(self) -> socket.socket | str:
        """What operators reach, listening, or the path of a Unix socket to be. Raises CannotServe."""

    def config(self, said: bytes) -> Config:
        """The configuration of now; `said`: what came with the order to reload. Raises ConfigError."""

    def follow(
        self, stop: Callable[[], None], reload: Callable[[], None], stand: Callable[[Sequence[socket.socket]], None]
    ) -> None:
        """From now on who may tells this process to stop, to reload, or to accept also from these sockets and from no
        others but its own."""

    def begun(self, tenants: socket.socket, operators: socket.socket | str) -> None:
        """It serves."""

    async def relieved(self) -> bool:
        """Returns when this process, which is about to end, need accept no more: whether it is the last to."""

    def closed(self) -> None:
        """It accepts no more."""


class ByItself:
    """One process, which operators talk to by signals and by a port of its own."""

    worker: Worker | None = None

    def __init__(self, path: Path, config: Config) -> None:
        self._path = path
        self._server = config.server

    def secret(self) -> bytes:
        return secret_of(self._server)

    def tenants(self) -> socket.socket:
        return bind(self._server.host, self._server.port, "server.port")

    def operators(self) -> socket.socket:
        return bind(self._server.admin_host, self._server.admin_port, "server.admin_port")

    def config(self, said: bytes) -> Config:
        return load(self._path)

    def follow(
        self, stop: Callable[[], None], reload: Callable[[], None], stand: Callable[[Sequence[socket.socket]], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop)
        loop.add_signal_handler(signal.SIGHUP, reload)

    def begun(self, tenants: socket.socket, operators: socket.socket | str) -> None:
        announce(tenants, operators, tls=self._server.tls is not None)

    async def relieved(self) -> bool:
        return True

    def closed(self) -> None:
        pass


def secret_of(server: ServerConfig) -> bytes:
    """Raises SecretUnavailable."""
    configured = server.secret.get_secret_value() if server.secret is not None else None
    return load_secret(configured, Path(server.secret_file))


def bind(host: str, port: int, key: str, *, shared: bool = False) -> socket.socket:
    """`key`: of the configuration, which says so; `shared`: see `open_socket`. Raises CannotServe."""
    try:
        return open_socket(host, port, shared=shared)
    except OSError as error:
        raise CannotServe(f"{key}: cannot listen on {host}:{port} ({error.strerror})") from None


def announce(tenants: socket.socket, operators: socket.socket | str, *, tls: bool) -> None:
    """The one line on standard output, for people and for whoever waits for it."""
    assert isinstance(operators, socket.socket)  # noqa: S101  # who announces has a port
    scheme = "https" if tls else "http"
    print(f"promptlane ready: tenants {scheme}://{_where(tenants)}, operators http://{_where(operators)}", flush=True)


def _where(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
