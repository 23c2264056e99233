"""KV events of engines that are found: heard at their own addresses, from when they come until they go."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import yaml

from policies.exact_index import ExactIndex
from policies.kv_tree import BlockStored
from router.assembly import Runtime, build
from router.config import loads
from router.discovery_builder import build_sources, ready_sources
from router.metrics import Metrics
from router.process import Process
from tests.kubernetes_api import FakeKubernetes
from tests.router.discovery.conftest import until
from tests.router.kv_publisher import Publisher
from tests.router.stack import COUNTER, SECRET, sha256

CHAIN = tuple(range(1, 11))
FIRST, SECOND = "127.0.0.1", "127.0.0.2"  # of pods, each with an engine that publishes at the same port


class Gateway:
    """A runtime whose pool `p` finds its engines in the namespace acme."""

    def __init__(self, api: FakeKubernetes, port: int, replay: int | None) -> None:
        pods = {"namespace": "acme", "selector": "app=vllm", "port": "http"}
        tenant = {"api_keys": [{"id": "a", "sha256": sha256("k")}], "models": {"tiny": {"pool": "p"}}}
        discovery = {"kubernetes": pods, "kv_events_port": port, "kv_replay_port": replay}
        self.config: dict[str, Any] = {
            "kubernetes": {"api_url": api.url},
            "tenants": {"acme": tenant},
            "pools": {"p": {"kv_events": True, "discovery": discovery}},
        }
        self.process = Process(SECRET, COUNTER, Metrics())
        self.runtime: Runtime | None = None

    async def load(self, config: dict[str, Any] | None = None) -> None:
        """Serves by this configuration, after another one as after a reload."""
        read = loads(yaml.safe_dump(config or self.config).encode(), {"PROMPTLANE_SECRET": SECRET.decode()})
        before = self.runtime
        sources = build_sources(read, self.process.clock, before)
        await ready_sources(sources)
        self.runtime = build(read, self.process, before, sources)
        self.runtime.start()
        if before is not None:
            await before.stop(self.runtime)

    def index(self, name: str) -> ExactIndex | None:
        assert self.runtime is not None
        states = (state for state in self.runtime.pools["p"].states if state.endpoint.name == f"p.{name}")
        index = next((state.index for state in states), None)
        assert index is None or isinstance(index, ExactIndex)
        return index

    async def heard(self, name: str) -> ExactIndex:
        await until(f"{name} is found", lambda: self.index(name) is not None)
        index = self.index(name)
        assert index is not None
        await until(f"{name} is heard", lambda: index.followed)
        return index

    async def found(self, *names: str) -> None:
        wanted = {f"p.{name}" for name in names}
        runtime = self.runtime
        assert runtime is not None
        await until(f"{names} are found", lambda: {s.endpoint.name for s in runtime.pools["p"].states} == wanted)


@asynccontextmanager
async def publishing(*hosts: str) -> AsyncIterator[list[Publisher]]:
    """Engines at the same ports of these addresses."""
    engines: list[Publisher] = []
    try:
        for host in hosts:
            engine = Publisher(host=host)
            first = engines[0] if engines else None
            await engine.open(first.port if first else 0, (first.replay_port if first else 0) or 0)
            engines.append(engine)
        yield engines
    finally:
        for engine in engines:
            await engine.close()


@asynccontextmanager
async def gateway(engine: Publisher) -> AsyncIterator[tuple[Gateway, FakeKubernetes]]:
    async with AsyncExitStack() as stack:
        api = await asyncio.to_thread(FakeKubernetes().__enter__)
        stack.push_async_callback(asyncio.to_thread, api.__exit__)
        made = Gateway(api, engine.port, engine.replay_port)

        async def stop() -> None:
            if made.runtime is not None:
                await made.runtime.stop()

        stack.push_async_callback(stop)
        yield made, api


def stored(index: ExactIndex, first: int) -> tuple[str, BlockStored]:
    """Blocks of a request of ours: their session, and how the engine tells of them."""
    session = index.expect(CHAIN, 40, 4.0)
    return session, BlockStored(tuple(range(first, first + 10)), None, 4, session)


async def tell(engine: Publisher, index: ExactIndex, first: int) -> None:
    """A request is answered, and its blocks are told."""
    session, event = stored(index, first)
    await engine.publish(event)
    await until("it was told", lambda: index.in_sync)
    index.settle(session, 40, 0)
    await until("it is known", lambda: index.match(CHAIN) == 10)


async def test_each_engine_is_heard_at_its_own_address_from_when_it_comes_until_it_goes() -> None:
    async with publishing(FIRST, SECOND) as (one, two), gateway(one) as (our, api):
        api.pod("a", ip=FIRST, port=9)
        await our.load()
        first = await our.heard("a")
        await one.subscribed()
        await tell(one, first, 100)
        api.pod("b", ip=SECOND, port=9)
        second = await our.heard("b")
        await two.subscribed()
        assert second.match(CHAIN) == 0, "what the other one holds is not its own"
        await tell(two, second, 500)
        api.remove_pod("a")
        await our.found("b")
        async with asyncio.timeout(60):
            await one.left()
        assert not first.followed
        assert (second.in_sync, second.match(CHAIN)) == (True, 10), "nobody else's feed was touched"


async def test_a_pod_that_takes_the_address_of_another_starts_with_an_empty_cache() -> None:
    async with publishing(FIRST) as (engine,), gateway(engine) as (our, api):
        api.pod("a", ip=FIRST, port=9)
        await our.load()
        await engine.subscribed()
        await tell(engine, await our.heard("a"), 100)
        api.remove_pod("a")
        await our.found()
        await engine.left()
        api.pod("b", ip=FIRST, port=9)
        index = await our.heard("b")
        await until("its history was read", lambda: index.engine_blocks == 10)
        assert index.match(CHAIN) == 0, "what the one before has told of requests is not believed of this one"


async def test_a_reload_hears_on_and_forgets_nothing() -> None:
    async with publishing(FIRST) as (engine,), gateway(engine) as (our, api):
        api.pod("a", ip=FIRST, port=9)
        await our.load()
        index = await our.heard("a")
        await engine.subscribed()
        await tell(engine, index, 100)
        changed = copy.deepcopy(our.config)
        changed["pools"]["p"]["retries"] = 3
        await our.load(changed)
        assert our.index("a") is index
        await until("it is heard again", lambda: index.in_sync)
        assert index.match(CHAIN) == 10
        changed["pools"]["p"]["kv_events"] = False
        await our.load(changed)
        assert our.index("a") is index
        await until("it is not heard any more", lambda: not index.followed)


async def test_two_engines_at_one_address_are_estimated_as_nobody_can_say_whose_an_event_is() -> None:
    async with publishing(FIRST) as (engine,), gateway(engine) as (our, api):
        api.pod("a", ip=FIRST, port=9)
        await our.load()
        index = await our.heard("a")
        await engine.subscribed()
        api.pod("b", ip=FIRST, port=10)
        await our.found("a", "b")
        await engine.left()
        await until("it is estimated", lambda: not index.followed)
        api.remove_pod("b")
        await our.found("a")
        assert await our.heard("a") is index
