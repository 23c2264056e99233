"""What our prefix blocks call shared is what a real engine's cache shares: asked of vLLM itself, request by request.

Floor: tests only. Needs `--engine=vllm` (`tests/real_vllm/run.sh -k prefix_sharing`): a simulated engine would only
repeat our own idea of a chat template. The server takes templates from requests, so that one server stands for models
whose templates put things in another order.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from policies.prefix_blocks import chain, root
from router.wire.fields import read_fields
from router.wire.openai import APIS, read_prompt
from tests.real_vllm.servers import start_vllm

Ask = tuple[str, dict[str, Any]]
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
BLOCK_BYTES = 128
"""Smaller than what serves, as this model's tokens are: a block is then about one of the engine's 32 tokens."""
SLACK_TOKENS = 110
"""An engine's block at the end of the match, one of ours, and what a template adds that has no text of the client's."""

# What many templates do: the system prompt, then the tools. Others, as GLM's and Kimi's, begin with the tools.
_EFFORT = (
    "{%- if reasoning_effort %}Effort: {{ reasoning_effort }}.{% endif -%}{%- if mood %}Mood: {{ mood }}.{% endif -%}"
)
_SYSTEM = "{%- for m in messages if m.role == 'system' %}<|start|>system\n{{ m.content }}<|end|>\n{% endfor -%}"
_TOOLS = "{%- if tools %}{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif -%}"
_DOCUMENTS = "{%- if documents %}{% for d in documents %}{{ d.text }}\n{% endfor %}{% endif -%}"
_TALK = (
    "{%- for m in messages if m.role != 'system' %}<|start|>{{ m.role }}\n"
    "{% if m.reasoning %}{{ m.reasoning }}\n{% endif %}{{ m.content }}<|end|>\n{% endfor -%}"
    "{%- if add_generation_prompt %}<|start|>assistant\n{% endif -%}"
)
TEMPLATES = {
    "system first": _EFFORT + _SYSTEM + _TOOLS + _DOCUMENTS + _TALK,
    "tools first": _TOOLS + _DOCUMENTS + _EFFORT + _SYSTEM + _TALK,
    "effort last": _SYSTEM + _TOOLS + _DOCUMENTS + _EFFORT + _TALK,
}


def text(name: str, size: int = 3000) -> str:
    return (f"{name} went to the library and read about the weather of the day. " * size)[:size]


def say(role: str, content: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


TALK = [say("system", text("Ada")), say("user", text("Grace")), say("assistant", text("Edsger"))]
NEXT = say("user", text("Barbara", 900))
SCHEMA = {"type": "object"}
TOOLS = [{"type": "function", "function": {"name": "look", "description": text("Tony"), "parameters": SCHEMA}}]
OTHER_TOOLS = [{"type": "function", "function": {"name": "find"}}]
CLAUDE_TOOLS = [{"name": "look", "description": text("Tony"), "input_schema": SCHEMA}]
PARTS = [{"type": "text", "text": text("Grace")}]


def chat(messages: list[Any] | None = None, **fields: Any) -> Ask:
    return CHAT, {"messages": TALK if messages is None else messages, "max_completion_tokens": 1, **fields}


def completion(prompt: Any, **fields: Any) -> Ask:
    return COMPLETIONS, {"prompt": prompt, "max_tokens": 1, **fields}


def responses(item: Any, **fields: Any) -> Ask:
    return RESPONSES, {"instructions": text("Ada"), "input": item, "max_output_tokens": 1, "store": False, **fields}


def claude(messages: list[Any], **fields: Any) -> Ask:
    return MESSAGES, {"system": text("Ada"), "messages": messages, "max_tokens": 1, **fields}


def with_tools(messages: list[Any], **fields: Any) -> Ask:
    return chat(messages, tools=TOOLS, tool_choice="none", **fields)


QUIET = {"chat_template_kwargs": {"mood": "quiet"}}
# Pairs of requests of which we tell exactly how much the second finds of the first.
EXACT: dict[str, tuple[Ask, Ask]] = {
    "the same again": (chat(), chat()),
    "the next turn": (chat(), chat([*TALK, NEXT])),
    "the next turn, with tools": (with_tools(TALK), with_tools([*TALK, NEXT])),
    "the next turn, with an effort": (chat(reasoning_effort="low"), chat([*TALK, NEXT], reasoning_effort="low")),
    "a text and a list of one": (chat([TALK[0], TALK[1]]), chat([TALK[0], say("user", PARTS)])),
    "another question": (chat([TALK[0], NEXT]), chat([TALK[0], say("user", text("Alan"))])),
    "another system prompt": (chat(), chat([say("system", text("Kurt")), *TALK[1:]])),
    "no system prompt": (chat(), chat(TALK[1:])),
    "another format of the answer": (chat(), chat(response_format={"type": "json_object"})),
    "another format by a schema": (chat(), chat(structured_outputs={"json": {"type": "object"}})),
    "a shorter answer": (chat(), chat(max_completion_tokens=2, temperature=0.1, stop=["x"])),
    "no generation prompt": (chat(), chat(add_generation_prompt=False)),
    "a continued message": (chat(), chat(add_generation_prompt=False, continue_final_message=True)),
    "another effort": (chat(reasoning_effort="low"), chat(reasoning_effort="high")),
    "other template arguments": (chat(**QUIET), chat(chat_template_kwargs={"mood": "loud"})),
    "the same template arguments": (chat(**QUIET), chat([*TALK, NEXT], **QUIET)),
    "the same documents": (
        chat(documents=[{"text": text("Emmy")}]), chat([*TALK, NEXT], documents=[{"text": text("Emmy")}])),
    "reasoning by another name": (
        chat([*TALK[:2], say("assistant", "yes", reasoning=text("Rosa"))]),
        chat([*TALK[:2], say("assistant", "yes", reasoning_content=text("Rosa"))])),
    "other reasoning": (
        chat([*TALK[:2], say("assistant", "yes", reasoning=text("Rosa"))]),
        chat([*TALK[:2], say("assistant", "yes", reasoning=text("Hedy"))])),
    "Claude Code's billing line": (
        chat([say("system", "x-anthropic-billing-header: cch=1;\n" + text("Ada")), NEXT]),
        chat([say("system", "x-anthropic-billing-header: cch=2;\n" + text("Ada")), NEXT])),
    "a prompt that goes on": (completion(text("Ada")), completion(text("Ada") + text("Kurt"))),
    "a prompt and a list of one": (completion(text("Ada")), completion([text("Ada")])),
    "token ids that go on": (completion([5, 6, 7] * 400), completion([5, 6, 7] * 400 + [8] * 300)),
    "other token ids": (completion([5, 6, 7] * 400), completion([5, 6, 7] * 200 + [8] * 600)),
    "Responses, the next turn": (responses(TALK[1:]), responses([*TALK[1:], NEXT])),
    "Responses and chat": (responses(TALK[1:]), chat([*TALK, NEXT])),
    "Responses of one text": (responses(text("Grace")), chat(TALK[:2])),
    "Anthropic, the next turn": (claude(TALK[1:]), claude([*TALK[1:], NEXT])),
    "Anthropic and chat": (claude(TALK[1:]), chat([*TALK, NEXT])),
    "Anthropic, marks of a cache": (
        claude([say("user", PARTS)]),
        claude([say("user", [{**PARTS[0], "cache_control": {"type": "ephemeral"}}])],
               system=[{"type": "text", "text": text("Ada"), "cache_control": {"type": "ephemeral"}}])),
    "Anthropic, Claude Code's billing line": (
        claude([NEXT], system=[{"type": "text", "text": "x-anthropic-billing-header: cch=1"}, *PARTS]),
        claude([NEXT], system=[{"type": "text", "text": "x-anthropic-billing-header: cch=2"}, *PARTS])),
    "Anthropic, the same tools": (
        claude(TALK[1:], tools=CLAUDE_TOOLS, tool_choice={"type": "none"}),
        claude([*TALK[1:], NEXT], tools=CLAUDE_TOOLS, tool_choice={"type": "none"})),
}  # fmt: skip
# Pairs of which only the template knows: we may miss some of it, and never believe more than there is.
AT_MOST: dict[str, tuple[Ask, Ask]] = {
    "other tools": (with_tools(TALK), chat(tools=OTHER_TOOLS, tool_choice="none")),
    "no tools": (with_tools(TALK), chat()),
    "the same tools, another system prompt": (with_tools(TALK), with_tools([say("system", text("Kurt")), *TALK[1:]])),
    "the same tools, no system prompt": (with_tools(TALK), with_tools(TALK[1:])),
    "one more system message": (with_tools(TALK), with_tools([*TALK[:1], say("system", text("Kurt")), *TALK[1:]])),
    "an effort or none": (chat(), chat(reasoning_effort="low")),
    "documents or none": (chat(documents=[{"text": text("Emmy")}]), chat()),
    "the same documents, another system prompt": (
        chat(documents=[{"text": text("Emmy")}]),
        chat([say("system", text("Kurt")), *TALK[1:]], documents=[{"text": text("Emmy")}])),
    "a prompt that is cut": (
        completion(text("Ada"), truncate_prompt_tokens=500),
        completion(text("Ada") + text("Kurt"), truncate_prompt_tokens=500)),
    "other documents": (chat(documents=[{"text": text("Emmy")}]), chat(documents=[{"text": text("Sofia")}])),
    "Responses, another effort": (
        responses("hi", reasoning={"effort": "low"}), responses("hi", reasoning={"effort": "high"})),
    "Anthropic, another effort": (
        claude(TALK[1:], output_config={"effort": "low"}), claude(TALK[1:], output_config={"effort": "high"})),
    "several prompts": (
        completion([text("Ada") + text("Kurt", 900), text("Ada") + text("Alan", 900)]),
        completion(text("Ada") + text("Emmy", 900))),
}  # fmt: skip
EFFORT_LAST = {"another effort", "other template arguments"}
"""Where a template mentions the effort after the system prompt, more is shared than we tell."""


# Only a real engine can say what it does.
pytestmark = pytest.mark.real_vllm


@pytest.fixture(scope="module")
def engine() -> Iterator[httpx2.Client]:
    server = start_vllm(trust_request_chat_template=True, served_model_name="tiny")
    try:
        with httpx2.Client(base_url=server.url, timeout=60.0, trust_env=False) as client:
            yield client
    finally:
        server.stop()


def served(engine: httpx2.Client, ask: Ask, template: str | None, salt: str) -> tuple[int, int]:
    """The engine's own prompt tokens, and how many of them it had in its cache."""
    path, body = ask
    sent = {"model": "tiny", **body, "cache_salt": salt}
    if template is not None and path == CHAT:
        sent["chat_template"] = template
    answer = engine.post(path, json=sent)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    if path == MESSAGES:
        cached = usage["cache_read_input_tokens"] or 0
        return usage["input_tokens"] + cached + (usage["cache_creation_input_tokens"] or 0), cached
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    return usage.get("prompt_tokens") or usage["input_tokens"], details["cached_tokens"] or 0


