"""One gateway process under a profile, and a fresh simulated fleet for it to stand before.

Floor: processes; all of them are children of this one and end with it, however it ends.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.launch import Engine, start_engine
from benchmarks.fleet_parts.plan import engine_speed
from benchmarks.overhead_parts.gateways import fetch
from benchmarks.overhead_parts.processes import Failed
from benchmarks.replay_parts.setup import Setup
from benchmarks.soak_parts.stack import ENGINE_MODEL, SoakGateway, metric_sum

SEATS = 256  # requests at once per endpoint: the gateway's default, and what a vLLM batch holds
PATIENCE_SECONDS = 3600.0
"""For everything that may take long: a request turned away would flatter the mean of those that were answered."""
_BLOCK_TOKENS = 16  # of a simulated engine's cache block: vLLM's default
_STARTS_AT_ONCE = 4  # engines: more only wait for the same cores


class ProfiledGateway(SoakGateway):
    """The gateway as it is in the soak, with a routing profile and a patient queue."""

    def __init__(self, profile: str, requests: int) -> None:
        super().__init__(SEATS)
        self._profile = profile
        self._requests = requests

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        config = super()._config(backends, folder)
        timeouts = dict.fromkeys(("first_byte", "idle", "total"), PATIENCE_SECONDS)
        config["pools"]["bench"] |= {"timeouts": timeouts}
        patient = {"max_waiting": max(SEATS, self._requests), "max_wait": PATIENCE_SECONDS}
        return config | {
            "routing": {"profile": self._profile},
            "lanes": dict.fromkeys(("short", "long", "batch"), patient),
        }


@dataclass(frozen=True)
class Stack:
    """Running. `gateways`: one, or replicas."""

    gateways: tuple[ProfiledGateway, ...]
    urls: tuple[str, ...]
    engine_pids: tuple[int, ...]

    @property
    def gateway(self) -> ProfiledGateway:
        return self.gateways[0]

    def hits(self) -> Hits:
        """Of all engines, since they started. Raises Failed when one does not answer."""
        return read_hits(self.urls)


@dataclass(frozen=True)
class Hits:
    """What the engines' own counters say, in prompt tokens: how many were looked up, and how many were there."""

    queried: float
    found: float

    def since(self, before: Hits) -> Hits:
        return Hits(self.queried - before.queried, self.found - before.found)

    @property
    def ratio(self) -> float:
        return self.found / self.queried if self.queried else 0.0


def read_hits(urls: Sequence[str]) -> Hits:
    """Raises Failed when an engine does not answer."""
    pages = [fetch(f"{url}/metrics") for url in urls]
    if None in pages:
        raise Failed(f"engine {pages.index(None)} does not answer /metrics")
    queried, found = (
        sum(metric_sum(page or b"", f"vllm:prefix_cache_{name}_total") for page in pages)
        for name in ("queries", "hits")
    )
    return Hits(queried, found)


@contextmanager
def gateway_before(urls: Sequence[str], profile: str, requests: int) -> Iterator[ProfiledGateway]:
    """A new gateway process that knows nothing of the engines yet. Raises Failed."""
    with tempfile.TemporaryDirectory(prefix="promptlane-fleet-") as folder:
        gateway = ProfiledGateway(profile, requests)
        try:
            gateway.start(urls, Path(folder), os.sched_getaffinity(0))
            yield gateway
        finally:
            gateway.stop()


@contextmanager
def running(profile: str, setup: Setup, scale: float, requests: int, longest_reply: int) -> Iterator[Stack]:
    """New engines with empty caches, and the gateway. Raises Failed."""
    with ExitStack() as stack:
        engines = start_engines(stack, setup, scale, longest_reply)
        urls = tuple(engine.url for engine in engines)
        gateway = stack.enter_context(gateway_before(urls, profile, requests))
        yield Stack((gateway,), urls, tuple(engine.pid for engine in engines))


def start_engines(stack: ExitStack, setup: Setup, scale: float, longest_reply: int) -> list[Engine]:
    """Simulated ones, that end with `stack`. Raises Failed."""

    def start(number: int) -> Engine:
        return start_engine(
            ENGINE_MODEL,
            block_size=_BLOCK_TOKENS,
            kv_blocks=setup.kv_tokens // _BLOCK_TOKENS,
            max_model_len=setup.kv_tokens,
            max_num_seqs=SEATS,
            reply_tokens=longest_reply + 1,  # its end token never comes before `max_tokens`
            **engine_speed(scale),
        )

    with ThreadPoolExecutor(_STARTS_AT_ONCE) as starters:
        starts = [starters.submit(start, number) for number in range(setup.endpoints)]
    started = [stack.enter_context(one.result()) for one in starts if one.exception() is None]
    if len(started) < len(starts):
        raise Failed(f"{len(starts) - len(started)} of {len(starts)} simulated engines did not start")
    return started
