"""Whoever orders the requests, engines or the gateway: what engines are told, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from policies.admission.order import AGEING
from policies.gate import Gate
from router.wire.openai import with_priority
from tests.router.stack import RecordingEngine, Stack, chat, running, two_tenants

CHAT = "/v1/chat/completions"
MINE = {"mine": {"scorers": {"in-flight": 1}, "picker": "power-of-two", "hold": False}}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """acme's pool as routing says, not held; globex's has a composed profile, open's one of ours."""
    config = two_tenants()
    config["routing"] = {"hold": False, "profiles": MINE, "window": 7}
    config["pools"]["globex"]["profile"] = "mine"
    config["pools"]["open"]["profile"] = "least-load"
    with running(config) as one:
        yield one


@pytest.fixture(autouse=True)
def _fresh(stack: Stack) -> None:
    for engine in stack.engines.values():
        engine.received.clear()
        engine.reply = engine.answer


def sent(engines: Stack) -> list[tuple[bytes, dict[str, Any]]]:
    """Head and parsed body of every request that reached an engine, in order of arrival at each."""
    requests = [request for engine in engines.engines.values() for request in engine.received]
    return [(head.lower(), json.loads(body)) for head, _, body in (one.partition(b"\r\n\r\n") for one in requests)]


def test_a_request_that_is_not_held_carries_its_priority_in_body_and_header(stack: Stack) -> None:
    before = time.time()
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    ((head, body),) = sent(stack)
    assert b"x-vllm-priority: %d\r\n" % body["priority"] in head + b"\r\n"
    least, most = 1000 * AGEING * before, 1000 * (AGEING * time.time() + 1.0)
    assert least <= body["priority"] <= most, "of the best tier: own prefill, and a twentieth of the Unix time"


def test_a_later_request_of_the_same_size_stands_behind(stack: Stack) -> None:
    for content in ("one word", "two word"):
        stack.post(CHAT, chat(content=content), key="acme-key")
        time.sleep(0.03)  # of the wall clock, which the order is by: 20 ms are one unit
    first, second = sorted(sent(stack), key=lambda one: one[1]["messages"][0]["content"])
    assert first[1]["priority"] < second[1]["priority"]


def test_a_retry_has_the_priority_of_its_new_endpoint_once(stack: Stack) -> None:
    async def broken(request: bytes, writer: Any) -> None:
        raise ConnectionResetError

    async def broken_once(request: bytes, writer: Any) -> None:
        for engine in acme:
            engine.reply = engine.answer
        await broken(request, writer)

    acme: list[RecordingEngine] = [stack.engines["acme-0"], stack.engines["acme-1"]]
    for engine in acme:
        engine.reply = broken_once
    assert stack.post(CHAT, chat(content="again"), key="acme-key")[0] == 200
    requests = [request for engine in acme for request in engine.received]
    assert len(requests) == 2
    assert all(request.count(b'"priority"') == 1 == request.lower().count(b"x-vllm-priority") for request in requests)


def test_other_profiles_tell_engines_nothing_and_a_clients_own_priority_is_never_passed_on(stack: Stack) -> None:
    for key, host in (("globex-key", "globex.llm.test"), (None, "open.llm.test")):
        model = "free" if key is None else "qwen2-7b"
        headers = {"host": host, "x-vllm-priority": "-9"}
        assert stack.post(CHAT, chat(model, priority=-9), key=key, headers=headers)[0] == 200
    found = sent(stack)
    assert len(found) == 2
    assert all("priority" not in body and b"x-vllm-priority" not in head for head, body in found)


def test_pools_have_the_profiles_that_they_and_routing_name(stack: Stack) -> None:
    profiles = {name: pool.profile for name, pool in stack.app.runtime.pools.items()}
    assert {name: (one.name, one.gate, one.engine_priority) for name, one in profiles.items()} == {
        "acme": ("prompt-aware", None, True),
        "globex": ("mine", None, False),
        "open": ("least-load", None, False),
    }


def test_the_default_profile_holds_and_sends_no_priority() -> None:
    config = two_tenants()
    config["routing"] = {"hold_seconds": 1.5, "kv_share": 0.5}
    with running(config) as held:
        assert held.app.runtime.pools["acme"].profile.gate == Gate(1.5, 0.5)
        assert held.post(CHAT, chat(), key="acme-key")[0] == 200
        ((head, body),) = sent(held)
        assert "priority" not in body
        assert b"x-vllm-priority" not in head


def test_the_priority_is_the_last_field_of_an_engines_body() -> None:
    assert with_priority(b'{"model":"m"}', 88_200_000_000) == b'{"model":"m","priority":88200000000}'
    assert json.loads(with_priority(b'{"model":"m"}', -5))["priority"] == -5
