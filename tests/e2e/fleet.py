"""Engines that can be broken, and one gateway process before them (`front.py`).

Floor: tests only; simulated engines, as nothing else hangs, dies and comes back on command.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.engine.launch import Engine, start_engine
from tests.e2e.front import Front, running_front
from tests.e2e.stack import ENGINE_MODEL

LARGE = 30_000
"""Tokens whose prefill is predicted to take more than 2 s before anything is learned: nothing is sent behind it."""
ENGINE = {"prefill_tokens_per_second": 150_000, "decode_step_seconds": 0.001, "max_model_len": 400_000}
"""Ten times faster than the gateway believes at first, so that tests are over soon."""
SLOW = {"decode_step_seconds": 0.02}
HELD = 50.0
"""As a fault's `factor`: streams of an engine that is SLOW say a token a second, so that a long one goes on for as long
as a busy machine takes to look at it."""


@dataclass
class Fleet(Front):
    """The gateway and its engines, in the order of `urls`."""

    engines: tuple[Engine, ...] = ()

    def seen(self, engine: int = 0) -> list[dict[str, Any]]:
        """The bodies that reached an engine, in order."""
        return [json.loads(one["body"]) for one in self.engines[engine].requests()]

    def sizes(self, engine: int = 0) -> list[int]:
        """The chats that reached an engine, in order, each as the tokens of its prompt."""
        return [len(one["messages"][-1]["content"]) // 4 for one in self.seen(engine)]


@contextmanager
def running_fleet(engines: int, *, grace: float = 20.0, **options: Any) -> Iterator[Fleet]:
    """Starts all of it. `options`: of the engines; `grace`: seconds for what is under way when it is told to end."""
    with ExitStack() as stack:
        started = tuple(stack.enter_context(start_engine(ENGINE_MODEL, **ENGINE | options)) for _ in range(engines))
        fleet = stack.enter_context(running_front(Fleet, [engine.url for engine in started], grace=grace))
        fleet.engines = started
        yield fleet


@asynccontextmanager
async def anew(fleet: Fleet) -> AsyncIterator[None]:
    """Engines that are well and have seen nothing; afterwards nothing may be left in the gateway's books."""
    for engine in fleet.engines:
        engine.fault("none")
        engine.clear()
    yield
    for engine in fleet.engines:
        engine.fault("none")
    await fleet.settled()
