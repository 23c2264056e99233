"""Which prompts begin alike: as far as an engine's caches would say so, and never further.

What vLLM does with each of these fields was read in its source; `tests/e2e/test_prefix_sharing.py` asks a real one.
"""

from __future__ import annotations

import json
import tracemalloc
from itertools import takewhile
from typing import Any

import pytest

from policies.prefix_blocks import chain, root
from router.wire.fields import read_fields
from router.wire.openai import APIS, read_prompt
from router.wire.prompt import MEDIA_TOKENS, Prompt

Ask = tuple[str, dict[str, Any]]
CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
BLOCK = 64


def text(name: str, size: int = 1000) -> str:
    """Words that are `name`'s own, of many blocks."""
    return (f"{name} said so. " * size)[:size]


def prompt_of(ask: Ask) -> Prompt:
    path, body = ask
    return read_prompt(APIS[path], read_fields(json.dumps({"model": "m", **body}).encode()))


def blocks(ask: Ask, salt: str = "salt", model: str = "m") -> tuple[int, ...]:
    return chain(root(salt, model), prompt_of(ask).segments, BLOCK)


def shared(one: Ask, other: Ask) -> int:
    """Bytes of whole blocks that both begin with."""
    return BLOCK * len(list(takewhile(lambda pair: pair[0] == pair[1], zip(blocks(one), blocks(other), strict=False))))


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


