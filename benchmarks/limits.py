"""Four replicas, and clients that hammer tenants' limits for a minute: `make bench-limits`.

How to read the figures: benchmarks/README.md. Ends with status 1 when a limit was exceeded or less of it usable than
97 %. A limit of requests or tokens is exceeded by more than 1 % within the minute, one of concurrency by a single one.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.limits_parts.bystander import OTHER
from benchmarks.limits_parts.clients import hammer
from benchmarks.limits_parts.engine import TOKENS
from benchmarks.limits_parts.stack import Fleet, fleet

HAMMERED = {
    "requests": {"requests_per_minute": 3000},
    "tokens": {"tokens_per_minute": 30_000},
    "at-once": {"concurrency": 60},
}
_QUIET_SECONDS = 10.0  # of the other tenant alone, before
_WINDOW_SECONDS = 60.0
_OPENING_SECONDS = 5.0
"""In which clients use up a whole minute's allowance at once; from then on nearly all that they hear is refusals."""
_OVER, _USABLE = 1.01, 0.97


@dataclass(frozen=True)
class Row:
    """`used`: of the limit, in its units; `share`: of what could have been used."""

    name: str
    limit: int
    used: int
    share: float

    @property
    def bad(self) -> bool:
        over = 1.0 if self.name == "at-once" else _OVER
        return self.used > self.limit * over or self.share < _USABLE


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--replicas", type=int, default=4, help="gateway processes (default 4)")
    parser.add_argument("--clients", type=int, default=200, help="of each replica, all limits together (default 200)")
    parser.add_argument("--seconds", type=float, default=60.0, help="at most 60: a whole window (default 60)")
    parser.add_argument("--pause", type=float, default=0.25, help="seconds after a refusal (default 0.25)")
    return parser.parse_args(argv)


async def measure(given: argparse.Namespace) -> int:
    limits = {**HAMMERED, OTHER: {"requests_per_minute": 1_000_000, "tokens_per_minute": 10**9, "concurrency": 1000}}
    async with fleet(given.replicas, limits) as running:
        first = running.gateways[0].url
        quiet = await running.bystander.watch(first, _QUIET_SECONDS)
        loud, statuses = await _hammer(running, given)
        rows = _rows(running, given.seconds)
        losses = sum(gateway.log.read_text(errors="replace").count("are not shared") for gateway in running.gateways)
    for row in rows:
        print(f"{row.name:10} used {row.used:6} of {row.limit:6}  {row.used / row.limit:7.2%}  usable {row.share:7.2%}")
    print(f"answers    {', '.join(f'{status}: {count}' for status, count in sorted(statuses.items()))}")
    print(f"losses     {losses} times that a replica got no answer from Redis in time for a tenant")
    opening = [one for one in loud if one[0] < _OPENING_SECONDS]
    for name, seen in (
        ("alone", quiet),
        ("beside what is admitted", opening),
        ("beside refusals", loud[len(opening) :]),
    ):
        seconds = sorted(took for _, took in seen)
        print(f"another tenant, {name}: p50 {_at(seconds, 0.5):.1f} ms, p99 {_at(seconds, 0.99):.1f} ms")
    return int(any(row.bad for row in rows))


async def _hammer(running: Fleet, given: argparse.Namespace) -> tuple[list[tuple[float, float]], Counter[int]]:
    until, names = time.monotonic() + given.seconds, list(HAMMERED)
    watching = asyncio.create_task(running.bystander.watch(running.gateways[0].url, given.seconds))
    clients = [
        hammer(gateway.url, names[number % len(names)], until, given.pause)
        for gateway in running.gateways
        for number in range(given.clients)
    ]
    statuses: Counter[int] = Counter()
    for one in await asyncio.gather(*clients):
        statuses += one
    return await watching, statuses


def _rows(running: Fleet, seconds: float) -> list[Row]:
    engine, rows = running.engine, []
    for name, limits in HAMMERED.items():
        ((_, limit),) = limits.items()
        if name == "at-once":
            # What the engine had to do of what the seats would have allowed, less the ways to it and back.
            share = engine.admitted[name] * engine.seconds / (limit * seconds)
            rows.append(Row(name, limit, engine.most[name], max(share, engine.most[name] / limit)))
            continue
        # What waited for its last second at the end belongs to the next window.
        times = engine.arrivals.get(name, [0.0])
        used = sum(at < times[0] + _WINDOW_SECONDS for at in times) * (TOKENS if name == "tokens" else 1)
        rows.append(Row(name, limit, used, used / limit))
    return rows


def _at(seconds: Sequence[float], share: float) -> float:
    """Milliseconds."""
    return 1000 * seconds[min(len(seconds) - 1, int(share * len(seconds)))] if seconds else float("nan")


def main() -> None:
    sys.exit(asyncio.run(measure(arguments())))


if __name__ == "__main__":
    main()
