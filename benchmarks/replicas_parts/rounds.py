"""What a ticket from another replica costs: CPU of one Ask, Bound, First and Done on each side, over a local socket.

Two processes on uvloop, as gateways are: the owner in a child, which binds every request at once (no decision is made,
so this is the price of the link alone), the follower here. Both turn requests into what travels and back. Each of the
four is said in a turn of the loop of its own, as it is when engines answer; with one request at a time nothing is
joined, and that is the worst that a round can cost.

Beside it, in the same run, the **floor**: two processes that do with one request at a time what loops and sockets do
in such a round (the same bytes in the same turns, so as many wakeups, reads and writes), without any frame.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import cast

import uvloop

from policies.types import InferenceRequest, Lane, Outcome
from router.coordination.address import Address
from router.coordination.asked import AskedRequest
from router.coordination.frames import Answer, Ask, Bound, Done, Ended, Fence, First, FromFollower, Known, Ping, Pong
from router.coordination.framing import encode
from router.coordination.link import Link
from router.coordination.server import Session, serve_links

_SECRET = bytes(32)
_BLOCKS = 64  # of the prompt: about 4,000 tokens
_PAUSE_SECONDS = 30.0  # for the owner to start
_WARMUP = 2_000  # rounds
_REPORT = "cpu"  # a Fence of this pool asks the owner for its figure
_REPORT_BYTE = b"?"  # the same, where the floor is measured


# What the gateway has made anyway, before it asks and when an answer ends: not part of the price.
_REQUEST = InferenceRequest(
    id="req-0123456789abcdef",
    tenant="acme",
    tier_priority=0,
    model="llama",
    api="chat",
    lane=Lane.SHORT,
    prompt_tokens=4096,
    max_output_tokens=200,
    prefix_blocks=tuple(range(2**63, 2**63 + _BLOCKS)),
    tokens_per_block=64.0,
    stream=True,
    arrived_at=0.0,
    deadline=60.0,
)
_OUTCOME = Outcome(200, started=True, ttft_seconds=0.1, total_seconds=1.0, completion_tokens=100)


_BOUND = Bound(1, 1, "engine-0", 2048, 0.04, 0.04, 0.0, 0, 0, None)
# Bytes of each.
ASK, BOUND, FIRST, DONE = tuple(
    len(encode(frame))
    for frame in (Ask(1, "pool", AskedRequest.of(_REQUEST, 0.0)), _BOUND, First(1), Done(1, Ended.of(_OUTCOME)))
)


@dataclass(frozen=True)
class Cost:
    """CPU microseconds of one round. `floored`: by loops and sockets alone."""

    concurrent: int
    follower: float
    owner: float
    floored: bool = False


class _Binder:
    """The owner: every request goes to one endpoint."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def received(self, frame: FromFollower) -> None:
        if isinstance(frame, Ask):
            request = frame.request.request(time.monotonic())
            ttft = request.prompt_tokens / 1e5
            self._session.send(Bound(frame.id, 1, "engine-0", 2048, ttft, ttft, 0.0, 0, 0, None))
        elif isinstance(frame, Fence) and frame.pool == _REPORT:
            print(time.process_time(), flush=True)

    def pong(self, ping: Ping) -> Pong:
        return Pong(ping.n)

    def lost(self, reason: str) -> None:
        """The benchmark is over."""


class _FloorOwner(asyncio.Protocol):
    """Answers as many bytes as an Ask has with as many as a Bound has, and hears the rest of the round."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._due = ASK  # bytes until the next answer

    def data_received(self, data: bytes) -> None:
        if data.endswith(_REPORT_BYTE):  # all else is zeros, the last of which may have come with it
            print(time.process_time(), flush=True)
            data = data[:-1]
        self._due -= len(data)
        if self._due <= 0:
            self._due += FIRST + DONE + ASK
            self._transport.write(bytes(BOUND))


async def _own(address: str) -> None:
    await serve_links(address, _SECRET, _Binder, me="owner")
    await asyncio.get_running_loop().create_unix_server(_FloorOwner, _floor(address))
    print("ready", flush=True)
    await asyncio.Event().wait()


def _floor(address: str) -> str:
    """The path at which the owner of the floor listens."""
    return f"{Address.parse(address).path}.floor"


class _Follower:
    """`concurrent` requests at any time, until so many rounds are over."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.link: Link
        self._left = self._open = 0
        self._over = asyncio.Event()
        self._gone: str | None = None

    def connected(self) -> None:
        """Nothing is under way."""

    def told(self, known: Sequence[Known]) -> None:
        """There are no pools."""

    def disconnected(self, reason: str) -> None:
        self._gone = reason
        self._over.set()

    async def play(self, rounds: int, concurrent: int) -> None:
        self._left, self._open = rounds, 0
        self._over.clear()
        for _ in range(concurrent):
            self._next()
        await self._over.wait()
        if self._gone is not None:
            raise SystemExit(f"the owner is gone: {self._gone}")

    def _next(self) -> None:
        if not self._left:
            if not self._open:
                self._over.set()
            return
        self._left -= 1
        self._open += 1
        self.link.ask("pool", AskedRequest.of(_REQUEST, time.monotonic()), (), False, self._answered)

    def _answered(self, answer: Answer | None) -> None:
        assert answer is not None
        self._loop.call_soon(self._first, answer.id)

    def _first(self, number: int) -> None:
        self.link.first(number)
        self._loop.call_soon(self._loop.call_soon, self._done, number)

    def _done(self, number: int) -> None:
        self.link.done(number, Ended.of(_OUTCOME))
        self._open -= 1
        self._loop.call_soon(self._loop.call_soon, self._next)


