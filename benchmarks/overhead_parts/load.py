"""The load generator: `python -m benchmarks.overhead_parts.load`, one JSON command per line in, one JSON result out.

A command is `{"do": NAME, ...}` with the arguments of `hammer`, `count`, `stream` or `compare` below; the result is
what that returns, or `{"error": TEXT}`. It reads the gateway's CPU clock itself, at the very moments between which it
counts answers.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import uvloop

from benchmarks.overhead_parts.answers import BadAnswer
from benchmarks.overhead_parts.clients import Client, Clients
from benchmarks.overhead_parts.measure import cpu_seconds, percentile, rss_bytes, tree
from benchmarks.overhead_parts.readers import OpenStream, PlainAnswer, StreamAnswer
from benchmarks.overhead_parts.traffic import Scenario, endless

_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Target:
    """Where requests go: a port of the loopback, and the headers that every request carries. `keys`: API keys that
    requests carry besides, each in turns; none: the headers are all. `exact`: its answers are the engine's bytes."""

    port: int
    headers: dict[str, str]
    keys: tuple[str, ...] = ()
    exact: bool = True

    def requests(self, scenario: Scenario) -> Iterator[bytes]:
        each = [{**self.headers, "authorization": f"Bearer {key}"} for key in self.keys] or [self.headers]
        return endless(scenario, f"127.0.0.1:{self.port}", each)


@dataclass(frozen=True)
class Usage:
    """What a gateway used while `answers` answers with `chunks` chunks came."""

    answers: int
    chunks: int
    seconds: float
    cpu_seconds: float
    p50_ms: float
    p99_ms: float
    first_byte_p50_ms: float
    rss_mb: float
    reads_per_chunk: float
    """Below 1 when the gateway (or a late load generator) put chunks together; 0 without streams."""


class Meter:
    """CPU and wall time of a process tree from its making on."""

    def __init__(self, roots: list[int]) -> None:
        self._pids = tree(roots)
        self._started, self._used = perf_counter(), cpu_seconds(self._pids)

    def usage(self, times: list[float], first_bytes: list[float], chunks: int = 0, reads: int = 0) -> Usage:
        """What was used until now for answers that took `times` (seconds). Raises BadAnswer when there are none."""
        seconds, used = perf_counter() - self._started, cpu_seconds(self._pids) - self._used
        if not times:
            raise BadAnswer(f"no answer within {seconds:.1f} s")
        return Usage(
            answers=len(times),
            chunks=chunks,
            seconds=seconds,
            cpu_seconds=used,
            p50_ms=percentile(times, 0.5) * 1000,
            p99_ms=percentile(times, 0.99) * 1000,
            first_byte_p50_ms=percentile(first_bytes, 0.5) * 1000,
            rss_mb=rss_bytes(self._pids) / 1e6,
            reads_per_chunk=reads / chunks if chunks else 0.0,
        )


async def hammer(
    scenario: Scenario, target: Target, roots: list[int], seconds: float, warmup_seconds: float
) -> dict[str, Any]:
    """As many requests as come back in `seconds`, after a warm-up. Returns a Usage; `roots` are the gateway's pids."""
    queue = target.requests(scenario)
    times: list[float] = []
    first_bytes: list[float] = []

    def answered(client: Client[PlainAnswer], elapsed: float) -> None:
        times.append(elapsed)
        first_bytes.append(client.first_byte_s or elapsed)
        client.send(next(queue))

    async with Clients[PlainAnswer]() as clients:
        for _ in range(scenario.connections):
            (await clients.open(target.port, PlainAnswer(target.exact), answered)).send(next(queue))
        await clients.until(warmup_seconds)
        times.clear()
        first_bytes.clear()
        meter = Meter(roots)
        await clients.until(seconds)
        return asdict(meter.usage(times, first_bytes))


async def count(scenario: Scenario, target: Target, answers: int) -> dict[str, Any]:
    """So many requests, over all connections. Returns how many were answered: all of them."""
    queue = target.requests(scenario)
    sent = done = 0

    def answered(client: Client[PlainAnswer], _: float) -> None:
        nonlocal sent, done
        done += 1
        if sent < answers:
            sent += 1
            client.send(next(queue))
        elif done == answers:
            clients.finish()

    async with Clients[PlainAnswer]() as clients:
        for _ in range(min(answers, scenario.connections)):
            client = await clients.open(target.port, PlainAnswer(), answered)
            sent += 1
            client.send(next(queue))
        await clients.until_finished()
    return {"answers": done}


