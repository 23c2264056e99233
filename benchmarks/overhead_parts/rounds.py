"""One turn of one gateway: start it, measure it three ways, stop it. All turns share the backends and the load."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.overhead_parts.gateways import Gateway
from benchmarks.overhead_parts.measure import cpu_seconds, machine_cpu_seconds, tree
from benchmarks.overhead_parts.processes import OWN_MODULES, Child, Failed
from benchmarks.overhead_parts.traffic import LATENCY, REQUESTS, STREAMS, Scenario

GAP_MS = 10.0
_BACKENDS = 2
_START_SECONDS = 15.0
_SPARE_SECONDS = 30.0  # beyond the time that a measurement is meant to take: a gateway slower than this has failed
_ANSWER_SECONDS = 10.0  # beyond that, for the load generator to say so
_WARMUP_SHARE = 0.3  # of the seconds of a measurement: connections open, caches and branch predictors settle
_LATENCY_SHARE = 0.5  # of the same: a thousand samples come quickly at one connection


@dataclass(frozen=True)
class Turn:
    """What one turn measured."""

    request_us: float
    chunk_us: float
    added_p50_ms: float
    requests_per_s: float
    first_byte_p50_ms: float
    rss_mb: float
    busy_percent: float
    """Of one core, under `REQUESTS`: clearly below 100, and the load was the limit of `requests_per_s`."""
    others_percent: float
    """Of one core, over the whole turn: what programs outside the benchmark took. It moves the figures, up or down."""
    raw: dict[str, Any]


class Noise:
    """What programs outside this one's process tree use from its making on."""

    def __init__(self) -> None:
        self._pids = tree([os.getpid()])
        self._started, self._all, self._own = time.monotonic(), machine_cpu_seconds(), cpu_seconds(self._pids)

    def percent(self) -> float:
        """Of one core; at least 0. The kernel counts the two sides with different clocks: a few percent are nothing."""
        others = (machine_cpu_seconds() - self._all) - (cpu_seconds(self._pids) - self._own)
        return max(0.0, others / (time.monotonic() - self._started) * 100)


class Bench:
    """The running backends and load generator; `turn` measures a gateway with them."""

    def __init__(self, folder: Path, cpus: tuple[set[int], set[int]], backends: list[int], load: Child) -> None:
        self._folder = folder
        self._gateway_cpus = cpus[0]
        self._backends = backends
        self._load = load

    def turn(self, gateway: Gateway, seconds: float) -> Turn:
        """Starts, measures (about 2.8 times `seconds`) and stops. Raises Failed."""
        folder = Path(tempfile.mkdtemp(prefix=f"{gateway.name}-", dir=self._folder))
        try:
            gateway.start([f"http://127.0.0.1:{port}" for port in self._backends], folder, self._gateway_cpus)
            noise = Noise()
            turn = self._measure(gateway, seconds)
            return replace(turn, others_percent=noise.percent())
        finally:
            gateway.stop()

    def _measure(self, gateway: Gateway, seconds: float) -> Turn:
        target = {"target": {"port": gateway.port, "headers": gateway.headers}}
        on_gateway = target | {"roots": gateway.pids}
        direct = {"port": self._backends[0], "headers": {}}
        lasting = {"seconds": seconds, "warmup_seconds": seconds * _WARMUP_SHARE}
        plain = self._ask("hammer", REQUESTS, seconds, on_gateway | lasting)
        streams = self._ask("stream", STREAMS, seconds, on_gateway | {"waves": waves(STREAMS, seconds)})
        paired = {"direct": direct, "seconds": seconds * _LATENCY_SHARE}
        added = self._ask("compare", LATENCY, seconds, target | paired)
        return Turn(
            request_us=plain["cpu_seconds"] / plain["answers"] * 1e6,
            chunk_us=streams["cpu_seconds"] / streams["chunks"] * 1e6,
            added_p50_ms=added["p50_ms"],
            requests_per_s=plain["answers"] / plain["seconds"],
            first_byte_p50_ms=streams["first_byte_p50_ms"],
            rss_mb=max(plain["rss_mb"], streams["rss_mb"]),
            busy_percent=plain["cpu_seconds"] / plain["seconds"] * 100,
            others_percent=0.0,
            raw={"requests": plain, "streams": streams, "latency": added},
        )

    def _ask(self, do: str, scenario: Scenario, seconds: float, arguments: dict[str, Any]) -> dict[str, Any]:
        limit = _SPARE_SECONDS + 2 * seconds
        self._load.say(json.dumps({"do": do, "limit_s": limit, "scenario": asdict(scenario), **arguments}))
        try:
            result: dict[str, Any] = self._load.hear(limit + _ANSWER_SECONDS)
        except Failed as reason:
            raise RuntimeError(f"the load generator is stuck: {reason}") from None
        if "error" in result:
            raise Failed(f"{do}: {result['error']}")
        return result


def waves(scenario: Scenario, seconds: float) -> int:
    """How many streams one after the other fill about this time, at least one."""
    return max(1, round(seconds / (scenario.chunks * GAP_MS / 1000)))


@contextmanager
def bench(cpus: tuple[set[int], set[int]]) -> Iterator[Bench]:
    """Backends and load generator, started; all of them end with the block."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-bench-")))

        def start(module: str, *arguments: str) -> Child:
            command = [sys.executable, "-m", f"benchmarks.overhead_parts.{module}", *arguments]
            child = Child(command, cpus[1], folder / f"{module}.log", piped=True, env=OWN_MODULES)
            return stack.enter_context(child)

        backends = [start("backend", "--gap-ms", str(GAP_MS)) for _ in range(_BACKENDS)]
        ports = [backend.hear(_START_SECONDS)["port"] for backend in backends]
        yield Bench(folder, cpus, ports, start("load"))
