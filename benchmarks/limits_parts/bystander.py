"""A tenant that has nothing to do with it: its engine and its one client, in a process of their own, so that what it
sees is the gateways' doing and not the load generator's. `python -m benchmarks.limits_parts.bystander`

On standard output: the engine's port, then one line of JSON for each line `URL SECONDS` that comes.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from benchmarks.limits_parts.clients import watch
from benchmarks.limits_parts.engine import CountingEngine, listening

OTHER = "other"


class Bystander:
    """The process, as the benchmark sees it."""

    def __init__(self, process: Process, port: int) -> None:
        self.port = port
        self._process = process

    async def watch(self, url: str, seconds: float) -> list[tuple[float, float]]:
        """Of each answer when it was asked for, since the beginning, and how long it took; seconds."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{url} {seconds}\n".encode())
        return [(at, took) for at, took in json.loads(await _line(self._process))]


@asynccontextmanager
async def bystander(engine_seconds: float) -> AsyncIterator[Bystander]:
    command = [sys.executable, "-m", __name__, str(engine_seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=2**24)
    try:
        yield Bystander(process, int(await _line(process)))
    finally:
        process.kill()
        await process.wait()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()


async def _serve(engine_seconds: float) -> None:
    async with listening(CountingEngine(engine_seconds)) as engine:
        print(engine.port, flush=True)
        while order := await asyncio.to_thread(sys.stdin.readline):
            url, seconds = order.split()
            print(json.dumps(await watch(url, OTHER, time.monotonic() + float(seconds))), flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(float(sys.argv[1])))
