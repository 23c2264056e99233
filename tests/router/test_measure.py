"""A body becomes a request: when tokens are counted, which lane it gets, and where the work is done."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.prefix_blocks import ChainMemo, chain
from policies.tokens import TokenEstimator
from policies.types import Lane, Tenant, Tier
from router import gateway, measure
from router.counting import TokenCounter
from router.errors import BadRequest
from router.measure import INLINE_BYTES, Measured, Measurer, MeasureSettings
from router.wire.openai import APIS, read_body, read_prompt
from tests.router.stack import COUNTER

TENANT = Tenant("acme", Tier("gold", 10, 15.0), "salt", {})
SETTINGS = MeasureSettings(
    long_prompt_tokens=2048,
    batch_prompts=8,
    batch_n=4,
    batch_header="x-promptlane-lane",
    block_bytes=256,
    default_output_tokens=256,
    max_wait={Lane.SHORT: 60.0, Lane.LONG: 90.0, Lane.BATCH: 600.0},
)
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
ROOT_HASH = 7


class Counter(TokenCounter):
    """Counts how often it was asked; the answer is `tokens` where that is given."""

    def __init__(self, tokens: int | None = None) -> None:
        self.asked = 0
        self._answer = tokens

    async def count(self, segments: Sequence[bytes]) -> int:
        self.asked += 1
        return self._answer if self._answer is not None else await COUNTER.count(segments)


async def measured(
    fields: dict[str, Any],
    *,
    path: str = CHAT,
    asked: str | None = None,
    counter: TokenCounter | None = None,
    knobs: MeasureSettings = SETTINGS,
    estimator: TokenEstimator | None = None,
    now: float = 100.0,
) -> Measured:
    data = json.dumps({"model": "m", **fields}).encode()
    spec = APIS[path]
    return await Measurer(knobs, counter or Counter()).measure(
        spec,
        read_body(spec, data),
        len(data),
        tenant=TENANT,
        root=ROOT_HASH,
        estimator=estimator or TokenEstimator(4.0),
        request_id="r1",
        asked_lane=asked,
        now=now,
    )


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


# -- tokens


@given(st.text(st.characters(codec="utf-8"), max_size=60))
async def test_a_prompt_of_fewer_bytes_than_the_threshold_is_never_counted_and_never_long(text: str) -> None:
    counter = Counter()
    knobs = replace(SETTINGS, long_prompt_tokens=300)
    found = await measured(chat(text), counter=counter, knobs=knobs, estimator=TokenEstimator(1.0))
    assert (counter.asked, found.counted) == (0, False)
    assert found.request.lane is Lane.SHORT


@pytest.mark.parametrize(
    ("tokens", "lane"), [(2048, Lane.SHORT), (2049, Lane.LONG), (3000, Lane.LONG), (1100, Lane.SHORT)]
)
async def test_near_the_threshold_the_exact_count_decides(tokens: int, lane: Lane) -> None:
    counter = Counter(tokens)
    found = await measured(chat("x" * 4 * 2048), counter=counter)
    assert (counter.asked, found.counted) == (1, True)
    assert (found.request.prompt_tokens, found.request.lane) == (tokens, lane)


@pytest.mark.parametrize(("bytes_sent", "lane"), [(4 * 900, Lane.SHORT), (4 * 5000, Lane.LONG)])
async def test_far_from_the_threshold_the_estimate_is_enough(bytes_sent: int, lane: Lane) -> None:
    counter = Counter()
    found = await measured(chat("x" * bytes_sent), counter=counter)
    assert (counter.asked, found.counted) == (0, False)
    assert found.request.lane is lane
    assert abs(found.request.prompt_tokens - bytes_sent / 4) < 10


async def test_a_conversations_older_turns_are_counted_once() -> None:
    seen: list[bytes] = []

    class Spy(TokenCounter):
        def _tokens(self, segment: bytes) -> int:
            seen.append(segment)
            return super()._tokens(segment)

    measurer = Measurer(SETTINGS, Spy())
    turns = [{"role": "user", "content": f"{n} " * 1000} for n in range(3)]
    for length in (2, 3, 3):
        data = json.dumps(
            {"model": "m", "messages": [*turns[:length], {"role": "user", "content": "y" * 3000}]}
        ).encode()
        spec = APIS[CHAT]
        await measurer.measure(
            spec, read_body(spec, data), len(data), tenant=TENANT, root=0, estimator=TokenEstimator(4.0),
            request_id="r", asked_lane=None, now=0.0,
        )  # fmt: skip
    assert len(seen) == len(set(seen)) == 4


async def test_token_ids_count_for_themselves_and_are_never_tokenized() -> None:
    counter = Counter(0)
    found = await measured({"prompt": list(range(2100))}, path=COMPLETIONS, counter=counter)
    assert (found.request.prompt_tokens, found.request.lane) == (2100, Lane.LONG)


# -- lanes


@pytest.mark.parametrize(
    ("fields", "path", "asked", "lane"),
    [
        (chat("a"), CHAT, None, Lane.SHORT),
        (chat("a"), CHAT, "batch", Lane.BATCH),
        (chat("a"), CHAT, "long", Lane.LONG),
        (chat("a"), CHAT, "short", Lane.SHORT),
        (chat("a" * 40_000), CHAT, "short", Lane.LONG),
        (chat("a" * 40_000), CHAT, "batch", Lane.BATCH),
        (chat("a", service_tier="flex"), CHAT, None, Lane.BATCH),
        (chat("a", service_tier="flex"), CHAT, "short", Lane.BATCH),
        (chat("a", n=4), CHAT, None, Lane.SHORT),
        (chat("a", n=5), CHAT, None, Lane.BATCH),
        ({"prompt": ["a"] * 9}, COMPLETIONS, None, Lane.BATCH),
        ({"input": ["a"] * 9}, EMBEDDINGS, None, Lane.BATCH),
        ({"input": [[1]] * 9}, EMBEDDINGS, None, Lane.BATCH),
        ({"input": ["a"] * 2}, EMBEDDINGS, None, Lane.SHORT),
        ({"input": [1] * 9}, EMBEDDINGS, None, Lane.SHORT),
    ],
)
async def test_the_lane_is_told_by_wish_shape_and_length(
    fields: dict[str, Any], path: str, asked: str | None, lane: Lane
) -> None:
    assert (await measured(fields, path=path, asked=asked)).request.lane is lane


async def test_an_unknown_lane_is_refused_by_the_headers_name() -> None:
    with pytest.raises(BadRequest) as refused:
        await measured(chat("a"), asked="express")
    assert refused.value.param == "x-promptlane-lane"


# -- what else policies are told


async def test_the_request_carries_who_when_and_what_without_its_text() -> None:
    found = await measured(chat("secret words", stream=True, user="u1"), now=5.0)
    request = found.request
    assert (request.id, request.tenant, request.tier_priority, request.model, request.api) == (
        "r1", "acme", 10, "m", "chat",
    )  # fmt: skip
    assert (request.arrived_at, request.deadline, request.stream, request.session) == (5.0, 65.0, True, "u1")
    assert "secret words" not in repr(found)


@pytest.mark.parametrize(
    ("text", "asked", "seconds"), [("a", None, 60.0), ("a" * 40_000, None, 90.0), ("a", "batch", 600.0)]
)
async def test_a_request_may_wait_as_long_as_its_lane_allows(text: str, asked: str | None, seconds: float) -> None:
    request = (await measured(chat(text), asked=asked, now=5.0)).request
    assert request.deadline == 5.0 + seconds


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 256),
        ({"max_tokens": 10}, 10),
        ({"max_tokens": 100_000}, 256),
        ({"max_tokens": -5}, 0),
        ({"max_tokens": 10, "n": 3}, 30),
        ({"n": -3}, 256),
    ],
)
async def test_the_expected_answer_is_bounded_by_the_client_and_by_what_is_usual(
    fields: dict[str, Any], expected: int
) -> None:
    assert (await measured(chat("a", **fields))).request.max_output_tokens == expected


async def test_every_prompt_of_a_list_has_answers_of_its_own() -> None:
    several = await measured({"prompt": ["a", "b", "c"], "max_tokens": 10, "n": 2}, path=COMPLETIONS)
    assert (several.request.choices, several.request.max_output_tokens) == (6, 60)
    measurer = Measurer(SETTINGS, Counter())
    for _ in range(20):
        measurer.learn_length(several, 24, left=False)
    assert measurer.lengths.quantile("acme", "m", 0.5) == 4, "of 10 that were allowed, so none was cut"


async def test_an_api_without_answers_of_text_expects_none() -> None:
    assert (await measured({"input": "a", "max_tokens": 5}, path=EMBEDDINGS)).request.max_output_tokens == 0


@given(st.integers(0, 3000))
async def test_the_blocks_are_the_prompts_chain_and_stand_for_its_tokens(size: int) -> None:
    fields = chat("ab" * size)
    request = (await measured(fields)).request
    prompt = read_prompt(APIS[CHAT], read_body(APIS[CHAT], json.dumps({"model": "m", **fields}).encode()).fields)
    assert request.prefix_blocks == chain(ROOT_HASH, prompt.segments, 256)
    assert len(request.prefix_blocks) * request.tokens_per_block <= request.prompt_tokens + 1e-6
    assert (len(request.prefix_blocks) + 1) * request.tokens_per_block > request.prompt_tokens - 1e-6


async def test_a_conversations_blocks_are_the_same_from_every_thread_and_from_memory() -> None:
    measurer, spec = Measurer(SETTINGS, Counter(0)), APIS[CHAT]
    turns = [{"role": "user", "content": f"{number} " * 9000} for number in range(30)]

    async def blocks(count: int) -> bool:
        body = read_body(spec, json.dumps({"model": "m", "messages": turns[:count]}).encode())
        found = await measurer.measure(
            spec, body, INLINE_BYTES * (1 + count % 2), tenant=TENANT, root=ROOT_HASH, estimator=TokenEstimator(4.0),
            request_id="r", asked_lane=None, now=0.0,
        )  # fmt: skip
        return found.request.prefix_blocks == chain(ROOT_HASH, read_prompt(spec, body.fields).segments, 256)

    assert all(await asyncio.gather(*(blocks(count) for count in [*range(1, 31), *range(30, 0, -1)])))


@pytest.mark.parametrize(("bytes_per_token", "size"), [(4.0, 256), (2.2, 128), (6.5, 384)])
async def test_a_block_follows_the_models_bytes_per_token_unless_its_size_is_fixed(
    bytes_per_token: float, size: int
) -> None:
    estimator, fields = TokenEstimator(bytes_per_token), {"prompt": "x" * 30_000}
    fixed = await measured(fields, path=COMPLETIONS, estimator=estimator)
    free = await measured(fields, path=COMPLETIONS, estimator=estimator, knobs=replace(SETTINGS, block_bytes=None))
    assert len(fixed.request.prefix_blocks) == 30_000 // 256
    assert len(free.request.prefix_blocks) == 30_000 // size
    assert 64 / 1.5 <= free.request.tokens_per_block <= 64
    assert (fixed.request.prefix_blocks == free.request.prefix_blocks) is (size == 256)


async def test_a_block_of_token_ids_is_64_of_them_whatever_the_models_text_is_like() -> None:
    knobs = replace(SETTINGS, block_bytes=None)
    found = await measured({"prompt": [5] * 6400}, path=COMPLETIONS, estimator=TokenEstimator(2.2), knobs=knobs)
    assert (len(found.request.prefix_blocks), found.request.tokens_per_block) == (100, 64.0)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/messages/count_tokens", chat("x" * 40_000)),
        ("/tokenize", {"prompt": "x" * 40_000}),
        ("/detokenize", {"tokens": [1] * 9000}),
    ],
)
async def test_what_no_model_sees_is_no_load_and_leaves_no_prefix(path: str, fields: dict[str, Any]) -> None:
    request = (await measured(fields, path=path)).request
    assert (request.prompt_tokens, request.max_output_tokens, request.prefix_blocks) == (0, 0, ())
    assert request.lane is Lane.SHORT


async def test_an_empty_prompt_has_no_blocks_and_no_tokens() -> None:
    request = (await measured({})).request
    assert (request.prompt_tokens, request.prefix_blocks, request.tokens_per_block) == (0, (), 0.0)


# -- where the work is done


@pytest.mark.interpreted("it puts spies in the place of functions")
@pytest.mark.parametrize(("size", "elsewhere"), [(INLINE_BYTES // 2, False), (2_000_000, True)])
async def test_a_large_body_is_read_and_hashed_in_another_thread(
    monkeypatch: pytest.MonkeyPatch, size: int, elsewhere: bool
) -> None:
    threads: set[int] = set()

    def spied(module: Any, name: str) -> None:
        original = getattr(module, name)

        def spy(*arguments: Any) -> Any:
            threads.add(threading.get_ident())
            return original(*arguments)

        monkeypatch.setattr(module, name, spy)

    spied(measure, "read_prompt")
    spied(ChainMemo, "chain")
    spied(gateway, "read_body")
    fields = chat("x" * size)
    await measured(fields)
    await gateway.read(APIS[CHAT], json.dumps({"model": "m", **fields}).encode())
    assert (threading.get_ident() not in threads) is elsewhere
