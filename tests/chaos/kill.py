"""`python -m tests.chaos.kill`: one hot engine of two is killed at full load; what is lost, and the pause that is seen.

Floor: tests only. The same requests are asked twice, without the kill and with it. A stream's pause is its longest gap
between two pieces; what the kill added is the difference to the same stream without it. Exit status 0: nothing was lost
and every answer was right. The pause is printed beside its goal, not asserted: it is the machine's too.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from dataclasses import dataclass

from tests.chaos.ask import Ask, Seen, draw_ask
from tests.chaos.bystanders import percentile
from tests.chaos.faults import Fault, HostSpec, Kind
from tests.chaos.judge import Ending, judge
from tests.chaos.world import ENGINE_MODEL, MODEL, World, running_world, simulated

TENANT = "acme"
HOSTS = (HostSpec("acme-0", TENANT), HostSpec("acme-1", TENANT))
GOAL_SECONDS = 1.0
"""What a kill may add to a stream's pause, at the 99th percentile."""
KILL_AT = 0.4
"""Share of the requests that have been sent when the engine dies: the rest meets one engine alone."""
PATIENT = {"connect": 5.0, "first_byte": 60.0, "idle": 60.0, "total": 120.0}
"""A dead engine resets its connections; timeouts would only add what a busy machine does to the one that is well."""
SOON_SECONDS = 5.0
"""For so long after the kill a new stream may still feel it."""


@dataclass(frozen=True)
class Run:
    """One pass over the requests. `killed_at`: loop seconds, 0 without a kill. `in_flight`: by endpoint, just then."""

    seen: list[Seen]
    killed_at: float
    in_flight: dict[str, int]

    @property
    def lost(self) -> list[str]:
        """Every request without its complete and right answer."""
        verdicts = [(seen, judge(seen)) for seen in self.seen]
        return [
            f"{seen.ask.api}{' stream' if seen.ask.stream else ''} at {seen.endpoint}, sent "
            f"{seen.sent_at - self.killed_at:+.2f} s from the kill, {verdict.content} events with text: {verdict.why}"
            for seen, verdict in verdicts
            if verdict.ending is not Ending.COMPLETE
        ]

    def served(self) -> dict[str, int]:
        return dict(Counter(seen.endpoint for seen in self.seen))

    def cut(self, host: str) -> list[int]:
        """The streams that the host was answering when it died."""
        return [
            number
            for number, seen in enumerate(self.seen)
            if seen.ask.stream and seen.endpoint == host and seen.sent_at < self.killed_at < seen.ended_at
        ]


async def ask_all(world: World, asks: list[Ask], at_once: int, kill: bool) -> Run:
    loop = asyncio.get_running_loop()
    answers: dict[int, Seen] = {}
    left = iter(enumerate(asks))
    killed_at, in_flight = 0.0, dict[str, int]()
    due = asyncio.Event()

    async def client() -> None:
        for number, ask in left:
            if number >= KILL_AT * len(asks):
                due.set()
            answers[number] = await world.client.send(ask)

    async def killer() -> None:
        nonlocal killed_at, in_flight
        await due.wait()
        in_flight = {name: one["in_flight"] for name, one in (await world.endpoints()).items()}
        killed_at = loop.time()
        await world.hosts["acme-0"].strike(Fault(Kind.KILL, "acme-0", TENANT, 0.0, 0.0))

    async with asyncio.TaskGroup() as group:
        for number in range(at_once):
            group.create_task(client(), name=f"client {number}")
        if kill:
            group.create_task(killer(), name="killer")
    return Run([answers[number] for number in range(len(asks))], killed_at, in_flight)


def pauses(calm: Run, killed: Run) -> list[str]:
    """The figures of the streams: of all, of those that lived through the kill or came soon after, of those it cut."""
    streams = [(number, seen) for number, seen in enumerate(killed.seen) if seen.ask.stream]
    soon, at = killed.killed_at + SOON_SECONDS, killed.killed_at
    near = [number for number, seen in streams if seen.sent_at < soon and seen.ended_at > at]
    groups = {"all": [number for number, _ in streams], "at the kill and soon after": near, "cut": killed.cut("acme-0")}
    return [f"  {name:<28}{_figures(calm, killed, numbers)}" for name, numbers in groups.items()]


def _figures(calm: Run, killed: Run, numbers: list[int]) -> str:
    before = [calm.seen[number].longest_gap for number in numbers]
    after = [killed.seen[number].longest_gap for number in numbers]
    added = [max(0.0, late - early) for early, late in zip(before, after, strict=True)]
    return (
        f"{len(numbers):>5} streams, p99 {percentile(before, 0.99):.3f} s without the kill, "
        f"{percentile(after, 0.99):.3f} s with it; added: p50 {percentile(added, 0.5):.3f} s, "
        f"p99 {percentile(added, 0.99):.3f} s, most {max(added, default=0.0):.3f} s"
    )


async def measure(requests: int, at_once: int, seed: int) -> int:
    draw = random.Random(seed)
    asks = [draw_ask(draw, TENANT, MODEL, ENGINE_MODEL, long_tokens=1200) for _ in range(requests)]
    async with running_world(simulated(HOSTS, decode_step_seconds=0.02), {TENANT: "platinum"}, PATIENT) as world:
        await ask_all(world, asks[: requests // 10], at_once, kill=False)  # processes that have served nothing are slow
        calm = await ask_all(world, asks, at_once, kill=False)
        await world.until_settled()
        killed = await ask_all(world, asks, at_once, kill=True)
        left = [line for line in await world.left() if not line.startswith("acme-0: engine")]
    print(f"{requests} requests, {at_once} at once, on two engines; one is killed after {KILL_AT:.0%} of them")
    print(f"  under way at that moment: {killed.in_flight}; served by each without the kill: {calm.served()}")
    print(f"  lost without the kill: {len(calm.lost)}, with it: {len(killed.lost)} of {requests} (goal: 0)")
    print("\n".join(f"    {line}" for line in [*calm.lost[:5], *killed.lost[:10]]))
    print(f"the longest gap between two pieces of a stream (goal: at most {GOAL_SECONDS:g} s added at p99)")
    print("\n".join(pauses(calm, killed)))
    print("\n".join(f"  LEFT {line}" for line in left))
    return 1 if calm.lost or killed.lost or left else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.kill", description=__doc__)
    parser.add_argument("--requests", type=int, default=2400, metavar="N", help="in each of the two passes")
    parser.add_argument("--at-once", type=int, default=96, metavar="N", help="requests under way at any time")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    options = parser.parse_args()
    return asyncio.run(measure(options.requests, options.at_once, options.seed))


if __name__ == "__main__":
    sys.exit(main())
