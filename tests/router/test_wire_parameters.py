"""What a record says of the parameters that an answer was sampled by: the same of all APIs, and nothing of any text."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.fields import read_fields
from router.wire.openai import APIS
from router.wire.parameters import keyed, pick, read

KEY, OTHER = b"k" * 32, b"o" * 32
CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
WORD = "zyxwordzyx"
TOOL = {"name": WORD, "description": WORD, "parameters": {"type": "object"}}


def told(body: dict[str, Any], path: str = CHAT, key: bytes = KEY, most: int | None = None) -> dict[str, Any]:
    fields = read_fields(json.dumps({"model": "m", **body}).encode())
    return read(pick(fields), key, APIS[path].output_fields, most)


def test_numbers_and_switches_are_told_as_they_are() -> None:
    given = {
        "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7, "n": 2, "presence_penalty": 0.1,
        "frequency_penalty": -0.5, "repetition_penalty": 1.1, "logprobs": True, "top_logprobs": 5, "min_tokens": 3,
        "ignore_eos": False, "parallel_tool_calls": False,
    }  # fmt: skip
    assert told(given) == given
    assert told(dict.fromkeys(given)) == {}
    assert told({"messages": [{"role": "user", "content": WORD}], "user": WORD, "metadata": {"a": WORD}}) == {}


def test_values_that_no_engine_should_take_are_told_as_odd_and_never_repeated() -> None:
    odd = {"temperature": WORD, "top_p": [WORD], "seed": 10**30, "n": {"a": 1}}
    assert set(told(odd).values()) <= {"odd", 1e30}
    assert told({"temperature": "0.5"}) == {"temperature": 0.5}, "engines read it as a number"
    assert told({"reasoning_effort": WORD}) == {"reasoning_effort": "odd"}
    assert told({"tool_choice": WORD, "response_format": {"type": WORD}})["tool_choice"] == "odd"


@pytest.mark.parametrize(
    ("path", "body", "bound"),
    [
        (CHAT, {"max_tokens": 9}, 9),
        (CHAT, {"max_tokens": 9, "max_completion_tokens": 5}, 5),
        (CHAT, {"max_tokens": 9, "max_completion_tokens": None}, 9),
        (COMPLETIONS, {"max_tokens": 8}, 8),
        (RESPONSES, {"max_output_tokens": 7}, 7),
        (MESSAGES, {"max_tokens": 6}, 6),
        (MESSAGES, {}, None),
    ],
)
def test_an_answers_length_has_one_name_and_is_what_the_engine_got(
    path: str, body: dict[str, Any], bound: int | None
) -> None:
    assert told(body, path).get("max_tokens") == bound
    assert told(body, path, most=5).get("max_tokens") == 5, "of a degraded answer"
    assert told(body, path, most=100).get("max_tokens") == (100 if bound is None else bound)


@pytest.mark.parametrize(("name", "path"), [("stop", CHAT), ("stop", COMPLETIONS), ("stop_sequences", MESSAGES)])
def test_stop_strings_are_hashes_by_the_tenants_key(name: str, path: str) -> None:
    found = told({name: [WORD, "\n"]}, path)
    assert found["stop"] == [keyed(KEY, "stop", WORD.encode(), 8), keyed(KEY, "stop", b"\n", 8)]
    assert told({name: WORD}, path)["stop"] == found["stop"][:1]
    assert told({name: WORD}, path, key=OTHER)["stop"] != found["stop"][:1]
    many = told({name: [str(number) for number in range(100)]}, path)
    assert (len(many["stop"]), many["stop_count"]) == (16, 100)
    assert told({name: []}, path) == {}


TOOLS = {
    CHAT: [{"type": "function", "function": TOOL}, {"type": "function", "function": {"name": "b"}}],
    RESPONSES: [{"type": "function", **TOOL}, {"type": "function", "name": "b"}],
    MESSAGES: [{**TOOL, "input_schema": {}}, {"name": "b"}],
}


@pytest.mark.parametrize("path", TOOLS)
def test_tools_are_a_count_and_a_hash_of_their_names_in_any_order(path: str) -> None:
    one, other = told({"tools": TOOLS[path]}, path), told({"tools": TOOLS[path][::-1]}, path)
    assert one["tools"] == 2
    assert one["tool_names_hash"] == other["tool_names_hash"]
    assert one["tool_names_hash"] == told({"tools": TOOLS[CHAT]})["tool_names_hash"], "the same in each API's words"
    assert one["tools_hash"] != other["tools_hash"]
    assert told({"tools": TOOLS[path][:1]}, path)["tool_names_hash"] != one["tool_names_hash"]


@pytest.mark.parametrize(
    ("choice", "kind"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "any"}, "any"),
        ({"type": "function", "function": {"name": WORD}}, "named"),
        ({"type": "tool", "name": WORD}, "named"),
    ],
)
def test_the_choice_of_tools_is_a_kind(choice: Any, kind: str) -> None:
    found = told({"tool_choice": choice})
    assert found["tool_choice"] == kind
    assert ("tool_choice_hash" in found) == (kind == "named")


SCHEMA = {"type": "json_schema", "json_schema": {"name": WORD, "schema": {"title": WORD}}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"response_format": SCHEMA}),
        (RESPONSES, {"text": {"format": SCHEMA}}),
        (MESSAGES, {"output_config": {"format": SCHEMA}}),
    ],
)
def test_the_format_of_an_answer_is_a_kind_and_a_hash_of_its_schema(path: str, body: dict[str, Any]) -> None:
    found = told(body, path)
    assert (found["response_format"], len(found["response_format_hash"])) == ("json_schema", 32)
    assert told({"response_format": {"type": "json_object"}}) == {"response_format": "json_object"}


def test_reasoning_has_the_words_of_each_api() -> None:
    assert told({"reasoning_effort": "high"}) == {"reasoning_effort": "high"}
    assert told({"reasoning": {"effort": "low", "summary": WORD}}, RESPONSES) == {"reasoning_effort": "low"}
    thinking = told({"thinking": {"type": "enabled", "budget_tokens": 512}}, MESSAGES)
    assert thinking == {"thinking": "enabled", "thinking_token_budget": 512}


def test_what_is_too_long_to_be_read_is_hashed_as_it_was_spelled() -> None:
    raw = json.dumps([{"name": WORD * 50_000}]).encode()
    assert read({"tools": raw}, KEY) == {"tools_hash": keyed(KEY, "tools", raw)}


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.just(WORD),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.just(WORD) | st.just("type"), inner, max_size=3),
    max_leaves=6,
)
_names = [
    "stop", "stop_sequences", "tools", "functions", "tool_choice", "response_format", "text", "reasoning", "thinking",
    "output_config", "output_format", "reasoning_effort", "temperature", "seed", "logit_bias", "bad_words", "n",
    "max_tokens", "structured_outputs", "chat_template", "vllm_xargs", "logprobs", "top_k", "repetition_detection",
]  # fmt: skip


@given(st.dictionaries(st.sampled_from(_names), _json))
def test_whatever_is_sent_no_word_of_it_is_told_and_what_is_told_is_json(body: dict[str, Any]) -> None:
    found = told(body)
    text = json.dumps(found, allow_nan=False)
    assert WORD not in text
    assert json.loads(text) == found
    assert msgspec.json.decode(msgspec.json.encode(found)) == found


@given(st.binary(max_size=40))
def test_broken_json_is_no_fault(raw: bytes) -> None:
    read({"tools": raw, "stop": raw, "temperature": raw, "response_format": raw, "tool_choice": raw}, KEY, ("n",), 3)
