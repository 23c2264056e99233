"""What one finished request leaves in the metrics, where affinity could know nothing of its prompt."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from router.calls import _SHARED, Call
from tests.router.stack import Stack, chat, running

CONSTRUCTED = {"client", "spec", "id", "arrived_at", "probe_of"}
ITS_OWN = {"ticket", "answer", "first_byte_at", "usage"}
LONG = "The quick brown fox jumps over the lazy dog. " * 40


@pytest.mark.interpreted("it reads what a class declares")
def test_a_copy_for_another_endpoint_has_every_field_but_those_of_its_own_answer() -> None:
    assert sorted([*_SHARED, *CONSTRUCTED, *ITS_OWN]) == sorted(Call.__slots__)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running() as one:
        yield one


def blind(stack: Stack) -> dict[tuple[str, str, str], float]:
    """`promptlane_affinity_blind` by pool, API and reason. Read on the gateway's loop, so after what it is at."""

    async def read() -> dict[tuple[str, str, str], float]:
        families = {family.name: family for family in stack.process.metrics.registry.collect()}
        found = families["promptlane_affinity_blind"].samples
        return {(one.labels["pool"], one.labels["api"], one.labels["reason"]): one.value for one in found}

    values: dict[tuple[str, str, str], float] = stack.run(read())
    return values


@pytest.mark.parametrize(
    ("path", "body", "counted"),
    [
        ("/v1/chat/completions", chat("qwen2-7b", "hi"), ("globex", "chat", "short")),
        ("/v1/completions", {"model": "qwen2-7b", "prompt": [1, 2, 3]}, ("globex", "completions", "short")),
        ("/v1/responses", {"model": "qwen2-7b"}, ("globex", "responses", "no_prompt")),
        ("/v1/chat/completions", chat("qwen2-7b", LONG), None),
        ("/v1/embeddings", {"model": "qwen2-7b", "input": "hi"}, None),
        ("/tokenize", {"model": "qwen2-7b", "prompt": "hi"}, None),
        ("/v1/messages/count_tokens", chat("qwen2-7b", "hi"), None),
    ],
    ids=["short", "few ids", "none", "long", "embeddings", "tokenize", "count"],
)
def test_a_prompt_without_a_block_is_counted_where_an_engine_generates(
    stack: Stack, path: str, body: dict[str, Any], counted: tuple[str, str, str] | None
) -> None:
    before = blind(stack)
    assert stack.post(path, body, key="globex-key")[0] == 200
    after = blind(stack)
    assert {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)} == (
        {} if counted is None else {counted: 1.0}
    )


def test_a_request_that_reached_no_engine_is_not_counted(stack: Stack) -> None:
    before = blind(stack)
    assert stack.post("/v1/chat/completions", {"model": "qwen2-7b", "messages": 7}, key="globex-key")[0] == 400
    assert blind(stack) == before
