"""A real vLLM tells what its cache holds; what is predicted from that is what its answers then report.

The cache is small (72 blocks of 32 tokens), so that conversations push each other out.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from random import Random

import httpx2
import pytest

from policies.exact_index import ExactIndex
from policies.prefix_blocks import chain, root
from policies.tokens import TokenEstimator
from router.kv_events import Feed, KvEventListener
from router.wire.openai import APIS, engine_body, read_body, read_prompt
from tests.real_vllm.servers import start_vllm
from tests.router.stack import Stack
from tests.servers import Server, free_port

pytestmark = pytest.mark.real_vllm

ENGINE_BLOCK = 32  # tokens
BLOCK_BYTES = 64  # of ours: some 20 tokens, so that what is compared is the engine's grain and not ours
WORDS = "the class method returns value of object when called with list name and import error from".split()  # noqa: SIM905
CHAT = APIS["/v1/chat/completions"]


@pytest.fixture(scope="module")
def ports() -> tuple[int, int]:
    return free_port(), free_port()


@pytest.fixture(scope="module")
def engine(ports: tuple[int, int]) -> Iterator[Server]:
    config = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{ports[0]}",  # with a star it binds, without it would connect
        "replay_endpoint": f"tcp://127.0.0.1:{ports[1]}",
        "topic": "kv-events",
    }
    server = start_vllm(
        env={"VLLM_SERVER_DEV_MODE": "1"},
        num_gpu_blocks_override="72",
        max_model_len="2048",
        kv_events_config=json.dumps(config),
    )
    yield server
    server.stop()


class Gateway:
    """What the gateway does with one endpoint, without the rest."""

    def __init__(self, engine: Server, ports: tuple[int, int], name: str) -> None:
        self.index = ExactIndex(1000, name)
        self.counts: Counter[str] = Counter()
        urls = [f"tcp://127.0.0.1:{port}" for port in ports]
        feed = Feed("e0", self.index, urls[0], urls[1], lambda what, amount: self.counts.update({what: amount}))
        self.listener = KvEventListener("p", lambda: [feed])
        self.http = httpx2.AsyncClient(base_url=engine.url, timeout=60.0, trust_env=False)
        self.estimator = TokenEstimator()
        self.events_before = -1  # those before the last request

    async def ask(self, messages: list[dict[str, str]]) -> tuple[int, int, str]:
        """One request: the cached tokens that were predicted, those that the engine reports, and its answer."""
        body = {"model": "tiny", "messages": messages, "max_tokens": 4, "temperature": 0}
        fields = read_body(CHAT, json.dumps(body).encode()).fields
        prompt = read_prompt(CHAT, fields)
        blocks = chain(root("salt", "tiny"), prompt.segments, BLOCK_BYTES)
        tokens = self.estimator.estimate(prompt.text_bytes)
        predicted = self.index.cached_tokens(blocks)
        hold = self.index.hold(blocks)
        session = self.index.expect(blocks, tokens, tokens * BLOCK_BYTES / sum(map(len, prompt.segments)))
        sent = {**json.loads(engine_body(fields, "tiny", "salt")), "session_id": session}
        self.events_before = self.counts["events"]
        answer = (await self.http.post("/v1/chat/completions", json=sent)).json()
        usage = answer["usage"]
        cached = usage["prompt_tokens_details"]["cached_tokens"] or 0
        self.index.let_go(hold)
        self.index.settle(session, usage["prompt_tokens"], cached)
        self.estimator.observe(prompt.text_bytes, usage["prompt_tokens"])
        return predicted, cached, answer["choices"][0]["message"]["content"]


@pytest.fixture
async def gateway(engine: Server, ports: tuple[int, int], request: pytest.FixtureRequest) -> AsyncIterator[Gateway]:
    one = Gateway(engine, ports, request.node.name[-24:])
    one.listener.start()
    yield one
    await one.listener.stop()
    await one.http.aclose()


def words(random: Random, count: int) -> str:
    return " ".join(random.choices(WORDS, k=count))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # what is waited for is in another process
            await asyncio.sleep(0.01)


async def settled(gateway: Gateway) -> None:
    """The events of what was answered may be behind the answer: the first of them, and those on its heels."""
    await until(lambda: gateway.counts["events"] > gateway.events_before)
    seen = -1
    while seen != gateway.counts["events"]:
        seen = gateway.counts["events"]
        await asyncio.sleep(0.15)


async def test_predicted_cached_tokens_are_the_engines_own_within_a_block(gateway: Gateway) -> None:
    random = Random(5)
    talks = [[{"role": "system", "content": f"{number} " + words(random, 120)}] for number in range(4)]
    pairs: list[tuple[int, int]] = []
    last, cut = [0] * 4, 0
    for turn in range(12):
        for number in random.sample(range(4), 4) if turn % 3 else [0, 0, 1, 1]:
            talk = talks[number]
            talk.append({"role": "user", "content": words(random, 50)})
            predicted, cached, answer = await gateway.ask(talk)
            talk.append({"role": "assistant", "content": answer})
            pairs.append((predicted, cached))
            cut += cached < last[number]
            last[number] = cached
            await settled(gateway)
    assert gateway.index.in_sync
    assert gateway.counts["gaps"] == gateway.counts["malformed"] == 0
    assert gateway.index.engine_blocks <= 72
    assert cut >= 5, f"conversations were pushed out: {pairs}"
    assert max(abs(predicted - cached) for predicted, cached in pairs) <= ENGINE_BLOCK, pairs


async def test_an_emptied_cache_is_known_to_be_empty_once_the_engine_runs_again(gateway: Gateway) -> None:
    """vLLM tells of it with the next request's events: an idle engine tells nothing."""
    talks = [[{"role": "user", "content": words(Random(seed), 200)}] for seed in (6, 7)]
    for talk in talks:
        await gateway.ask(talk)
        await settled(gateway)
        predicted, cached, _ = await gateway.ask(talk)
        assert cached > 0
        assert abs(predicted - cached) <= ENGINE_BLOCK
    answer = await gateway.http.post("/reset_prefix_cache")
    assert answer.status_code == 200
    _, cached, _ = await gateway.ask(talks[0])
    assert cached == 0
    await settled(gateway)
    predicted, cached, _ = await gateway.ask(talks[1])
    assert (predicted, cached) == (0, 0)
    await settled(gateway)
    predicted, cached, _ = await gateway.ask(talks[0])
    assert cached > 0
    assert abs(predicted - cached) <= ENGINE_BLOCK


