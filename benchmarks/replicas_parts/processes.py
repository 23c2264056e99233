"""Gateway processes with one Redis before simulated engines, beside a single gateway, with the same requests.

Floor: processes; all of them are children of this one and end with it.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.fleet import replay
from benchmarks.fleet_parts.client import Exchange, Order
from benchmarks.fleet_parts.figures import Figures, summarize
from benchmarks.fleet_parts.plan import Slice, bodies_of, orders
from benchmarks.fleet_parts.stack import ProfiledGateway, Stack, start_engines
from benchmarks.fleet_parts.watch import Load, load_of
from benchmarks.overhead_parts.processes import Failed
from benchmarks.replay_parts.goodput import GRACE_SECONDS
from benchmarks.replay_parts.setup import Setup
from benchmarks.replicas_parts.replicas import PROFILE
from tests.servers import start_redis, until_believed

_SECRET = "an example secret for gateways under measurement"  # 32 characters at least; nobody's
_AGREE_SECONDS = 30.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Run:
    """`goodput`: answers in a second of the trace whose first token was in time; `tickets`: given to other replicas."""

    replicas: int
    goodput: float
    figures: Figures
    machine: Load
    tickets: int
    failures: tuple[str, ...]


class ReplicaGateway(ProfiledGateway):
    """The gateway as it is in `benchmarks.fleet`; with others where there is a Redis."""

    def __init__(self, requests: int, redis_url: str | None) -> None:
        super().__init__(PROFILE, requests)
        self._redis_url = redis_url

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PROMPTLANE_SECRET": _SECRET}

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        config = super()._config(backends, folder)
        if self._redis_url is not None:
            config["state"] |= {"redis_url": self._redis_url}
            config["replicas"] = {"listen": f"unix:{folder}/link.sock"}
        return config

    @property
    def part(self) -> str:
        return str((self.pool().get("replica") or {}).get("part"))


@contextmanager
def running(replicas: int, setup: Setup, scale: float, requests: int, longest_reply: int) -> Iterator[Stack]:
    """New engines, and gateways of which one decides. Raises Failed."""
    with ExitStack() as stack:
        engines = start_engines(stack, setup, scale, longest_reply)
        urls = tuple(engine.url for engine in engines)
        redis_url = None
        if replicas > 1:
            redis = start_redis()
            stack.callback(redis.stop)
            until_believed(redis)  # or the first requests wait for it, as after any loss of its memory
            redis_url = redis.url
        gateways = tuple(ReplicaGateway(requests, redis_url) for _ in range(replicas))
        _start(stack, gateways, urls)
        if replicas > 1:
            _agree(gateways)
        yield Stack(gateways, urls, tuple(engine.pid for engine in engines))


def _start(stack: ExitStack, gateways: Sequence[ReplicaGateway], urls: Sequence[str]) -> None:
    """All at once: each imports for a second or more."""
    starters = stack.enter_context(ThreadPoolExecutor(len(gateways)))  # a child ends with the thread that started it
    folders = [Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replica-"))) for _ in gateways]
    for gateway in gateways:
        stack.callback(gateway.stop)
    cores, pairs = os.sched_getaffinity(0), zip(gateways, folders, strict=True)
    for start in [starters.submit(gateway.start, urls, folder, cores) for gateway, folder in pairs]:
        start.result()


def _agree(gateways: Sequence[ReplicaGateway]) -> None:
    wanted = sorted(["leads", *["follows"] * (len(gateways) - 1)])
    deadline = time.monotonic() + _AGREE_SECONDS
    while (parts := sorted(gateway.part for gateway in gateways)) != wanted:
        if time.monotonic() > deadline:
            raise Failed(f"the replicas do not agree on an owner: {', '.join(parts)}")
        time.sleep(_POLL_SECONDS)


def compare(
    counts: Sequence[int], part: Slice, setup: Setup, load: float, scale: float, say: Callable[[str], None]
) -> list[Run]:
    """One run for each number of replicas, each with new engines. Raises Failed."""
    wanted = orders(part, load, scale, bodies_of(part.rows))
    longest_reply = max(row.output for row in part.rows)
    runs = []
    for replicas in counts:
        say(f"{replicas} gateway processes: {len(wanted)} requests, the last after {wanted[-1].at:.0f} s")
        with running(replicas, setup, scale, len(wanted), longest_reply) as stack:
            runs.append(_measure(replicas, stack, part, wanted, scale, setup))
    return runs


def _measure(replicas: int, stack: Stack, part: Slice, wanted: Sequence[Order], scale: float, setup: Setup) -> Run:
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            exchanges, watch = runner.run(replay(stack, wanted))
    except OSError as error:
        raise Failed(f"a process is gone: {error}") from None
    for gateway in stack.gateways:
        gateway.require_running()
    figures = summarize(exchanges, scale, setup.endpoints)
    failures = [f"{number} x {reason}" for reason, number in figures.errors.items()]
    failures += [line for gateway in stack.gateways for line in gateway.trouble()]
    seconds = scale * (wanted[-1].at - wanted[0].at)
    lateness = [one.sent_at - one.due_at for one in exchanges]
    return Run(
        replicas,
        in_time(exchanges, part, scale) / seconds,
        figures,
        load_of(watch.looks, lateness, len(os.sched_getaffinity(0))),
        int(sum(gateway.counter("promptlane_replica_asked_total") for gateway in stack.gateways)),
        tuple(failures),
    )


def in_time(exchanges: Sequence[Exchange], part: Slice, scale: float) -> int:
    """Answers whose first token came within 2 s and the prompt's own cold prefill, as in the replays."""
    patience = {job.number: GRACE_SECONDS + job.cold_seconds for job in part.jobs}
    return sum(one.ttft is not None and scale * one.ttft <= patience[one.number] for one in exchanges)