class _FloorFollower(asyncio.Protocol):
    """As `_Follower`, with one request at a time and nothing in the bytes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = self._got = 0
        self._over = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        if self._got == BOUND:
            self._got = 0
            self._loop.call_soon(self._first)

    def report(self) -> None:
        self._transport.write(_REPORT_BYTE)

    async def play(self, rounds: int) -> None:
        self._left = rounds
        self._over.clear()
        self._next()
        await self._over.wait()

    def _next(self) -> None:
        if not self._left:
            self._over.set()
            return
        self._left -= 1
        self._transport.write(bytes(ASK))

    def _first(self) -> None:
        self._transport.write(bytes(FIRST))
        self._loop.call_soon(self._loop.call_soon, self._done)

    def _done(self) -> None:
        self._transport.write(bytes(DONE))
        self._loop.call_soon(self._loop.call_soon, self._next)


async def _follow(address: str, owner: _Owner, rounds: int, concurrent: int, runs: int) -> Cost:
    follower = _Follower()
    follower.link = Link(address, _SECRET, me="follower", asker=follower)
    try:
        if not await follower.link.up(_PAUSE_SECONDS):
            raise SystemExit("the owner did not come up")
        return await _cost(
            owner,
            lambda: follower.link.fence(_REPORT, 0),
            lambda rounds: follower.play(rounds, concurrent),
            rounds,
            runs,
            Cost(concurrent, 0.0, 0.0),
        )
    finally:
        await follower.link.close()


async def _follow_floor(address: str, owner: _Owner, rounds: int, runs: int) -> Cost:
    loop = asyncio.get_running_loop()
    transport, follower = await loop.create_unix_connection(_FloorFollower, _floor(address))
    try:
        return await _cost(owner, follower.report, follower.play, rounds, runs, Cost(1, 0.0, 0.0, floored=True))
    finally:
        transport.close()


async def _cost(
    owner: _Owner,
    report: Callable[[], None],
    play: Callable[[int], Awaitable[None]],
    rounds: int,
    runs: int,
    about: Cost,
) -> Cost:
    """The median of the runs. `report`: asks the owner for its CPU seconds."""
    await play(_WARMUP)
    ours, theirs = [], []
    for _ in range(runs):
        before, started = await owner.answer(report), time.process_time()
        await play(rounds)
        ours.append(time.process_time() - started)
        theirs.append(await owner.answer(report) - before)
    return replace(about, follower=median(ours) / rounds * 1e6, owner=median(theirs) / rounds * 1e6)


class _Owner:
    """The owner's process, as this one sees it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout

    def ready(self) -> None:
        if self._lines.readline() != "ready\n":
            raise SystemExit("the owner did not start")

    async def answer(self, ask: Callable[[], None]) -> float:
        """Its CPU seconds when it reads what `ask` says."""
        ask()
        return float(await asyncio.to_thread(self._lines.readline))


def measure(rounds: int, concurrent: Sequence[int], runs: int) -> list[Cost]:
    """The median of some runs, of so many rounds each, for each number of requests at once; last the floor."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/link.sock"
        command = [sys.executable, "-m", "benchmarks.replicas_parts.rounds", "--owner", address]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
            try:
                owner = _Owner(process)
                owner.ready()
                costs = [uvloop.run(_follow(address, owner, rounds, one, runs)) for one in concurrent]
                return [*costs, uvloop.run(_follow_floor(address, owner, rounds, runs))]
            finally:
                process.kill()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replicas_parts.rounds", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000, help="of each run (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="whose median is shown (default: %(default)s)")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[32, 1], help="requests (default: 32, then 1)")
    parser.add_argument("--owner", metavar="ADDRESS", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.owner is not None:
        uvloop.run(_own(options.owner))
        return
    for cost in measure(options.rounds, options.concurrent, options.runs):
        name = "floor at 1" if cost.floored else f"{cost.concurrent:3}"
        print(f"{name} concurrent: follower {cost.follower:5.1f} us, owner {cost.owner:5.1f} us of CPU a round")


if __name__ == "__main__":
    main()