async def test_a_gateway_that_starts_late_reads_the_engines_history(engine: Server, gateway: Gateway) -> None:
    """The sessions of its predecessor mean nothing to it; what they stored does, once a request of its own goes on."""
    await until(lambda: gateway.counts["events"] > 0)
    await settled(gateway)
    talk = [{"role": "user", "content": words(Random(7), 200)}]
    before = Gateway(engine, (1, 1), "before")
    try:
        await before.ask(talk)
    finally:
        await before.http.aclose()
    await settled(gateway)
    talk += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": words(Random(8), 50)}]
    _, cached, _ = await gateway.ask(talk)
    assert cached > 0
    await settled(gateway)
    predicted, cached, _ = await gateway.ask(talk)
    assert abs(predicted - cached) <= ENGINE_BLOCK


def test_a_gateway_in_exact_mode_knows_what_its_engine_holds(engine: Server, ports: tuple[int, int]) -> None:
    """Also by way of `/v1/messages`, whose bodies have no field for a session: the header carries it."""
    urls = {"kv_events_url": f"tcp://127.0.0.1:{ports[0]}", "kv_replay_url": f"tcp://127.0.0.1:{ports[1]}"}
    config = {
        "tenants": {"acme": {"anonymous": True, "hosts": ["gateway"], "models": {"tiny": {"pool": "p"}}}},
        "pools": {"p": {"kv_events": True, "endpoints": [{"name": "e0", "url": engine.url, **urls}]}},
    }
    with Stack(config, []) as stack:
        index = stack.app.runtime.pools["p"].states[0].index
        assert isinstance(index, ExactIndex)
        talk = [{"role": "user", "content": words(Random(9), 300)}]
        body = {"model": "tiny", "messages": talk, "max_tokens": 4}
        wait_until(lambda: index.followed and index.engine_blocks > 0)
        assert stack.post("/v1/messages", {**body, "temperature": 0})[0] == 200
        wait_until(lambda: index.in_sync)
        metrics = stack.process.metrics
        for turn in range(3):
            before = metrics.total("promptlane_kv_events", "p")
            status, headers, answer = stack.post("/v1/chat/completions", body)
            assert status == 200
            predicted = int(headers["x-promptlane-cached-tokens"])
            cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"] or 0
            if turn:
                assert cached > 0
                # A prefix block has about 64 tokens, and the end of a prompt that is no whole one has no hash.
                assert abs(predicted - cached) <= ENGINE_BLOCK + 2 * 64
                # What was new of it is told behind the answer; of the first, which was asked before, nothing is.
                wait_until(lambda before=before: metrics.total("promptlane_kv_events", "p") > before)
            talk += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": words(Random(turn), 40)}]


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)
