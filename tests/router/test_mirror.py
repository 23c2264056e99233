"""Copies to a standby: of some requests, for one token, billed to nobody, and never in anybody's way."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from router.mirror import one_token
from router.wire.openai import APIS
from tests.router.stack import RecordingEngine, Stack, chat, running, sha256

CHAT = "/v1/chat/completions"


def config(**mirror: Any) -> dict[str, Any]:
    return {
        "server": {"port": 0, "admin_port": 0},
        "tenants": {
            "acme": {"api_keys": [{"id": "k", "sha256": sha256("acme-key")}], "models": {"tiny": {"pool": "main"}}}
        },
        "pools": {
            "main": {
                "endpoints": [
                    {"name": "hot", "url": "ENGINE:hot"},
                    {"name": "warm", "url": "ENGINE:warm", "role": "warm"},
                ],
                "health": {"interval": 0.2, "scrape_interval": 0.2},
                "standby": {"mirror": {"share": 1.0, **mirror}},
            }
        },
    }


@pytest.fixture
def stack() -> Iterator[Stack]:
    with running(config(), ["hot", "warm"]) as one:
        yield one


def reached(engine: RecordingEngine) -> list[dict[str, Any]]:
    return [json.loads(one.partition(b"\r\n\r\n")[2]) for one in engine.received]


def until_copied(stack: Stack, count: int) -> None:
    async def wait() -> None:
        async with asyncio.timeout(60):
            state = stack.app.runtime.pools["main"].states[1]
            while len(stack.engines["warm"].received) < count or state.in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    stack.run(wait())


def test_a_copy_has_the_same_prompt_and_salt_and_asks_for_one_token(stack: Stack) -> None:
    status, headers, _ = stack.post(CHAT, chat(max_completion_tokens=50, stream=False, n=2), key="acme-key")
    assert (status, headers["x-promptlane-endpoint"]) == (200, "hot")
    until_copied(stack, 1)
    (sent,), (copy,) = reached(stack.engines["hot"]), reached(stack.engines["warm"])
    assert copy["messages"] == sent["messages"]
    assert copy["cache_salt"] == sent["cache_salt"]
    assert copy["max_tokens"] == 1
    assert not {"stream", "n", "max_completion_tokens"} & set(copy)


def test_copies_are_billed_to_nobody_and_teach_where_the_prefix_is(stack: Stack) -> None:
    stack.post(CHAT, chat(content="x" * 4000), key="acme-key")
    until_copied(stack, 1)
    text = stack.process.metrics.render().decode()
    assert 'promptlane_requests_total{api="chat",lane="short",status="200",tenant="acme"} 1.0' in text
    assert 'promptlane_prompt_tokens_total{model="tiny",tenant="acme"} 9.0' in text
    assert 'promptlane_mirrored_total{pool="main",result="answered"} 1.0' in text
    assert len(stack.app.runtime.pools["main"].states[1].index) > 10


def test_a_standby_that_hangs_delays_nobody_and_gets_no_more_than_it_may(stack: Stack) -> None:
    stack.engines["warm"].reply = stack.engines["warm"].silent
    for _ in range(6):
        assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    text = stack.process.metrics.render().decode()
    assert len(stack.engines["warm"].received) <= 2
    assert 'promptlane_mirrored_total{pool="main",result="skipped"} 4.0' in text


def test_batch_work_is_not_copied(stack: Stack) -> None:
    assert stack.post(CHAT, chat(), key="acme-key", headers={"x-promptlane-lane": "batch"})[0] == 200
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    until_copied(stack, 1)
    assert len(stack.engines["warm"].received) == 1


def test_what_a_copy_leaves_out() -> None:
    body = b'{"prompt":"p","stream":true,"stream_options":{},"max_tokens":9,"min_tokens":5,"best_of":3,"x":1}'
    found = json.loads(one_token(APIS["/v1/completions"], body))
    assert found == {"prompt": "p", "x": 1, "max_tokens": 1}
