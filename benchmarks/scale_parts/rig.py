"""The gateway process that is measured, its engines and its load, each on its own core.

Floor: benchmarks.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks.overhead_parts.gateways import PromptlaneInterpreted
from benchmarks.overhead_parts.interpreters import Interpreter
from benchmarks.overhead_parts.measure import cpu_seconds, rss_bytes, tree
from benchmarks.overhead_parts.rounds import Bench, bench
from benchmarks.overhead_parts.traffic import Scenario
from router.database.engine import Database
from router.database.tables import api_keys
from router.key_store import KeyStore

TRIES = 3
"""Windows of a measurement, of which the cheapest counts: other programs only add to a cost."""
ASKING = 1024
"""Tenants or keys that ask, of all there are: more than any cache of the processor holds, few enough to come round."""
_READY_SECONDS = 300.0
_POOL = "bench"
_OPENED_PER_SECOND = 200  # streams, at the least, before the load generator is taken for stuck
_ROWS = 20_000  # of the database in one statement


def key_of(number: int) -> str:
    return f"pl-scale-{number}"


def digest_of(number: int) -> bytes:
    return hashlib.sha256(key_of(number).encode()).digest()


def asking(size: int) -> tuple[str, ...]:
    """The keys that ask: evenly spread over all."""
    step = max(1, size // ASKING)
    return tuple(key_of(number) for number in range(0, size, step))[:ASKING]


class ScaleGateway(PromptlaneInterpreted):
    """One process, with so many tenants (one key each), or one tenant with so many keys in the database. It never
    refuses for want of seats: everything else is as in `bench-overhead`."""

    ready_seconds = _READY_SECONDS

    def __init__(self, *, tenants: int = 1, stored_keys: int = 0, seats: int = 16_384) -> None:
        super().__init__()
        self._tenants = tenants
        self._stored_keys = stored_keys
        self._seats = seats
        self.load_seconds = 0.0

    @property
    def python(self) -> Interpreter:
        """This environment's, as of the objects beside it."""
        return Interpreter(Path(sys.executable))

    def command(self, backends: Sequence[str], folder: Path) -> list[str | Path]:
        *_, config = super().command(backends, folder)
        if self._stored_keys:
            _store_keys(folder, self._stored_keys)
        return [self.python.program, "-m", "benchmarks.scale_parts.serving", config]

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        config = super()._config(backends, folder)
        (sample,) = config["tenants"].values()
        for number in range(self._tenants - 1):
            key = {"id": "k", "sha256": digest_of(number).hex()}
            config["tenants"][f"t{number}"] = {**sample, "api_keys": [key]}
        for endpoint in config["pools"][_POOL]["endpoints"]:
            endpoint["max_in_flight"] = self._seats
        config["pools"][_POOL]["shared"] = True
        return config | {"lanes": {lane: {"max_waiting": self._seats} for lane in ("short", "long")}}

    @property
    def rss_mb(self) -> float:
        return rss_bytes(tree(self.pids)) / 1e6


def _store_keys(folder: Path, count: int) -> None:
    """Into the database that the gateway will open, as `promptlane keys create` would."""
    database = Database(f"sqlite:///{folder / 'promptlane.db'}", 60.0)
    KeyStore(database).prepare()
    fields = {"tenant": _POOL, "label": "", "created_at": time.time()}
    with database.writing() as connection:
        for start in range(0, count, _ROWS):
            rows = [
                {"id": f"k{number}", "digest": digest_of(number), **fields}
                for number in range(start, min(count, start + _ROWS))
            ]
            connection.execute(insert(api_keys), rows)
    database.close()


class Rig:
    """Engines and load; `serving` starts a gateway before them."""

    def __init__(self, here: Bench, seconds: float) -> None:
        self._here = here
        self._seconds = seconds

    @contextmanager
    def serving(self, gateway: ScaleGateway) -> Iterator[ScaleGateway]:
        """Started and answering; its `load_seconds` are its CPU time until then. Raises Failed."""
        folder = Path(tempfile.mkdtemp(prefix="scale-", dir=self._here.folder))
        urls = self._here.urls
        try:
            gateway.start(urls, folder, self._here.gateway_cpus)
            gateway.load_seconds = cpu_seconds(tree(gateway.pids))
            yield gateway
        finally:
            gateway.stop()

    def request_us(self, gateway: ScaleGateway, scenario: Scenario, keys: Sequence[str] = ()) -> float:
        """CPU time of a request: the least of some windows."""
        arguments = self._arguments(gateway, keys)
        used: list[float] = []
        for number in range(TRIES):
            warm = {"warmup_seconds": self._seconds if number == 0 else 0.1}
            found = self._here.ask(
                "hammer", scenario, self._seconds, arguments | {"seconds": self._seconds / TRIES} | warm
            )
            used.append(found["cpu_seconds"] / found["answers"])
        return min(used) * 1e6

    def chunk_us(self, gateway: ScaleGateway, scenario: Scenario) -> tuple[float, float]:
        """CPU time of a chunk while so many streams are open, and the process's memory meanwhile (MB)."""
        arguments = self._arguments(gateway, ()) | {"seconds": self._seconds}
        opening = scenario.connections / _OPENED_PER_SECOND
        found = self._here.ask("hold", scenario, self._seconds + opening, arguments)
        return found["cpu_seconds"] / found["chunks"] * 1e6, found["rss_mb"]

    def _arguments(self, gateway: ScaleGateway, keys: Sequence[str]) -> dict[str, Any]:
        target = {"port": gateway.port, "headers": {} if keys else gateway.headers, "keys": list(keys)}
        return {"target": target, "roots": gateway.pids}


@contextmanager
def rig(cpus: tuple[set[int], set[int]], seconds: float, gap_ms: float = 10.0) -> Iterator[Rig]:
    """`seconds` a measurement."""
    with bench(cpus, gap_ms) as here:
        yield Rig(here, seconds)