def predicted(one: Ask, other: Ask, tokens: int) -> float:
    """How many tokens of `other`, which has `tokens`, are cached after `one`, by our prefix blocks."""
    first, second = (
        read_prompt(APIS[path], read_fields(json.dumps({"model": "tiny", **body}).encode())).segments
        for path, body in (one, other)
    )
    chains = [chain(root("salt", "tiny"), segments, BLOCK_BYTES) for segments in (first, second)]
    count = sum(a == b for a, b in zip(*chains, strict=False))
    return count * BLOCK_BYTES * tokens / sum(map(len, second))


CASES = [
    *((name, template) for name, (one, other) in EXACT.items() if CHAT == one[0] == other[0] for template in TEMPLATES),
    *((name, None) for name, (one, other) in EXACT.items() if CHAT not in (one[0], other[0]) or one[0] != other[0]),
    *((name, template) for name, (one, _) in AT_MOST.items() if one[0] == CHAT for template in TEMPLATES),
    *((name, None) for name, (one, _) in AT_MOST.items() if one[0] != CHAT),
]


@pytest.mark.parametrize(("case", "template"), CASES)
def test_what_we_call_shared_is_what_the_engine_shares(engine: httpx2.Client, case: str, template: str | None) -> None:
    one, other = EXACT.get(case) or AT_MOST[case]
    salt, jinja = uuid.uuid4().hex, TEMPLATES[template] if template is not None else None
    served(engine, one, jinja, salt)
    tokens, cached = served(engine, other, jinja, salt)
    told = predicted(one, other, tokens)
    print(f"{case} / {template}: told {told:.0f}, cached {cached} of {tokens}")
    assert told <= cached + SLACK_TOKENS, "a prefix is believed to be cached and is not"
    if case in EXACT and not (template == "effort last" and case in EFFORT_LAST):
        assert cached <= told + SLACK_TOKENS, "a prefix is cached and we do not know"
