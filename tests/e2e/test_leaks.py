"""After a storm nothing is left: every sum, queue, lane, share, future and learner of the gateway is back at nothing.

Floor: tests only. The very app over real sockets, but in this process, so that its books can be read to the last line;
the engines are processes that die, hang and come back meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from benchmarks.engine.launch import Engine, start_engine
from router.app import App
from router.assembly import build
from router.config import Config, loads
from router.metrics import Metrics
from router.pools import Pool
from router.process import Process
from router.server import listener, open_socket
from tests.e2e.fleet import ENGINE, LARGE
from tests.e2e.front import HEALTH, MODEL, chat, key, prompt, until
from tests.e2e.stack import ENGINE_MODEL
from tests.router.stack import COUNTER, SECRET, sha256

CHAT = "/v1/chat/completions"
HELD_BY_AN_ENGINE = ("running", "waiting", "held", "kv_used_blocks")
TENANTS = ("acme", "globex")
STORM = 160
LIMITS = {"concurrency": 10_000, "requests_per_minute": 1_000_000, "tokens_per_minute": 1_000_000_000}


@pytest.fixture(scope="module")
def engines() -> Iterator[list[Engine]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(start_engine(ENGINE_MODEL, **ENGINE)) for _ in range(2)]


def configuration(engines: list[Engine], window: int) -> Config:
    tenant = {"limits": LIMITS, "models": {MODEL: {"pool": "p", "engine_model": ENGINE_MODEL}}}
    endpoints = [{"name": f"e{number}", "url": engine.url} for number, engine in enumerate(engines)]
    timeouts = {"first_byte": 1.0, "idle": 1.0}
    pool = {"shared": True, "health": HEALTH, "timeouts": timeouts, "endpoints": endpoints}
    keys = {name: [{"id": "app", "sha256": sha256(key(name))}] for name in TENANTS}
    file = {
        "routing": {"window": window},
        "tenants": {name: {**tenant, "api_keys": keys[name]} for name in TENANTS},
        "pools": {"p": pool},
        "lanes": {"short": {"max_waiting": 40, "max_wait": 3.0}, "long": {"max_wait": 3.0}},
    }
    return loads(json.dumps(file).encode(), {"PROMPTLANE_SECRET": SECRET.decode()})  # YAML holds JSON


class Gateway:
    """The app, its address, and the pools of every configuration that it has had."""

    def __init__(self, app: App, url: str, process: Process) -> None:
        self.app = app
        self.url = url
        self._process = process
        self.pools = [app.runtime.pools["p"]]

    async def reload(self, config: Config) -> None:
        before, self.app.runtime = self.app.runtime, build(config, self._process, self.app.runtime)
        self.app.runtime.start()
        await before.stop(self.app.runtime)
        self.pools.append(self.app.runtime.pools["p"])


@pytest.fixture
async def gateway(engines: list[Engine]) -> AsyncIterator[Gateway]:
    process = Process(SECRET, COUNTER, Metrics())
    app = App(build(configuration(engines, 64), process))
    sock = open_socket("127.0.0.1", 0)
    server = listener(app, timeout_graceful_shutdown=1)
    serving = asyncio.create_task(server.serve([sock]))
    app.runtime.start()
    running = Gateway(app, f"http://127.0.0.1:{sock.getsockname()[1]}", process)
    await server.listening.wait()
    yield running
    server.should_exit = True
    await serving
    await running.app.runtime.stop()


def books(pool: Pool) -> list[str]:
    """What the pool still holds; nothing when nobody is under way."""
    desk, found = pool.desk, dict[str, float]()
    found["futures"] = len(pool.waiting)
    found["queue"] = len(desk) + len(desk.queue.retries) + sum(desk.queue.waiting.values()) + len(desk.queue._lines)
    found["lanes"] = sum(desk.gate.requests.values()) + sum(desk.gate.tokens.values())
    found["shares"] = sum(len(share) + len(share._waiting) for share in desk.shares.values())
    for state in pool.states:
        name = state.endpoint.name
        found[f"{name} in flight"] = state.in_flight + state.pending_prefills
        found[f"{name} seconds"] = state.pending_prefill_seconds
        found[f"{name} tokens"] = state.outstanding_tokens + state.context_tokens + state.decode_tokens
        found[f"{name} kv"] = state.kv_tokens + state.index.held
        found[f"{name} learner"] = len(state.learner) + len(state.silence)
    for place in pool.places:
        found[f"{place.state.endpoint.name} connections"] = place.upstream.busy
    return [f"{what}: {value}" for what, value in found.items() if value]


class Storm:
    """Clients of every kind; some leave."""

    def __init__(self, http: httpx2.AsyncClient, seed: int) -> None:
        self._random = random.Random(seed)
        self._http = http
        self.statuses: list[int] = []
        self._prefix = prompt(2500, "shared")

    async def client(self) -> None:
        draw = self._random
        await asyncio.sleep(draw.uniform(0, 1.5))
        headers = {"authorization": f"Bearer {key(draw.choice(TENANTS))}"}
        if draw.random() < 0.2:
            headers["x-promptlane-lane"] = "batch"
        patience = draw.choice((0.05, 0.3, 30.0, 30.0))
        path, body = self._request(draw)
        with contextlib.suppress(TimeoutError, httpx2.RemoteProtocolError, httpx2.ReadError):
            async with asyncio.timeout(patience):
                answer = await self._http.post(path, json=body, headers=headers)
                self.statuses.append(answer.status_code)

    def _request(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        text = draw.choice(("", self._prefix)) + prompt(draw.choice((8, 300, 3000, 12_000)), draw.random())
        output = {"max_tokens": draw.choice((1, 8, 200)), "stream": draw.random() < 0.5}
        asked: tuple[tuple[str, dict[str, Any]], ...] = (
            (CHAT, chat(text=text, **output)),
            (CHAT, chat(text=text, n=2, **output)),
            ("/v1/completions", {"model": MODEL, "prompt": [text, "another"], **output}),
            ("/v1/embeddings", {"model": MODEL, "input": [text, "another"]}),
            ("/v1/responses", {"model": MODEL, "input": text, "max_output_tokens": 8, "stream": True}),
            ("/v1/messages", {"model": MODEL, "messages": [{"role": "user", "content": text}], **output}),
        )
        return draw.choice(asked)


async def disasters(gateway: Gateway, engines: list[Engine]) -> None:
    """One engine after the other breaks in some way and comes back, with a reload each time."""
    few = {"count": 2}  # an endpoint is given up after three failures in a row, and for a second nobody would get far
    kinds: tuple[tuple[str, dict[str, Any]], ...] = (
        ("hang", {}),
        ("die-mid-stream", few | {"after_chunks": 0}),
        ("refuse", {}),
        ("silent", few),
        ("error", few),
    )
    for number, (kind, fields) in enumerate(kinds):
        engine = engines[number % 2]
        await asyncio.to_thread(engine.fault, kind, **fields)
        await asyncio.sleep(0.2)
        await gateway.reload(configuration(engines, 64 - number))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(engine.fault, "none")


@pytest.mark.parametrize("seed", [1, 2])
async def test_after_a_storm_nothing_is_left(gateway: Gateway, engines: list[Engine], seed: int) -> None:
    async def healthy() -> bool:
        return all(place.available(gateway.pools[-1].clock()) for place in gateway.pools[-1].places)

    await until("both engines are healthy", healthy)
    bounds = httpx2.Limits(max_connections=None)
    async with httpx2.AsyncClient(base_url=gateway.url, timeout=60, trust_env=False, limits=bounds) as http:
        storm = Storm(http, seed)
        async with asyncio.TaskGroup() as group:
            for number in range(STORM):
                group.create_task(storm.client(), name=f"client {number}")
            group.create_task(disasters(gateway, engines))
        assert storm.statuses.count(200) > STORM / 4
        await nothing_left(gateway, engines)
        await until("both engines are taken for well again", healthy)
        headers = {"authorization": f"Bearer {key('acme')}"}
        assert (await http.post(CHAT, json=chat(LARGE), headers=headers)).status_code == 200


async def nothing_left(gateway: Gateway, engines: list[Engine]) -> None:
    left: list[str] = []

    async def nothing() -> bool:
        left[:] = [line for pool in gateway.pools for line in books(pool)]
        for number, engine in enumerate(engines):  # which hear of a client that left some turns after the gateway
            state = await asyncio.to_thread(engine.state)
            left.extend(f"engine {number}: {name} {state[name]}" for name in HELD_BY_AN_ENGINE if state[name])
        return not left

    try:
        await until("nothing is left", nothing)
    except AssertionError:
        raise AssertionError(f"left: {left}") from None
    assert all(limits.in_flight == 0 for limits in gateway.app.runtime.gateway.limits.values())
