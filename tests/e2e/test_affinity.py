"""A repeated prefix finds the engine that holds it, and the engine itself says so.

Floor: tests only.
"""

from __future__ import annotations

from typing import Any

import httpx2

from tests.e2e.bodies import chat, long_prompt
from tests.e2e.stack import ENGINE_MODEL, Stack

CONVERSATIONS = 5
"""With two engines, chance alone sends all of them back to the right one in 3 of 100 runs, and never marks them."""


def cached_tokens(answer: httpx2.Response) -> int:
    details: dict[str, Any] = answer.json()["usage"]["prompt_tokens_details"]
    return int(details["cached_tokens"])


def test_a_conversation_returns_to_the_engine_that_has_it_cached(acme: httpx2.Client) -> None:
    opened = []
    for _ in range(CONVERSATIONS):
        body = chat(text=long_prompt())
        first = acme.post("/v1/chat/completions", json=body)
        assert first.status_code == 200, first.text
        assert cached_tokens(first) == 0
        assert first.headers["x-promptlane-cached-tokens"] == "0"
        opened.append((body, first))
    for body, first in opened:
        reply = first.json()["choices"][0]["message"]["content"]
        body["messages"] += [{"role": "assistant", "content": reply}, {"role": "user", "content": "Go on."}]
        second = acme.post("/v1/chat/completions", json=body)
        assert second.headers["x-promptlane-endpoint"] == first.headers["x-promptlane-endpoint"]
        assert cached_tokens(second) > 0
        assert int(second.headers["x-promptlane-cached-tokens"]) > 0


def test_unrelated_conversations_are_spread_over_the_pool(acme: httpx2.Client) -> None:
    used = {
        acme.post("/v1/chat/completions", json=chat(text=long_prompt())).headers["x-promptlane-endpoint"]
        for _ in range(20)
    }
    assert used == {"acme-0", "acme-1"}


def test_a_prompt_over_the_threshold_takes_the_long_lane(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/chat/completions", json=chat(text=long_prompt() * 6))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-promptlane-lane"] == "long"


def test_a_flexible_request_takes_the_batch_lane(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/chat/completions", json=chat(service_tier="flex"))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-promptlane-lane"] == "batch"


def test_a_tenants_cache_is_not_shared_with_who_sends_another_salt(acme: httpx2.Client) -> None:
    body = chat(text=long_prompt())
    first = acme.post("/v1/chat/completions", json={**body, "cache_salt": "chosen-by-the-client"})
    second = acme.post("/v1/chat/completions", json={**body, "cache_salt": "another-choice"})
    assert first.headers["x-promptlane-endpoint"] == second.headers["x-promptlane-endpoint"]
    assert cached_tokens(second) > 0, "the client's salt reached the engine instead of the tenant's"


def test_who_asks_the_engine_without_the_tenants_salt_finds_nothing_cached(stack: Stack, acme: httpx2.Client) -> None:
    body = chat(ENGINE_MODEL, text=long_prompt())
    through = acme.post("/v1/chat/completions", json=body)
    engine = stack.engines[through.headers["x-promptlane-endpoint"]]
    assert cached_tokens(httpx2.post(f"{engine}/v1/chat/completions", json=body, trust_env=False, timeout=60.0)) == 0
