"""One turn of one gateway: start it, measure it three ways, stop it. All turns share the backends and the load."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.overhead_parts.gateways import Gateway
from benchmarks.overhead_parts.measure import cpu_seconds, machine_cpu_seconds, tree
from benchmarks.overhead_parts.measures import REQUESTS_NAME, Measure, figures
from benchmarks.overhead_parts.processes import OWN_MODULES, Child, Failed
from benchmarks.overhead_parts.traffic import LATENCY, REQUESTS, STREAMS, Scenario

GAP_MS = 10.0
_BACKENDS = 2
_START_SECONDS = 15.0
_SPARE_SECONDS = 30.0  # beyond the time that a measurement is meant to take: a gateway slower than this has failed
_COUNT_SECONDS = 60.0  # for a number of requests that takes a few, on a machine that is not busy
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
    more: dict[str, float] = field(default_factory=dict)
    """The figures of `measures`, by name, in a full run."""


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
        self.folder = folder
        self.gateway_cpus, self._all_cpus = cpus[0], cpus[0] | cpus[1]
        self.backends = backends
        self.urls = [f"http://127.0.0.1:{port}" for port in backends]
        self._load = load

    def turn(self, gateway: Gateway, seconds: float, measures: Sequence[Measure] = ()) -> Turn:
        """Starts, measures (about three times `seconds`, 1.3 for each of the `measures`, and what the gateway does
        afterwards) and stops. Raises Failed."""
        folder = Path(tempfile.mkdtemp(prefix=f"{gateway.name}-", dir=self.folder))
        try:
            cpus = self._all_cpus if gateway.all_cores else self.gateway_cpus
            gateway.start(self.urls, folder, cpus)
            noise = Noise()
            turn = self._measure(gateway, seconds, measures)
            return replace(turn, others_percent=noise.percent())
        finally:
            gateway.stop()

    def count(self, gateway: Gateway, scenario: Scenario, answers: int) -> None:
        """So many requests to a gateway that runs. Raises Failed."""
        target = {"port": gateway.port, "headers": gateway.headers}
        self.ask("count", scenario, _COUNT_SECONDS, {"target": target, "answers": answers})

    def _measure(self, gateway: Gateway, seconds: float, measures: Sequence[Measure]) -> Turn:
        target, on_gateway = self._target(gateway)
        paired = {"direct": {"port": self.backends[0], "headers": {}}, "seconds": seconds * _LATENCY_SHARE}
        measures = [one for one in measures if gateway.heavy or not one.heavy]
        more: dict[str, float] = {}
        # Streams leave the core mostly idle, and take half as much again behind a rest as behind a load, of any
        # gateway: so they come first, behind streams that nobody counts.
        self.ask("stream", STREAMS, seconds, on_gateway | {"waves": 1})
        streams = self.ask("stream", STREAMS, seconds, on_gateway | {"waves": waves(STREAMS, seconds)})
        added = self.ask("compare", LATENCY, seconds, target | paired)
        for one in measures:
            if one.scenario.chunks:
                how = on_gateway | {"waves": one.waves or waves(one.scenario, seconds)}
                more |= figures(one.name, self.ask("stream", one.scenario, seconds, how))
        plain = self._hammered(gateway, REQUESTS, seconds)
        for one in measures:
            if not one.scenario.chunks:
                more |= figures(one.name, self._hammered(gateway, one.scenario, seconds))
        return Turn(
            request_us=plain["cpu_seconds"] / plain["answers"] * 1e6,
            chunk_us=streams["cpu_seconds"] / streams["chunks"] * 1e6,
            added_p50_ms=added["p50_ms"],
            requests_per_s=plain["answers"] / plain["seconds"],
            first_byte_p50_ms=streams["first_byte_p50_ms"],
            rss_mb=max(plain["rss_mb"], streams["rss_mb"]),
            busy_percent=plain["busy_seconds"] / plain["seconds"] * 100,
            others_percent=0.0,
            raw={"requests": plain, "streams": streams, "latency": added},
            more={"added p99 ms": added["p99_ms"], **figures(REQUESTS_NAME, plain), **more},
        )

    def _target(self, gateway: Gateway) -> tuple[dict[str, Any], dict[str, Any]]:
        """How the load generator is told of it, without its processes and with them."""
        target = {"target": {"port": gateway.port, "headers": gateway.headers, "exact": gateway.exact}}
        return target, target | {"roots": gateway.pids}

    def _hammered(self, gateway: Gateway, scenario: Scenario, seconds: float) -> dict[str, Any]:
        """As many requests as can be. `cpu_seconds` has what the gateway still does afterwards for them, `busy_seconds`
        has not; were it not waited for, it would be counted for the next measurement's."""
        _, on_gateway = self._target(gateway)
        result = self.ask("hammer", scenario, seconds, on_gateway | lasting(seconds))
        result["busy_seconds"] = result["cpu_seconds"]
        if gateway.afterwards:
            before = cpu_seconds(tree(gateway.pids))
            time.sleep(gateway.afterwards)
            later = cpu_seconds(tree(gateway.pids)) - before
            result["cpu_seconds"] += later / (1 + _WARMUP_SHARE)  # the rest is the warm-up's
        return result

    def ask(self, do: str, scenario: Scenario, seconds: float, arguments: dict[str, Any]) -> dict[str, Any]:
        """One measurement by the load generator, meant to take so long. Raises Failed."""
        limit = _SPARE_SECONDS + 2 * seconds
        self._load.say(json.dumps({"do": do, "limit_s": limit, "scenario": asdict(scenario), **arguments}))
        try:
            result: dict[str, Any] = self._load.hear(limit + _ANSWER_SECONDS)
        except Failed as reason:
            raise RuntimeError(f"the load generator is stuck: {reason}") from None
        if "error" in result:
            raise Failed(f"{do}: {result['error']}")
        return result


def lasting(seconds: float) -> dict[str, float]:
    return {"seconds": seconds, "warmup_seconds": seconds * _WARMUP_SHARE}


def waves(scenario: Scenario, seconds: float) -> int:
    """How many streams one after the other fill about this time, at least one."""
    return max(1, round(seconds / (scenario.chunks * GAP_MS / 1000)))


@contextmanager
def bench(cpus: tuple[set[int], set[int]], gap_ms: float = GAP_MS) -> Iterator[Bench]:
    """Backends and load generator, started; all end with the block. `gap_ms`: between the chunks of a stream."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-bench-")))

        def start(module: str, *arguments: str) -> Child:
            command = [sys.executable, "-m", f"benchmarks.overhead_parts.{module}", *arguments]
            child = Child(command, cpus[1], folder / f"{module}.log", piped=True, env=OWN_MODULES)
            return stack.enter_context(child)

        backends = [start("backend", "--gap-ms", str(gap_ms)) for _ in range(_BACKENDS)]
        ports = [backend.hear(_START_SECONDS)["port"] for backend in backends]
        yield Bench(folder, cpus, ports, start("load"))
