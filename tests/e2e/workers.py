"""One gateway of several workers before simulated engines, and what is seen of each worker from outside.

Floor: tests only. To operators and clients it is a `Fleet`; who of the workers does what is told by `/admin/state`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import psutil

from benchmarks.engine.launch import start_engine
from tests.e2e.fleet import ENGINE, Fleet
from tests.e2e.front import chat, held, start_gateway, until
from tests.e2e.stack import ENGINE_MODEL
from tests.servers import free_port, temporary_folder

SECRET = "an example secret for the end-to-end suite"
PLENTY = 60
"""Connections that reach each of four workers but once in ten million times: the kernel deals them out by chance."""


@dataclass
class Crew(Fleet):
    """The supervisor is `gateway.process`."""

    workers: int = 2
    server: Mapping[str, Any] = field(default_factory=dict)

    def configuration(self, engines: Sequence[int] = (0,), **options: Any) -> dict[str, Any]:
        config = super().configuration(engines, **options)
        config["server"] |= {"workers": self.workers, "shutdown_grace": 60.0, **self.server}
        return config

    async def parts(self) -> dict[int, dict[str, Any]]:
        """Each worker's part in the pool."""
        replica = (await self.state())["replica"]
        return {int(index): part for index, part in replica["workers"].items()}

    async def under_way(self) -> dict[int, int]:
        return {index: int(part["under_way"]) for index, part in (await self.parts()).items()}

    async def pids(self) -> dict[int, int]:
        return {one["worker"]: one["pid"] for one in (await self.whole())["workers"] if one["stage"] == "serving"}

    async def owner(self) -> int:
        """Who decides for the pool, once one does and all others follow."""
        found: list[int] = []

        async def one_leads() -> bool:
            parts = await self.parts()
            found[:] = [index for index, part in parts.items() if part["part"] == "leads"]
            follow = [part for part in parts.values() if part["part"] == "follows"]
            return len(found) == 1 and len(follow) == self.workers - 1

        await until("one worker leads and all others follow", one_leads)
        return found[0]

    async def all_serve(self) -> None:
        async def all_there() -> bool:
            return len(await self.pids()) == self.workers

        await until("all workers serve", all_there)

    async def kill(self, index: int) -> None:
        """As the kernel does where memory is short."""
        os.kill((await self.pids())[index], signal.SIGKILL)

    async def at_rest(self) -> None:
        """Until no worker has anything on its books; fails, naming it, what stays."""
        left: list[str] = []

        async def nothing() -> bool:
            state = await self.state()
            left[:] = held(state)
            left.extend(
                f"worker {index}: {name} {part[name]}"
                for index, part in state["replica"]["workers"].items()
                for name in ("under_way", "seats_of_followers")
                if part[name]
            )
            return not left

        try:
            await until("nothing is left on any worker's books", nothing)
        except AssertionError:
            raise AssertionError(f"left on the books: {left}") from None

    async def folder(self) -> Path:
        """The private one of all its processes."""
        others = (await self.whole())["workers"][0]["replicas"]["replicas"]
        address = str(next(iter(others.values()))["address"])
        return Path(address.removeprefix("unix:")).parent

    def descendants(self) -> list[psutil.Process]:
        """All processes that it has started."""
        return psutil.Process(self.gateway.process.pid).children(recursive=True)


def caller(crew: Crew) -> httpx2.AsyncClient:
    """A client of one's own, for a connection of its own."""
    return crew.client()


async def ask_anew(crew: Crew, requests: int, **fields: Any) -> list[int]:
    """The status of each of so many requests, every one on a connection of its own."""

    async def one() -> int:
        async with caller(crew) as client:
            return (await client.post("/v1/chat/completions", json=chat(**fields))).status_code

    return list(await asyncio.gather(*(one() for _ in range(requests))))


@contextmanager
def running_crew(
    workers: int,
    engines: int = 1,
    sections: Mapping[str, Any] | None = None,
    server: Mapping[str, Any] | None = None,
    **options: Any,
) -> Iterator[Crew]:
    """Starts all of it; it serves nobody yet. `sections`: of the first configuration; `server`: keys of
    that section; `options`: of the engines."""
    with ExitStack() as stack:
        started = tuple(stack.enter_context(start_engine(ENGINE_MODEL, **ENGINE | options)) for _ in range(engines))
        folder, remove = stack.enter_context(temporary_folder("workers"))
        ports, file = (free_port(), free_port()), folder / "promptlane.yaml"
        urls, nobody = tuple(engine.url for engine in started), {"endpoints": [{"name": "nobody", "url": "http://e"}]}
        gateway: Any = None
        crew = Crew(
            urls,
            gateway,
            f"http://127.0.0.1:{ports[1]}",
            file,
            ports,
            engines=started,
            workers=workers,
            server=server or {},
        )
        config = crew.configuration((), tenants={}) | {"pools": {"p": nobody}, **(sections or {})}
        file.write_text(json.dumps(config))
        crew.gateway = start_gateway(file, folder, ports, SECRET, remove)
        stack.callback(crew.gateway.stop)
        yield crew
