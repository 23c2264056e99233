"""What is soaked: simulated engines and one gateway process in front of them, and how each is looked into.

Everything is a child of this process that ends with it, however it ends.
"""

from __future__ import annotations

import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.engine.launch import Engine, start_engine
from benchmarks.overhead_parts.answers import MODEL
from benchmarks.overhead_parts.gateways import PromptlaneInterpreted, fetch
from benchmarks.overhead_parts.interpreters import Interpreter
from benchmarks.overhead_parts.processes import Failed

ENGINE_MODEL = "tiny"
"""Another name than clients ask for, so that the alias is rewritten in every chunk."""
LONGEST_REPLY = 8_192
"""Tokens: engines stop at `max_tokens`, never by themselves."""
_PREFILL_TOKENS_PER_SECOND = 1e6  # prompts cost next to nothing: thousands begin within seconds
_TROUBLE = re.compile(r" (ERROR|CRITICAL) |^Traceback|never (retrieved|awaited)", re.MULTILINE)


class SoakGateway(PromptlaneInterpreted):
    """One gateway process that never refuses for want of seats: everything else is on as in `bench-overhead`."""

    def __init__(self, streams: int) -> None:
        super().__init__()
        self._streams = streams
        self._log = Path()

    @property
    def python(self) -> Interpreter:
        """This environment's: another version of the same minor one may need packages that are not here, as the client
        of a Redis does, and what is looked at is no ratio of CPU."""
        return Interpreter(Path(sys.executable))

    def _config(self, backends: Sequence[str], folder: Path) -> dict[str, Any]:
        self._log = folder / f"{self.name}.log"
        config = super()._config(backends, folder)
        config["tenants"]["bench"]["models"][MODEL]["engine_model"] = ENGINE_MODEL
        for endpoint in config["pools"]["bench"]["endpoints"]:
            endpoint["max_in_flight"] = self._streams
        return config | {"lanes": {lane: {"max_waiting": self._streams} for lane in ("short", "long")}}

    def ready(self) -> bool:
        """Ready, and every endpoint healthy."""
        return self._admin("/readyz") is not None and all(one["healthy"] for one in self.endpoints())

    def endpoints(self) -> list[dict[str, Any]]:
        """What `/admin/state` says of them; none when it does not answer."""
        endpoints: list[dict[str, Any]] = self.pool()["endpoints"]
        return endpoints

    def pool(self) -> dict[str, Any]:
        state = self._admin("/admin/state")
        pool: dict[str, Any] = {"endpoints": [], "waiting": 0} if state is None else json.loads(state)["pools"]["bench"]
        return pool

    def counter(self, name: str) -> float:
        """The sum of a family in its `/metrics`; 0 while it has no children."""
        return metric_sum(self._admin("/metrics") or b"", name)

    def _admin(self, path: str) -> bytes | None:
        return fetch(f"http://127.0.0.1:{self._admin_port}{path}")

    @property
    def pid(self) -> int:
        return self.pids[0]

    @property
    def open_files(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def require_running(self) -> None:
        """Raises Failed, with the end of its log, when the process has ended."""
        assert self._child is not None
        if not self._child.running:
            raise Failed(f"the gateway ended by itself {self._child.last_words()}".strip())

    def trouble(self) -> list[str]:
        """Lines of its log that speak of a fault."""
        return [line for line in self._log.read_text(errors="replace").splitlines() if _TROUBLE.search(line)]


@dataclass(frozen=True)
class Stack:
    """Running. `files_at_start`: the gateway's file descriptors before the first client."""

    engines: dict[str, Engine]
    gateway: SoakGateway
    files_at_start: int

    @property
    def engine_pids(self) -> list[int]:
        return [engine.pid for engine in self.engines.values()]


def metric_sum(exposition: bytes, name: str) -> float:
    """The sum over all children of one family in Prometheus' text format."""
    values = re.findall(rb"^%b(?:\{[^}]*\})? (\S+)" % re.escape(name.encode()), exposition, re.MULTILINE)
    return sum(map(float, values))


@contextmanager
def running(streams: int, engines: int, step_seconds: float) -> Iterator[Stack]:
    """Engines with one token a step of at least `step_seconds`, and the gateway. Raises Failed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-soak-")))
        started = {f"bench-{number}": _engine(stack, streams, step_seconds) for number in range(engines)}
        gateway = SoakGateway(streams)
        stack.callback(gateway.stop)
        gateway.start([engine.url for engine in started.values()], folder, os.sched_getaffinity(0))
        yield Stack(started, gateway, gateway.open_files)


def _engine(stack: ExitStack, streams: int, step_seconds: float) -> Engine:
    try:
        engine = start_engine(
            ENGINE_MODEL,
            max_num_seqs=streams,
            decode_step_seconds=step_seconds,
            prefill_tokens_per_second=_PREFILL_TOKENS_PER_SECOND,
            reply_tokens=LONGEST_REPLY,
        )
    except RuntimeError as reason:
        raise Failed(str(reason)) from None
    return stack.enter_context(engine)
