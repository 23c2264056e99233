"""What a ticket from another replica costs: CPU of one Ask, Bound, First and Done on each side, over a local socket.

Two processes on uvloop, as gateways are: the owner in a child, which binds every request at once (no decision is made,
so this is the price of the link alone), the follower here. Both turn requests into what travels and back. Each of the
four is said in a turn of the loop of its own, as it is when engines answer; with one request at a time nothing is
joined, and that is the worst that a round can cost.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import uvloop

from policies.types import InferenceRequest, Lane, Outcome
from router.coordination.asked import AskedRequest
from router.coordination.frames import Answer, Ask, Bound, Ended, Fence, FromFollower
from router.coordination.link import Link
from router.coordination.server import Session, serve_links

_SECRET = bytes(32)
_BLOCKS = 64  # of the prompt: about 4,000 tokens
_PAUSE_SECONDS = 30.0  # for the owner to start
_WARMUP = 2_000  # rounds
_REPORT = "cpu"  # a Fence of this pool asks the owner for its figure


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


@dataclass(frozen=True)
class Cost:
    """CPU microseconds of one round."""

    follower: float
    owner: float


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

    def lost(self, reason: str) -> None:
        """The benchmark is over."""


async def _own(address: str) -> None:
    await serve_links(address, _SECRET, _Binder, me="owner")
    print("ready", flush=True)
    await asyncio.Event().wait()


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


async def _follow(address: str, owner: "subprocess.Popen[str]", rounds: int, concurrent: int, runs: int) -> Cost:
    follower = _Follower()
    follower.link = Link(address, _SECRET, me="follower", asker=follower)
    try:
        if not await follower.link.up(_PAUSE_SECONDS):
            raise SystemExit("the owner did not come up")
        costs = await _runs(follower, owner, rounds, concurrent, runs)
    finally:
        await follower.link.close()
    return Cost(
        median(ours for ours, _, _ in costs) / rounds * 1e6,
        median(after - before for _, before, after in costs) / rounds * 1e6,
    )


async def _runs(
    follower: _Follower, owner: "subprocess.Popen[str]", rounds: int, concurrent: int, runs: int
) -> list[tuple[float, float, float]]:
    """Of each run, the follower's CPU seconds, and the owner's before and after it."""
    await follower.play(_WARMUP, concurrent)
    costs = []
    for _ in range(runs):
        before, started = await _report(follower.link, owner), time.process_time()
        await follower.play(rounds, concurrent)
        ours = time.process_time() - started
        costs.append((ours, before, await _report(follower.link, owner)))
    return costs


async def _report(link: Link, owner: "subprocess.Popen[str]") -> float:
    """The owner's CPU seconds when it reads this."""
    assert owner.stdout is not None
    link.fence(_REPORT, 0)
    return float(await asyncio.to_thread(owner.stdout.readline))


def measure(rounds: int, concurrent: int, runs: int) -> Cost:
    """The median of some runs, of so many rounds each."""
    with tempfile.TemporaryDirectory() as folder:
        address = f"unix:{folder}/link.sock"
        command = [sys.executable, "-m", __spec__.name, "--owner", address]
        root = Path(__file__).parents[2]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as owner:
            try:
                assert owner.stdout is not None
                if owner.stdout.readline() != "ready\n":
                    raise SystemExit("the owner did not start")
                return uvloop.run(_follow(address, owner, rounds, concurrent, runs))
            finally:
                owner.kill()


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
    for concurrent in options.concurrent:
        cost = measure(options.rounds, concurrent, options.runs)
        print(f"{concurrent:3} concurrent: follower {cost.follower:5.1f} us, owner {cost.owner:5.1f} us of CPU a round")


if __name__ == "__main__":
    main()
