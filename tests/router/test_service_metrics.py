"""Objectives are counted for their tenant alone, by what the service is to blame for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

from router.service_metrics import ServiceCollector
from tests.router.stack import ANSWER, Stack, chat, running, two_tenants, whole

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    config = two_tenants()
    config["tiers"] = {"platinum": {"resume": False, "slo": {"ttft_seconds": 30, "share": 0.9}}}
    config["tenants"]["acme"]["limits"] = {"concurrency": 1}
    with running(config) as one:
        tenants = one.app.runtime.gateway.directory.by_id
        one.process.metrics.registry.register(ServiceCollector(tenants.values, lambda: True))
        yield one


@pytest.fixture(autouse=True)
def _fresh(stack: Stack) -> None:
    for engine in stack.engines.values():
        engine.reply = engine.answer
    stack.run(stack.all_available())


def counted(stack: Stack, name: str) -> dict[frozenset[str], float]:
    text = stack.process.metrics.render().decode()
    return {
        frozenset(labels.split(",")): float(value)
        for labels, value in re.findall(rf"^{name}{{(.*)}} (\S+)$", text, re.MULTILINE)
    }


def slo(stack: Stack, objective: str, result: str) -> float:
    wanted = {'tenant="acme"', f'objective="{objective}"', f'result="{result}"'}
    return counted(stack, "promptlane_slo_requests_total").get(frozenset(wanted), 0.0)


async def events(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    delta = b'data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"},'
    usage = b'"usage":{"prompt_tokens":9,"completion_tokens":3,"prompt_tokens_details":{"cached_tokens":4}}'
    for piece in (
        delta + b'"finish_reason":null}]}\n\n',
        delta + b'"finish_reason":"stop"}]}\n\n',
        b'data: {"id":"x","object":"chat.completion.chunk","model":"tiny","choices":[],' + usage + b"}\n\n",
        b"data: [DONE]\n\n",
    ):
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
    writer.write(b"0\r\n\r\n")


def until(stack: Stack, objective: str, result: str, value: float) -> None:
    async def there() -> None:
        async with asyncio.timeout(60):
            while slo(stack, objective, result) < value:  # noqa: ASYNC110 - counted after the answer is out
                await asyncio.sleep(0.005)

    stack.run(there())


def test_streams_count_for_both_objectives_and_show_pace_and_forecast(stack: Stack) -> None:
    for engine in stack.engines.values():
        engine.reply = events
    before = slo(stack, "availability", "good"), slo(stack, "ttft", "good")
    assert stack.post(CHAT, chat(stream=True), key="acme-key")[0] == 200
    until(stack, "availability", "good", before[0] + 1)
    assert slo(stack, "ttft", "good") == before[1] + 1
    pace = counted(stack, "promptlane_output_token_seconds_count")
    assert pace == {frozenset({'tenant="acme"', 'api="chat"', 'lane="short"'}): 1.0}
    assert len(counted(stack, "promptlane_forecast_seconds_total")) == 2
    assert sum(counted(stack, "promptlane_forecast_error_seconds_count").values()) == 1.0
    cached = counted(stack, "promptlane_cached_prompt_tokens_total")
    assert cached == {frozenset({'tenant="acme"', 'model="tiny"'}): 4.0}


def test_a_failure_is_bad_and_a_mistake_or_an_own_limit_is_neither(stack: Stack) -> None:
    async def fail(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"died"}}', b"500 Internal Server Error"))

    async def object_to(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"top_p"}}', b"400 Bad Request"))

    before = {result: slo(stack, "availability", result) for result in ("good", "bad")}
    for engine in stack.engines.values():
        engine.reply = object_to
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 400
    assert stack.post(CHAT, b"{", key="acme-key")[0] == 400
    assert stack.post(CHAT, chat("nobody"), key="acme-key")[0] == 404
    assert refused_by_the_limit(stack) == 429
    for engine in stack.engines.values():
        engine.reply = fail
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 500
    until(stack, "availability", "bad", before["bad"] + 1)
    assert slo(stack, "availability", "bad") == before["bad"] + 1
    assert slo(stack, "availability", "good") == before["good"] + 1, "the request that held the limit's one seat"


def refused_by_the_limit(stack: Stack) -> int:
    """The status of a request that finds the tenant's one seat taken; who has it is answered afterwards."""
    began, released = asyncio.Event(), asyncio.Event()

    async def wait(_: bytes, writer: asyncio.StreamWriter) -> None:
        began.set()
        await released.wait()
        writer.write(whole(ANSWER))

    async def both() -> int:
        first = asyncio.create_task(asyncio.to_thread(stack.post, CHAT, chat(), key="acme-key"))
        await began.wait()
        second: int = (await asyncio.to_thread(stack.post, CHAT, chat(), key="acme-key"))[0]
        released.set()
        assert (await first)[0] == 200
        return second

    for engine in stack.engines.values():
        engine.reply = wait
    status: int = stack.run(both())
    return status


def test_tenants_without_objectives_are_not_counted_and_targets_are_shown(stack: Stack) -> None:
    assert stack.post(CHAT, chat("qwen2-7b"), key="globex-key")[0] == 200
    assert 'tenant="globex"' not in str(counted(stack, "promptlane_slo_requests_total"))
    target = counted(stack, "promptlane_slo_target_share")
    labels = {'tenant="acme"', 'tier="platinum"'}
    assert target[frozenset({*labels, 'objective="ttft"'})] == 0.9
    assert target[frozenset({*labels, 'objective="availability"'})] == 0.999
    assert list(counted(stack, "promptlane_slo_ttft_seconds").values()) == [30.0]
    assert list(counted(stack, "promptlane_build_info").values()) == [1.0]
