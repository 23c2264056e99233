"""What engines report of their work reaches the gateway's metrics, in every API, whoever asked for it.

Floor: tests only.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import httpx2
import pytest

from tests.e2e.bodies import chat, completion, long_prompt
from tests.e2e.stack import ALIAS, Stack

STREAMS: dict[str, Any] = {
    "/v1/chat/completions": lambda text: chat(text=text, stream=True),
    "/v1/completions": lambda text: completion(prompt=text, stream=True),
    "/v1/messages": lambda text: {
        "model": ALIAS, "max_tokens": 8, "messages": [{"role": "user", "content": text}], "stream": True
    },
    "/v1/responses": lambda text: {"model": ALIAS, "max_output_tokens": 8, "input": text, "stream": True},
}  # fmt: skip


def counted(stack: Stack, name: str, **labels: str) -> float:
    """The sum of a counter's values over the label sets that have these values."""
    text = httpx2.get(f"{stack.admin_url}/metrics", timeout=60.0, trust_env=False).text
    rows = re.findall(rf"^{name}_total{{(.*)}} (\S+)$", text, re.MULTILINE)
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(float(value) for found, value in rows if wanted <= set(found.split(",")))


@pytest.mark.parametrize("path", STREAMS)
def test_the_usage_of_a_stream_is_counted_with_what_was_cached(stack: Stack, acme: httpx2.Client, path: str) -> None:
    def figures() -> tuple[float, float, float]:
        return (
            counted(stack, "promptlane_prompt_tokens", tenant="acme", model=ALIAS),
            counted(stack, "promptlane_completion_tokens", tenant="acme", model=ALIAS),
            counted(stack, "promptlane_cached_tokens", pool="acme-qwen", kind="reported"),
        )

    text = long_prompt()
    seen = [figures()]
    for _ in range(2):
        answer = acme.post(path, json=STREAMS[path](text))
        assert answer.status_code == 200, answer.text
        seen.append(figures())
    first, second = (tuple(b - a for a, b in zip(*pair, strict=True)) for pair in pairwise(seen))
    assert first[1] == second[1] == 8
    assert first[0] == second[0] > 500, "the same prompt has the same tokens, cached or not"
    assert first[2] < 0.1 * first[0]
    assert second[2] > 0.9 * second[0]


def test_a_short_prompt_is_one_that_affinity_cannot_help(stack: Stack, acme: httpx2.Client) -> None:
    labels = {"pool": "acme-qwen", "api": "chat"}
    before = counted(stack, "promptlane_affinity_blind", **labels, reason="short")
    acme.post("/v1/chat/completions", json=chat(text="Hi."))
    assert counted(stack, "promptlane_affinity_blind", **labels, reason="short") == before + 1
    acme.post("/v1/chat/completions", json=chat(text=long_prompt()))
    assert counted(stack, "promptlane_affinity_blind", **labels) == before + 1
