"""A pool before simulated engines on a virtual clock: what takes minutes there is over in a moment, the same each time.

Floor: tests only. Pool, desk, profile and engine model are the very ones that serve; only sockets and time are missing.
"""

from __future__ import annotations

import asyncio
from itertools import count
from random import Random

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.faults import FaultSwitch
from benchmarks.engine.metrics import EngineMetrics
from benchmarks.engine.model import Event, Sequence
from benchmarks.engine.runtime import Runtime
from policies.types import InferenceRequest, Lane, Outcome
from router.pools import Pool
from tests.policies.builders import make_state
from tests.router.builders import make_pool

_BLOCK_TOKENS = 64


class _Listener:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.first: asyncio.Future[None] = loop.create_future()
        self.last: asyncio.Future[None] = loop.create_future()

    def on_event(self, event: Event) -> None:
        if not self.first.done():
            self.first.set_result(None)
        if event.last:
            self.last.set_result(None)

    def on_abort(self, sequence: Sequence) -> None:
        raise AssertionError(f"{sequence.id} was given up")


class Fleet:
    """`engines` that are `speed` times as fast as the gateway believes at first, and a pool before them."""

    def __init__(self, profile: str, speed: float, engines: int = 2) -> None:
        loop = asyncio.get_running_loop()
        config = EngineConfig(prefill_tokens_per_second=15_000 * speed, decode_step_seconds=0.0122 / speed)
        tokens = config.kv_blocks * config.block_size
        self.states = [make_state(f"e{number}", kv_capacity_tokens=tokens) for number in range(engines)]
        self.pool: Pool = make_pool(self.states, clock=loop.time, profile=profile)
        self._engines = {
            state.endpoint.name: Runtime(config, EngineMetrics(config), FaultSwitch(), loop.time, asyncio.sleep)
            for state in self.states
        }
        self._tasks = [asyncio.create_task(engine.run()) for engine in self._engines.values()]
        self._random = Random(1)
        self._numbers = count()

    async def serve(self, clients: int, requests: int, tokens: int, output: int, *, stream: bool) -> float:
        """So many requests by clients that each send one after the other; how many were answered per second."""
        clock, left = asyncio.get_running_loop().time, iter(range(requests))
        began = clock()

        async def client() -> None:
            for _ in left:
                await self._request(tokens, output, stream)

        await asyncio.gather(*(client() for _ in range(clients)))
        return requests / (clock() - began)

    async def _request(self, tokens: int, output: int, stream: bool) -> None:
        now, number = asyncio.get_running_loop().time(), next(self._numbers)
        blocks = tuple(self._random.getrandbits(63) for _ in range(tokens // _BLOCK_TOKENS))
        ticket = await self.pool.dispatch(_request(number, tokens, output, blocks, now, stream=stream))
        engine, listener = self._engines[ticket.endpoint], _Listener()
        engine.submit(Sequence(f"s{number}", tokens, output, []), listener)
        if stream:
            await listener.first
            ticket.first_token()
        await listener.last
        if not stream:
            ticket.first_token()  # the answer is there, whole
        ticket.settle(Outcome(200, started=True, prompt_tokens=tokens, cached_tokens=0, completion_tokens=output))

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _request(
    number: int, tokens: int, output: int, blocks: tuple[int, ...], now: float, *, stream: bool
) -> InferenceRequest:
    return InferenceRequest(
        id=f"r{number}",
        tenant="acme",
        tier_priority=0,
        model="m",
        api="chat",
        lane=Lane.SHORT if tokens <= 2048 else Lane.LONG,
        prompt_tokens=tokens,
        max_output_tokens=output,
        prefix_blocks=blocks,
        tokens_per_block=float(_BLOCK_TOKENS),
        stream=stream,
        arrived_at=now,
        deadline=now + 1e6,
    )
