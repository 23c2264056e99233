"""The processes that are broken: one life of a replica after the other, and a Redis that comes back.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path

import redis

from tests.chaos.replicas.faults import Kind
from tests.chaos.replicas.network import Place
from tests.chaos.replicas.trail import Carried, Part, read
from tests.servers import Server, free_port, launch, redis_binary


@dataclass
class Spell:
    """A fault as it was. Loop seconds; `ended`: when it was undone."""

    kind: Kind
    began: float
    ended: float = float("inf")

    def overlaps(self, began: float, ended: float) -> bool:
        return self.began <= ended and began <= self.ended


@dataclass
class Life:
    """One process of a replica, from its start to its end. `ready`: as its balancer sees it."""

    replica: str
    number: int
    server: Server
    admin_url: str
    trail: Path
    spells: list[Spell] = field(default_factory=list)
    ready: bool = True
    out: asyncio.Event = field(default_factory=asyncio.Event)
    launched_at: float = 0.0
    ending: asyncio.Task[int] | None = None
    ended_at: float = float("inf")
    me: str = ""
    part: dict[str, Part] = field(default_factory=dict)
    trodden: list[Part | Carried] = field(default_factory=list)
    _read: int = 0

    @property
    def name(self) -> str:
        return f"{self.replica}.{self.number}"

    @property
    def alive(self) -> bool:
        return self.server.process.poll() is None

    @property
    def struck(self) -> bool:
        """Whether a fault lasts."""
        return any(spell.ended == float("inf") for spell in self.spells)

    def follow(self) -> None:
        """Reads its trail as far as it goes."""
        with contextlib.suppress(FileNotFoundError), self.trail.open("rb") as file:
            file.seek(self._read)
            whole, _, _ = file.read().rpartition(b"\n")
            if not whole:
                return
            self._read += len(whole) + 1
            found = read(whole.decode().split("\n"))
            self.trodden += found
            self.me = found[-1].me
            self.part |= {one.pool: one for one in found if isinstance(one, Part)}

    def signal(self, number: signal.Signals) -> None:
        self.server.process.send_signal(number)


class Redis:
    """At one address: killed, stopped, woken, started anew, with what it had on its disk or without."""

    def __init__(self, place: Place, folder: Path) -> None:
        self._place, self._folder, self._port = place, folder, free_port()
        self._server: Server | None = None
        self.spells: list[Spell] = []

    @property
    def url(self) -> str:
        return f"redis://{self._place.address}:{self._port}/0"

    @property
    def pid(self) -> int:
        assert self._server is not None
        return self._server.process.pid

    def start(self, *, empty: bool = False) -> None:
        data = self._folder / "redis-data"
        if empty:
            shutil.rmtree(data)
        data.mkdir(exist_ok=True)
        argv = [*self._place.prefix, redis_binary(), "--bind", self._place.address, "--port", str(self._port)]
        argv += ["--dir", str(data), "--save", "", "--appendonly", "yes", "--protected-mode", "no"]
        process, log = launch("redis", argv, self._folder)
        self._server = Server("redis", self.url, process, log)
        self._server.start(self._answers, 20.0)

    def signal(self, number: signal.Signals) -> None:
        assert self._server is not None
        self._server.process.send_signal(number)
        if number is signal.SIGKILL:
            self._server.process.wait(60.0)

    def stop(self) -> None:
        if self._server is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            self._server.stop()

    def _answers(self) -> bool:
        try:
            with redis.Redis.from_url(self.url, socket_timeout=1.0) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False
