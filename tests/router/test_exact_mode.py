"""A pool with `kv_events`: the gateway names attempts, the engine repeats the names, and routing knows its cache."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from policies.exact_index import ExactIndex
from policies.kv_tree import BlockStored
from policies.prefix_blocks import chain
from router import assembly, pool_builder
from router.config import ConfigError
from router.wire.openai import APIS, read_body, read_prompt
from tests.router.kv_publisher import Publisher
from tests.router.stack import Stack, whole

CONFIG: dict[str, Any] = {
    "tenants": {"acme": {"anonymous": True, "hosts": ["gateway"], "models": {"tiny": {"pool": "p"}}}},
    "pools": {"p": {"kv_events": True, "endpoints": [{"name": "e0", "url": "ENGINE:e0"}]}},
}
TOKENS = 250
BODY = {"model": "tiny", "messages": [{"role": "user", "content": "a few words, again and again; " * 32}]}


class Exact:
    """A stack whose engine tells its KV events."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.publisher = Publisher()
        self.config = copy.deepcopy(config)
        self.stack = Stack(self.config, ["e0"])
        self.stack.engines["e0"].reply = self._reply

    def __enter__(self) -> Exact:
        self.stack._thread.start()
        self.stack.run(self.publisher.open())
        endpoint = self.config["pools"]["p"]["endpoints"][0]
        endpoint |= {"kv_events_url": self.publisher.url, "kv_replay_url": self.publisher.replay_url}
        self.stack.run(self.stack._start())
        if self.config["pools"]["p"].get("kv_events"):
            self.stack.run(self.publisher.subscribed())
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.run(self.publisher.close())
        self.stack.__exit__()

    @property
    def sessions(self) -> list[str | None]:
        """What the engine was sent as session id, request by request."""
        return [_header(request, b"x-session-id") for request in self.stack.engines["e0"].received]

    @property
    def index(self) -> ExactIndex:
        index = self.stack.app.runtime.pools["p"].states[0].index
        assert isinstance(index, ExactIndex)
        return index

    @property
    def chain(self) -> tuple[int, ...]:
        """The prefix blocks of `BODY`."""
        spec = APIS["/v1/chat/completions"]
        prompt = read_prompt(spec, read_body(spec, json.dumps(BODY).encode()).fields)
        served = self.stack.app.runtime.gateway.models["acme"]["tiny"]
        return chain(served.root, prompt.segments)

    def ask(self, **headers: str) -> dict[str, str]:
        status, found, _ = self.stack.post("/v1/chat/completions", BODY, headers=headers)
        assert status == 200
        return found

    async def _reply(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        session = _header(request, b"x-session-id")
        if len(self.stack.engines["e0"].received) == 1:  # the second time all of it is cached
            await self.publisher.publish(BlockStored(tuple(range(15)), None, 16, session))
        usage = {"prompt_tokens": TOKENS, "completion_tokens": 1, "total_tokens": TOKENS + 1}
        writer.write(whole(json.dumps({"object": "chat.completion", "choices": [], "usage": usage}).encode()))


def _header(request: bytes, name: bytes) -> str | None:
    for line in request.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        if line.lower().startswith(name + b":"):
            return line.partition(b":")[2].strip().decode()
    return None


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_every_attempt_has_a_session_id_of_the_gateways_own() -> None:
    with Exact(CONFIG) as exact:
        exact.ask(**{"x-session-id": "mine", "x-request-id": "same"})
        exact.ask(**{"x-session-id": "mine", "x-request-id": "same"})
        first, second = exact.sessions
        assert first is not None
        assert second is not None
        assert first != second
        assert {"mine", "same"}.isdisjoint({first, second})


def test_what_the_engine_tells_is_what_routing_predicts() -> None:
    with Exact(CONFIG) as exact:
        exact.ask()
        until(lambda: exact.index.in_sync)
        until(lambda: exact.index.cached_tokens(exact.chain) > 0)  # settled, some time after the answer
        predicted = int(exact.ask()["x-promptlane-cached-tokens"])
        assert 100 <= predicted <= 15 * 16
        totals = exact.stack.process.metrics.render().decode()
        assert 'promptlane_kv_events_total{endpoint="e0",pool="p"} 1.0' in totals
        assert 'promptlane_kv_in_sync{endpoint="e0",pool="p"} 1.0' in totals


def test_without_exact_mode_engines_are_sent_no_session_id() -> None:
    config = copy.deepcopy(CONFIG)
    del config["pools"]["p"]["kv_events"]
    with Exact(config) as exact:
        exact.ask()
        assert exact.sessions == [None]
        assert not exact.index.in_sync
        assert "promptlane_kv_in_sync{" not in exact.stack.process.metrics.render().decode()


def test_a_missing_pyzmq_is_a_mistake_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_builder, "installed", lambda: False)
    stack = Stack({}, [])
    config = copy.deepcopy(CONFIG)
    config["pools"]["p"]["endpoints"] = [{"name": "e0", "url": "http://e", "kv_events_url": "tcp://e:5557"}]
    from router.assembly import build
    from router.metrics import Metrics
    from router.process import Process
    from tests.router.stack import COUNTER, SECRET

    with pytest.raises(ConfigError, match="kv-events"):
        build(stack.configure(config), Process(SECRET, COUNTER, Metrics()))
    stack.loop.close()


def test_exact_mode_comes_and_goes_by_reloads() -> None:
    with Exact(CONFIG) as exact:
        exact.ask()
        until(lambda: exact.index.in_sync)
        index, off = exact.index, copy.deepcopy(exact.config)
        off["pools"]["p"]["kv_events"] = False
        for config, on in ((off, False), (exact.config, True)):
            exact.stack.run(reload(exact.stack, config))
            until(lambda on=on: index.followed == on)
            assert exact.index is index
        until(lambda: index.in_sync)


async def reload(stack: Stack, config: dict[str, Any]) -> None:
    before = stack.app.runtime
    stack.app.runtime = assembly.build(stack.configure(config), stack.process, before)
    stack.app.runtime.start()
    await before.stop(stack.app.runtime)


def test_a_client_cannot_make_the_engine_tell_of_blocks_that_it_did_not_store() -> None:
    """vLLM's report mode `full` repeats cached blocks as stored ones, which would be counted as further copies."""
    with Exact(CONFIG) as exact:
        body = {**BODY, "vllm_xargs": {"kv_cache_report_mode": "full", "session_id": "mine", "kept": 1}}
        assert exact.stack.post("/v1/chat/completions", body)[0] == 200
        sent = json.loads(exact.stack.engines["e0"].received[0].partition(b"\r\n\r\n")[2])
        assert sent["vllm_xargs"] == {"kept": 1}
