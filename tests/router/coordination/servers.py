"""Real Redis servers of every kind that the store can speak to. Floor: tests only."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path

import redis

from tests.servers import (
    POLL_SECONDS,
    Server,
    ServerFailed,
    free_cluster_port,
    free_port,
    launch,
    redis_binary,
    temporary_folder,
)

PLAIN = ("--save", "", "--appendonly", "no", "--bind", "127.0.0.1")


def knows_tls() -> bool:
    """Whether the server was built with TLS: otherwise it does not know the setting."""
    asked = subprocess.run(
        [redis_binary(), "--port", "0", "--tls-port", "x"], capture_output=True, text=True, timeout=10
    )
    return "argument" not in (asked.stdout + asked.stderr) or "couldn't be parsed" in (asked.stdout + asked.stderr)


class RedisProcess:
    """A Redis on a port that it keeps: killed, stopped, woken and started again, empty each time."""

    def __init__(self, folder: Path, *arguments: str, port: int | None = None, sentinel: bool = False) -> None:
        self.port = port or free_port()
        self._folder, self._arguments, self._sentinel = folder, arguments, sentinel
        self._server: Server | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        return redis.Redis(port=self.port, socket_timeout=5.0)

    def start(self) -> None:
        argv = [redis_binary(), *self._arguments, "--port", str(self.port), "--dir", str(self._folder)]
        argv += [] if self._sentinel else list(PLAIN)
        process, log = launch(f"redis-{self.port}", argv, self._folder)
        self._server = Server("redis", self.url, process, log)
        self._server.start(self._answers, 20.0)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        assert self._server is not None
        self._server.process.wait(60.0)

    def pause(self) -> None:
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                self.go_on()
            self._server.stop()

    def _signal(self, which: signal.Signals) -> None:
        assert self._server is not None
        self._server.process.send_signal(which)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1.0) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(64)[:1] in (b"+", b"-")
        except OSError:
            return False


@contextlib.contextmanager
def redis_process(
    *arguments: str, files: Sequence[tuple[str, str]] = (), port: int | None = None
) -> Iterator[RedisProcess]:
    with temporary_folder("redis") as (folder, remove):
        for name, text in files:
            (folder / name).write_text(text)
        process = RedisProcess(folder, *arguments, port=port)
        try:
            yield process
        finally:
            process.stop()
            remove()


@contextlib.contextmanager
def cluster_of_one() -> Iterator[RedisProcess]:
    """A cluster whose only node has all slots. It takes the port that is 10,000 above its own, too."""
    with redis_process("--cluster-enabled", "yes", port=free_cluster_port()) as process:
        with process.client() as client:
            client.execute_command("CLUSTER", "ADDSLOTS", *range(16384))
            _until(lambda: b"cluster_state:ok" in _raw(client.execute_command("CLUSTER", "INFO")))
        yield process


def _raw(answer: object) -> bytes:
    if isinstance(answer, dict):
        return "\n".join(f"{key}:{value}" for key, value in answer.items()).encode()
    return answer if isinstance(answer, bytes) else str(answer).encode()


@contextlib.contextmanager
def with_sentinel() -> Iterator[tuple[RedisProcess, RedisProcess, RedisProcess]]:
    """A master, its replica and the sentinel that watches them as `service`."""
    with redis_process() as master, redis_process("--replicaof", "127.0.0.1", str(master.port)) as replica:
        watch = f"sentinel monitor service 127.0.0.1 {master.port} 1\n"
        watch += "sentinel down-after-milliseconds service 500\nsentinel failover-timeout service 3000\n"
        with temporary_folder("sentinel") as (folder, remove):
            configuration = folder / "sentinel.conf"
            configuration.write_text(watch)
            sentinel = RedisProcess(folder, str(configuration), "--sentinel", sentinel=True)
            try:
                with sentinel.client() as client, replica.client() as other:
                    _until(lambda: client.sentinel_slaves("service") and _linked(other))
                yield master, replica, sentinel
            finally:
                sentinel.stop()
                remove()


def _linked(client: redis.Redis) -> bool:
    return client.info("replication").get("master_link_status") == "up"


def _until(ready: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not ready():
        if time.monotonic() > end:
            raise ServerFailed("the servers did not find each other within 30 s")
        time.sleep(POLL_SECONDS)


@contextlib.asynccontextmanager
async def before_tls(port: int, context: ssl.SSLContext) -> AsyncIterator[int]:
    """The port of what speaks TLS to its clients and passes the bytes on to a plain server, as stunnel does."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]