SYSTEM, USER = say("system", text("system")), say("user", text("user"))
TALK = [SYSTEM, USER, say("assistant", text("reply"))]
TOOLS = [{"type": "function", "function": {"name": "look", "description": text("tool"), "parameters": {"a": 1}}}]
OTHER_TOOLS = [{"type": "function", "function": {"name": "find", "description": text("tool"), "parameters": {"a": 1}}}]
CALL = [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": "me"}'}}]
DATA = "data:image/png;base64," + "iVBORw0KGgo" * 300


def chat(messages: list[Any] | None = None, **fields: Any) -> Ask:
    return CHAT, {"messages": TALK if messages is None else messages, **fields}


def claude(content: Any = "hello", **fields: Any) -> Ask:
    return MESSAGES, {"system": text("system"), "messages": [say("user", content)], **fields}


def responses(item: Any, **fields: Any) -> Ask:
    return RESPONSES, {"instructions": text("system"), "input": item, **fields}


def image(url: Any = DATA, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def marked(part: dict[str, Any]) -> dict[str, Any]:
    return {**part, "cache_control": {"type": "ephemeral"}}


LOOKED = {"type": "tool_result", "tool_use_id": "c1", "content": text("found")}
SEEN = {"type": "image", "source": {"data": DATA}}
LOOKED_AT = {**LOOKED, "content": [{"type": "text", "text": text("found")}, SEEN]}
LOOK = {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": "me"}}
BILLED = "x-anthropic-billing-header: cc_version=2; cch={}"

SAME = {
    "a text and a list of one": (chat([USER]), chat([say("user", [{"type": "text", "text": USER["content"]}])])),
    "a system prompt and a list of one": (
        chat(), chat([say("system", [{"type": "text", "text": SYSTEM["content"]}]), *TALK[1:]])),
    "reasoning under its older name": (
        chat([say("assistant", "a", reasoning=text("why"))]),
        chat([say("assistant", "a", reasoning_content=text("why"))])),
    "what is for the sampler": (chat(), chat(
        response_format={"type": "json_object"}, structured_outputs={"json": {}}, tool_choice="none", temperature=0.1,
        include_reasoning=False, thinking_token_budget=5, stop=["x"], n=2, logprobs=True, parallel_tool_calls=False)),
    "what changes the end only": (chat(), chat(add_generation_prompt=False, continue_final_message=True)),
    "what is the default anyway": (chat(), chat(add_special_tokens=False, tools=[], documents=[], chat_template=None,
        chat_template_kwargs={}, reasoning_effort=None, truncate_prompt_tokens=-1)),
    "a completion's own default": (
        (COMPLETIONS, {"prompt": text("p")}), (COMPLETIONS, {"prompt": text("p"), "add_special_tokens": True})),
    "template arguments in another order": (chat(chat_template_kwargs={"a": 1, "b": {"c": 2, "d": 3}, "e": None}),
        chat(chat_template_kwargs={"b": {"d": 3, "c": 2}, "a": 1})),
    "a kept length that the prompt does not reach": (chat(), chat(truncate_prompt_tokens=100_000)),
    "instructions and a system message": (responses("hi"), (RESPONSES, {"input": [SYSTEM, say("user", "hi")]})),
    "Responses and chat": (responses("hi"), chat([SYSTEM, say("user", "hi")])),
    "typed content of Responses and chat": (
        responses([say("user", [{"type": "input_text", "text": "hi"}], type="message"),
                   say("assistant", [{"type": "output_text", "text": "yes", "annotations": []}], id="m1",
                       status="completed")]),
        chat([SYSTEM, say("user", "hi"), say("assistant", "yes")])),
    "a function's output and a tool's message": (
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c1", "output": text("found")}]}),
        chat([say("tool", text("found"), tool_call_id="c1")])),
    "a budget of thought, and none": (
        claude(), claude(thinking={"type": "enabled", "budget_tokens": 2000}, output_config={"format": {"type": "x"}})),
    "a summary of thought, and none": (responses("hi"), responses("hi", reasoning={"summary": "auto"})),
    "Anthropic and chat": (claude(), chat([SYSTEM, say("user", "hello")])),
    "a system prompt of Anthropic and a list of one": (
        claude(), claude(system=[marked({"type": "text", "text": text("system")})])),
    "a mark for Anthropic's cache at a text": (
        claude([{"type": "text", "text": text("u")}]), claude([marked({"type": "text", "text": text("u")})])),
    "a mark at a tool's result": (claude([LOOKED]), claude([marked(LOOKED)])),
    "a mark at a picture in a tool's result": (
        claude([LOOKED_AT]), claude([{**LOOKED, "content": [LOOKED_AT["content"][0], marked(SEEN)]}])),
    "a mark at a call": (claude([LOOK]), claude([marked(LOOK)])),
    "a mark at what is not known": (
        claude([{"type": "new", "a": [1.5, "b"]}]), claude([marked({"type": "new", "a": [1.5, "b"]})])),
    "Claude Code's billing line, to Anthropic's API": tuple(
        claude(system=[{"type": "text", "text": line} for line in (BILLED.format(n), text("s"))]) for n in (1, 2)),
    "Claude Code's billing line, to chat": tuple(
        chat([say("system", BILLED.format(n) + "\n" + text("system")), USER]) for n in (1, 2)),
    "a picture's detail": (chat([say("user", [image()])]), chat([say("user", [image(detail="high")])])),
    "a picture in two APIs": (
        chat([SYSTEM, say("user", [image()])]), responses([say("user", [{"type": "input_image", "image_url": DATA}])])),
    "a prompt and a list of one": ((COMPLETIONS, {"prompt": text("p")}), (COMPLETIONS, {"prompt": [text("p")]})),
    "ids and a list of one": ((COMPLETIONS, {"prompt": [1, 2] * 50}), (COMPLETIONS, {"prompt": [[1, 2] * 50]})),
    "a conversation to embed, in either field": ((EMBEDDINGS, {"input": TALK}), (EMBEDDINGS, {"messages": TALK})),
}  # fmt: skip


@pytest.mark.parametrize("case", SAME)
def test_what_an_engine_renders_alike_is_the_same_prompt(case: str) -> None:
    one, other = SAME[case]
    assert blocks(one) == blocks(other)
    assert len(blocks(one)) >= 1 or case.endswith("not known")


# From the very first block on: the whole conversation is the same, and none of it is where the other engine has it.
OTHER = {
    "reasoning_effort": (chat(reasoning_effort="low"), chat(reasoning_effort="high")),
    "reasoning_effort or none": (chat(), chat(reasoning_effort="low")),
    "documents": (chat(documents=[{"text": text("a")}]), chat(documents=[{"text": text("b")}])),
    "documents of a common beginning": (
        chat(documents=[{"text": "a"}]), chat(documents=[{"text": "a"}, {"text": "b"}])),
    "tools": (chat(tools=TOOLS), chat(tools=OTHER_TOOLS)),
    "tools or none": (chat(), chat(tools=TOOLS)),
    "one more tool": (chat(tools=TOOLS), chat(tools=TOOLS + OTHER_TOOLS)),
    "the system prompt under the same tools": (chat(tools=TOOLS), chat([say("system", "x"), USER], tools=TOOLS)),
    "a second system message under the same tools": (
        chat([SYSTEM, USER], tools=TOOLS), chat([SYSTEM, say("developer", "x"), USER], tools=TOOLS)),
    "chat_template": (chat(), chat(chat_template="{{ messages }}")),
    "chat_template_kwargs": (chat(chat_template_kwargs={"a": 1}), chat(chat_template_kwargs={"a": 2})),
    "chat_template_kwargs or none": (chat(), chat(chat_template_kwargs={"enable_thinking": False})),
    "the same value for another setting": (chat(chat_template="low"), chat(reasoning_effort="low")),
    "mm_processor_kwargs": (chat(), chat(mm_processor_kwargs={"max_pixels": 5})),
    "special tokens of a chat": (chat(), chat(add_special_tokens=True)),
    "special tokens of a completion": (
        (COMPLETIONS, {"prompt": text("p")}), (COMPLETIONS, {"prompt": text("p"), "add_special_tokens": False})),
    "a suffix or none": ((COMPLETIONS, {"prompt": text("p")}), (COMPLETIONS, {"prompt": text("p"), "suffix": "x"})),
    "prompts as tensors": (
        (COMPLETIONS, {"prompt_embeds": "AAAA", "prompt": text("p")}),
        (COMPLETIONS, {"prompt_embeds": "BBBB", "prompt": text("p")})),
    "a turn more than an engine keeps": (
        chat(truncate_prompt_tokens=99), chat([*TALK, USER], truncate_prompt_tokens=99)),
    "effort in Responses": (
        responses("hi", reasoning={"effort": "low"}), responses("hi", reasoning={"effort": "high"})),
    "effort for Anthropic": (claude(), claude(output_config={"effort": "low"})),
    "thinking switched off for Anthropic": (claude(), claude(thinking={"type": "disabled"})),
    "tools for Anthropic": (claude(tools=[{"name": "a"}]), claude(tools=[{"name": "b"}])),
    "another system prompt": (chat(), chat([say("system", text("other")), USER])),
    "a system prompt or none": (chat(), chat([USER])),
    "another role": (chat([say("system", text("s"))]), chat([say("user", text("s"))])),
    "an instruction to a reranker": (
        ("/v1/rerank", {"query": text("q"), "documents": ["a"]}),
        ("/v1/rerank", {"query": text("q"), "documents": ["a"], "instruction": "find"})),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHER)
def test_what_may_change_a_prompts_beginning_leaves_nothing_shared(case: str) -> None:
    one, other = OTHER[case]
    assert shared(one, other) == 0
    assert min(len(blocks(one)), len(blocks(other))) >= 1


# How much is shared, at least and at most, in bytes of text.
PARTLY = {
    "a conversation and its next turn": (chat(), chat([*TALK, USER]), 3000, 3040),
    "the same with tools": (chat(tools=TOOLS), chat([*TALK, USER], tools=TOOLS), 4060, 4200),
    "other reasoning of an assistant": (
        chat([*TALK, say("assistant", text("a"), reasoning="x")]),
        chat([*TALK, say("assistant", text("a"), reasoning="y")]), 3000, 3080),
    "another call of a tool": (
        chat([*TALK, say("assistant", None, tool_calls=CALL)]),
        chat([*TALK, say("assistant", None, tool_calls=[{**CALL[0], "id": "c2"}])]), 3000, 3100),
    "another picture": (
        chat([SYSTEM, say("user", [image()])]), chat([SYSTEM, say("user", [image(DATA + "A")])]), 960, 1040),
    "text after a picture": (
        chat([say("user", [image(), {"type": "text", "text": "a" * 200}])]),
        chat([say("user", [image(), {"type": "text", "text": "b" * 200}])]), 4 * MEDIA_TOKENS, 4 * MEDIA_TOKENS + 40),
    "a picture in a tool's result": (
        claude([LOOKED_AT]),
        claude([{**LOOKED, "content": [LOOKED_AT["content"][0], {"type": "image", "source": {"data": "AAAA"}}]}]),
        1960, 2100),
    "another answer before": (
        responses("hi", previous_response_id="r1"), responses("hi", previous_response_id="r2"), 960, 1040),
    "another question to a list of documents": (
        ("/v1/rerank", {"query": text("q"), "documents": ["a"]}),
        ("/v1/rerank", {"query": text("q"), "documents": ["b"]}), 960, 1040),
    "prompts with a common beginning": (
        (COMPLETIONS, {"prompt": [text("p") + "a" * 99, text("p") + "b"]}),
        (COMPLETIONS, {"prompt": text("p") + "c" * 99}), 960, 1000),
    "a list that begins with the same prompts": (
        (COMPLETIONS, {"prompt": [text("p"), text("q"), text("r")]}),
        (COMPLETIONS, {"prompt": [text("p"), text("q"), text("s")]}), 1980, 2060),
    "ids of a common beginning": (
        (COMPLETIONS, {"prompt": [7] * 500}), (COMPLETIONS, {"prompt": [7] * 250 + [8] * 250}), 960, 1000),
}  # fmt: skip


@pytest.mark.parametrize("case", PARTLY)
def test_what_changes_later_leaves_what_is_before_it_shared(case: str) -> None:
    one, other, least, most = PARTLY[case]
    assert least <= shared(one, other) <= most


@pytest.mark.parametrize("case", [*SAME, *PARTLY])
def test_no_two_tenants_and_no_two_models_share_a_hash(case: str) -> None:
    one = (SAME.get(case) or PARTLY[case])[0]
    chains = [set(blocks(one, salt, model)) for salt in ("aa", "bb") for model in ("base", "adapter")]
    assert len(set.union(*chains)) == sum(map(len, chains))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages/count_tokens", claude()[1]),
        ("/tokenize", {"prompt": text("p")}),
        ("/tokenize", {"messages": TALK}),
        ("/detokenize", {"tokens": [1, 2] * 100}),
    ],
)
def test_what_no_model_sees_is_no_prompt(path: str, body: dict[str, Any]) -> None:
    prompt = prompt_of((path, body))
    assert (prompt.segments, prompt.text_bytes, prompt.extra_tokens) == ([], 0, 0)


def test_a_picture_takes_the_bytes_of_the_tokens_that_it_stands_for() -> None:
    prompt = prompt_of(chat([say("user", [image(), image("http://a/b")])]))
    size = sum(map(len, prompt.segments))
    assert prompt.extra_tokens == 2 * MEDIA_TOKENS
    assert 4 * prompt.extra_tokens < size < 4 * prompt.extra_tokens + 50


@pytest.mark.parametrize(
    "ask",
    [
        chat([say("user", [image("data:image/png;base64," + "A" * 20_000_000)])]),
        claude([{"type": "image", "source": {"type": "base64", "data": "A" * 20_000_000}}]),
        claude([{**LOOKED, "content": [{"type": "image", "source": {"type": "base64", "data": "A" * 20_000_000}}]}]),
    ],
    ids=["chat", "anthropic", "tool_result"],
)
def test_a_huge_picture_is_not_copied(ask: Ask) -> None:
    fields = read_fields(json.dumps({"model": "m", **ask[1]}).encode())
    tracemalloc.start()
    try:
        prompt = read_prompt(APIS[ask[0]], fields)
        chain(1, prompt.segments)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert prompt.extra_tokens == MEDIA_TOKENS