async def stream(scenario: Scenario, target: Target, roots: list[int], waves: int) -> dict[str, Any]:
    """`waves` streams one after the other on each connection, all connections at once. Returns a Usage.

    The CPU clock runs from before the first request to after the last byte, so a chunk carries its share of what its
    request costs.
    """
    queue = target.requests(scenario)
    total = waves * scenario.connections
    times: list[float] = []
    first_bytes: list[float] = []
    reads = 0

    def answered(client: Client[StreamAnswer], elapsed: float) -> None:
        nonlocal reads
        times.append(elapsed)
        first_bytes.append(client.first_byte_s or elapsed)
        reads += client.reader.reads
        client.reader.next()
        if len(times) + scenario.connections <= total:
            client.send(next(queue))
        elif len(times) == total:
            clients.finish()

    async with Clients[StreamAnswer]() as clients:
        opened = [
            await clients.open(target.port, StreamAnswer(scenario.chunks, target.exact), answered)
            for _ in range(scenario.connections)
        ]
        meter = Meter(roots)
        for client in opened:
            client.send(next(queue))
        await clients.until_finished()
        return asdict(meter.usage(times, first_bytes, total * scenario.chunks, reads))


async def hold(scenario: Scenario, target: Target, roots: list[int], seconds: float) -> dict[str, Any]:
    """Opens a stream on each connection, waits until all have begun, and counts chunks for `seconds` while none ends.
    Returns a Usage of which `answers` are the streams: what a chunk costs without its share of a request."""
    queue = target.requests(scenario)

    def ended(client: Client[OpenStream], elapsed: float) -> None:
        raise AssertionError("an open stream is never complete")

    async with Clients[OpenStream]() as clients:
        opened = [await _held(clients, target.port, next(queue), ended) for _ in range(scenario.connections)]
        while any(client.first_byte_s is None for client in opened):
            await clients.until(_LOOK_SECONDS)
        before, reads = sum(one.reader.chunks for one in opened), sum(one.reader.reads for one in opened)
        meter = Meter(roots)
        await clients.until(seconds)
        chunks = sum(one.reader.chunks for one in opened) - before
        first_bytes = [client.first_byte_s or 0.0 for client in opened]
        usage = meter.usage(first_bytes, first_bytes, chunks, sum(one.reader.reads for one in opened) - reads)
        for client in opened:
            client.reader.check(scenario.chunks)
        return asdict(usage)


async def _held(
    clients: Clients[OpenStream], port: int, request: bytes, ended: Callable[[Client[OpenStream], float], None]
) -> Client[OpenStream]:
    client = await clients.open(port, OpenStream(), ended)
    client.send(request)
    return client


async def compare(scenario: Scenario, target: Target, direct: Target, seconds: float) -> dict[str, Any]:
    """One request at a time, in turns through the gateway and straight to a backend.

    Returns the added `p50_ms` and `p99_ms` (gateway's less backend's), and the backend's own `direct_p50_ms`.
    """
    through, straight = list[float](), list[float]()

    async with Clients[PlainAnswer]() as clients:

        def via_gateway(_: Client[PlainAnswer], elapsed: float) -> None:
            through.append(elapsed)
            backend.send(next(to_backend))

        def via_backend(_: Client[PlainAnswer], elapsed: float) -> None:
            straight.append(elapsed)
            gateway.send(next(to_gateway))

        to_gateway, to_backend = target.requests(scenario), direct.requests(scenario)
        gateway = await clients.open(target.port, PlainAnswer(target.exact), via_gateway)
        backend = await clients.open(direct.port, PlainAnswer(), via_backend)
        gateway.send(next(to_gateway))
        await clients.until(seconds)
    if not straight:
        raise BadAnswer(f"no answer within {seconds} s")
    return {
        "answers": len(through),
        "p50_ms": (percentile(through, 0.5) - percentile(straight, 0.5)) * 1000,
        "p99_ms": (percentile(through, 0.99) - percentile(straight, 0.99)) * 1000,
        "direct_p50_ms": percentile(straight, 0.5) * 1000,
    }


_COMMANDS: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "hammer": hammer,
    "count": count,
    "stream": stream,
    "hold": hold,
    "compare": compare,
}


async def run(command: dict[str, Any]) -> dict[str, Any]:
    """Carries out one command within its `limit_s`. A failed measurement is a result with `error`."""
    do, limit_s = _COMMANDS[command.pop("do")], command.pop("limit_s")
    command["scenario"] = Scenario(**command["scenario"])
    for key in {"target", "direct"} & command.keys():
        command[key] = Target(**command[key])
    try:
        async with asyncio.timeout(limit_s):
            return await do(**command)
    except TimeoutError:
        return {"error": f"not done within {limit_s:.0f} s"}
    except (BadAnswer, OSError) as error:  # OSError: refused, or the gateway's process is gone
        return {"error": f"{type(error).__name__}: {error}"}


def main() -> None:
    gc.freeze()
    for line in sys.stdin:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(run(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
