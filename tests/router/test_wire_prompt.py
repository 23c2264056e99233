"""The canonical prompt: equal for equal prompts however their JSON is spelled, and growing at its end only."""

from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.errors import BadRequest
from router.wire.fields import read_fields
from router.wire.openai import APIS, read_prompt
from router.wire.prompt import MEDIA_TOKENS, Prompt

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
PICTURE = "data:image/png;base64," + "iVBORw0KGgo" * 200

texts = st.text(st.characters(codec="utf-8"), max_size=12)
spaces = st.sampled_from(["", " ", "\n", "\t  "])


def prompt_of(path: str, body: bytes | dict[str, Any]) -> Prompt:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_prompt(APIS[path], read_fields(data))


def joined(prompt: Prompt) -> bytes:
    return b"".join(prompt.segments)


@st.composite
def spelled(draw: st.DrawFn, value: Any) -> str:
    """The same JSON value in one of its spellings: spaces, escapes, order of keys."""
    gap = draw(spaces)
    if isinstance(value, str):
        plain = json.dumps(value, ensure_ascii=draw(st.booleans()))
        if value and draw(st.booleans()) and ord(value[0]) < 0x10000:
            return f'"\\u{ord(value[0]):04X}' + json.dumps(value[1:])[1:]
        return plain
    if isinstance(value, list):
        return "[" + f",{gap}".join(draw(spelled(item)) for item in value) + gap + "]"
    if isinstance(value, dict):
        keys = draw(st.permutations(list(value)))
        return (
            "{" + gap + f"{gap},".join(f"{draw(spelled(key))}:{gap}{draw(spelled(value[key]))}" for key in keys) + "}"
        )
    return json.dumps(value)


parts = st.lists(texts.map(lambda text: {"type": "text", "text": text}) | texts, min_size=1, max_size=3)
turns = st.fixed_dictionaries(
    {"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": texts | parts},
    optional={"name": texts, "tool_call_id": texts},
)
calls = st.lists(
    st.fixed_dictionaries({"id": texts, "function": st.fixed_dictionaries({"name": texts, "arguments": texts})}),
    min_size=1,
    max_size=2,
)
called = st.fixed_dictionaries({"role": st.just("assistant"), "content": st.none() | texts, "tool_calls": calls})
pictures = texts.map(
    lambda url: {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "?"}],
    }
)
items = texts.map(lambda output: {"type": "function_call_output", "call_id": "c", "output": output})


# -- equal prompts


@given(st.data(), st.lists(turns, max_size=4))
def test_equal_conversations_give_equal_segments_however_they_are_spelled(
    data: st.DataObject, conversation: list[dict[str, Any]]
) -> None:
    body = {"model": "m", "messages": conversation, "temperature": 0.5, "stream": True}
    one, other = (prompt_of(CHAT, data.draw(spelled(body)).encode()) for _ in range(2))
    assert one.segments == other.segments
    assert (one.text_bytes, one.extra_tokens, one.count) == (other.text_bytes, other.extra_tokens, other.count)


@given(st.data(), texts | st.lists(texts, max_size=4))
def test_equal_prompts_give_equal_segments_however_they_are_spelled(
    data: st.DataObject, prompt: str | list[str]
) -> None:
    for path, field in ((COMPLETIONS, "prompt"), (EMBEDDINGS, "input")):
        body = {"model": "m", field: prompt}
        one, other = (prompt_of(path, data.draw(spelled(body)).encode()) for _ in range(2))
        assert one.segments == other.segments


TOOL = '[{"type":"function","function":{"name":"f","description":"caf\u00e9"}}]'
SPACED_TOOL = json.dumps(json.loads(TOOL))


@pytest.mark.parametrize(
    ("path", "field", "one", "other"),
    [
        (CHAT, "tools", TOOL, SPACED_TOOL),
        (CHAT, "messages", f'[{{"role":"assistant","tool_calls":{TOOL}}}]',
         f'[{{"role":"assistant","tool_calls":{SPACED_TOOL}}}]'),
        (RESPONSES, "instructions", '"caf\u00e9"', '"caf\\u00e9"'),
        (RESPONSES, "input", '[{"type":"function_call_output","output":"\u00e9"}]',
         '[{"type": "function_call_output", "output": "\\u00e9"}]'),
        (MESSAGES, "messages", '[{"role":"user","content":[{"type":"tool_use","input":{"a":1}}]}]',
         '[{"role": "user", "content": [{"type": "tool_use", "input": {"a": 1}}]}]'),
        (CHAT, "messages", '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"http://a/b"}}]}]',
         '[{"role":"user","content":[{"type": "image_url", "image_url": {"url": "http:\\/\\/a/b"}}]}]'),
        ("/v1/rerank", "query", '"caf\u00e9"', '"caf\\u00e9"'),
    ],
    ids=["tools", "tool_calls", "instructions", "function_call_output", "tool_use", "image_url", "query"],
)  # fmt: skip
def test_what_is_no_plain_text_is_equal_however_it_is_spaced_and_escaped(
    path: str, field: str, one: str, other: str
) -> None:
    first, second = (prompt_of(path, f'{{"model":"m","{field}":{text}}}'.encode()) for text in (one, other))
    assert first.segments == second.segments


# -- growing prompts


@given(st.lists(turns | called | pictures | items, max_size=4), st.lists(turns | called | pictures | items, max_size=3))
def test_a_longer_conversation_begins_with_the_bytes_of_the_shorter(
    conversation: list[dict[str, Any]], further: list[dict[str, Any]]
) -> None:
    begun = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}, *conversation]
    for path, field in ((CHAT, "messages"), (MESSAGES, "messages"), (RESPONSES, "input"), (EMBEDDINGS, "messages")):
        for head in ({}, {"tools": [{"a": 1}], "chat_template_kwargs": {"b": 2}}):
            shorter = prompt_of(path, {"model": "m", **head, field: begun})
            longer = prompt_of(path, {"model": "m", **head, field: begun + further})
            assert joined(longer).startswith(joined(shorter))
            assert longer.segments[: len(shorter.segments)] == shorter.segments


@given(texts, texts)
def test_a_longer_text_begins_with_the_bytes_of_the_shorter(text: str, further: str) -> None:
    shorter = prompt_of(COMPLETIONS, {"model": "m", "prompt": text})
    longer = prompt_of(COMPLETIONS, {"model": "m", "prompt": text + further})
    assert joined(longer).startswith(joined(shorter))


def test_a_conversation_with_a_huge_turn_still_begins_with_the_shorter_ones_bytes() -> None:
    first = [
        {"role": "user", "content": "\u00e9\n" * 200_000},
        {"role": "user", "content": [{"type": "text", "text": "x" * 300_000}]},
    ]
    shorter = prompt_of(CHAT, {"model": "m", "messages": first})
    longer = prompt_of(CHAT, {"model": "m", "messages": [*first, {"role": "user", "content": "more"}]})
    assert joined(longer).startswith(joined(shorter))
    assert longer.text_bytes > shorter.text_bytes > 600_000


def test_texts_cut_at_another_place_are_other_prompts() -> None:
    def one(*contents: str) -> bytes:
        return joined(prompt_of(CHAT, {"messages": [{"role": "user", "content": text} for text in contents]}))

    assert len({one("ab", "c"), one("a", "bc"), one("abc"), one("", "abc")}) == 4
    two = [joined(prompt_of(COMPLETIONS, {"prompt": prompt})) for prompt in (["ab", "c"], ["a", "bc"])]
    assert two[0] != two[1]


# -- what each API's prompt is made of


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "user", "content": "two"}], "tools": ["one"]}),
        (EMBEDDINGS, {"input": ["one", "two"]}),
        (EMBEDDINGS, {"messages": [{"role": "user", "content": [{"type": "text", "text": "one"}, "two"]}]}),
        (RESPONSES, {"input": "two", "instructions": "one"}),
        (
            RESPONSES,
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "two"}]}], "tools": ["one"]},
        ),
        (MESSAGES, {"messages": [{"role": "user", "content": "two"}], "system": "one"}),
        (MESSAGES, {"messages": [{"role": "user", "content": "two"}], "system": [{"type": "text", "text": "one"}]}),
        (MESSAGES, {"messages": [{"role": "user", "content": "two"}], "tools": ["one"]}),
        (CHAT, {"messages": [{"role": "user", "content": "two"}], "documents": [{"text": "one"}]}),
        (RESPONSES, {"input": "two", "previous_response_id": "one", "instructions": "be brief"}),
        (EMBEDDINGS, {"input": [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]}),
        ("/v1/rerank", {"documents": ["two"], "query": "one"}),
        ("/v1/score", {"text_2": "two", "text_1": "one"}),
        ("/v1/score", {"documents": ["two"], "queries": "one"}),
        ("/v1/score", {"data_2": ["two"], "data_1": "one"}),
        ("/v1/score", {"items": ["two"], "queries": "one"}),
    ],
)
def test_every_apis_prompt_is_read_in_the_engines_order(path: str, body: dict[str, Any]) -> None:
    prompt = prompt_of(path, {"model": "m", "max_tokens": 5, **body})
    text = joined(prompt)
    assert 0 <= text.find(b"one") < text.find(b"two")
    assert 0 < prompt.text_bytes <= len(text)
    assert prompt.extra_tokens == 0


def test_every_path_is_a_known_api() -> None:
    assert all(read_prompt(spec, {}).segments == [] for spec in APIS.values())
    assert all(spec.path == path for path, spec in APIS.items())


def test_fields_that_are_null_are_no_prompt() -> None:
    body = {"messages": None, "tools": None, "response_format": None, "prompt": None, "input": None, "system": None}
    for path in APIS:
        assert prompt_of(path, body).segments == []


# -- token ids and media


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20))
def test_token_ids_stand_for_themselves(ids: list[int]) -> None:
    prompt = prompt_of(COMPLETIONS, {"prompt": ids})
    assert joined(prompt) == struct.pack(f"<{len(ids)}I", *ids)
    assert (prompt.extra_tokens, prompt.text_bytes, prompt.count) == (len(ids), 0, 1)
    assert prompt.ids == len(ids)


def test_several_prompts_are_counted() -> None:
    conversation = [{"role": "user", "content": "a"}]
    assert prompt_of(EMBEDDINGS, {"input": conversation * 9}).count == 1
    assert prompt_of(EMBEDDINGS, {"messages": [conversation] * 9}).count == 9
    assert prompt_of(COMPLETIONS, {"prompt": [[1, 2], [3]]}).count == 2
    assert prompt_of(EMBEDDINGS, {"input": ["a"] * 9}).count == 9
    assert prompt_of("/v1/rerank", {"query": "q", "documents": ["a", {"text": "b"}]}).count == 2
    assert prompt_of(COMPLETIONS, {"prompt": []}).count == 1


@pytest.mark.parametrize("bad", [[-1], [2**32], [[1], [-1]], [1, -1]])
def test_token_ids_out_of_range_are_refused(bad: list[Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        prompt_of(COMPLETIONS, {"prompt": bad})
    assert refused.value.param == "prompt"


def picture(kind: str) -> dict[str, Any]:
    if kind == "image":
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}}
    return {"type": kind, kind: {"url": PICTURE, "data": PICTURE}}


MEDIA = {
    "a picture of a chat": (CHAT, {"messages": [{"role": "user", "content": [picture("image_url")]}]}),
    "a sound of a chat": (CHAT, {"messages": [{"role": "user", "content": [picture("input_audio")]}]}),
    "a picture for Anthropic": (MESSAGES, {"messages": [{"role": "user", "content": [picture("image")]}]}),
    "a picture for Responses": (RESPONSES, {"input": [{"role": "user", "content": [picture("input_image")]}]}),
    "a picture in an embedding": (EMBEDDINGS, {"messages": [{"role": "user", "content": [picture("image_url")]}]}),
    "a tool's result for Anthropic": (MESSAGES, {"messages": [{"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t", "content": [picture("image")]}]}]}),
    "a function's output for Responses": (RESPONSES, {"input": [
        {"type": "function_call_output", "call_id": "c", "output": [picture("input_image")]}]}),
    "a screenshot for Responses": (RESPONSES, {"input": [
        {"type": "computer_call_output", "call_id": "c", "output": picture("input_image")}]}),
}  # fmt: skip


@pytest.mark.parametrize("case", MEDIA)
def test_media_stand_as_a_digest_never_as_their_data(case: str) -> None:
    path, body = MEDIA[case]
    prompt = prompt_of(path, body)
    assert b"iVBORw0KGgo" not in joined(prompt)
    assert prompt.extra_tokens == MEDIA_TOKENS
    other = prompt_of(path, json.dumps(body).replace("iVBORw0KGgo", "iVBORw0KGgp").encode())
    assert joined(other) != joined(prompt)


# -- what is wrong


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (COMPLETIONS, {"prompt": {"a": 1}}, "prompt"),
        (COMPLETIONS, {"prompt": 7}, "prompt"),
        (COMPLETIONS, {"prompt": [1.5]}, "prompt[0]"),
        (COMPLETIONS, {"prompt": [[1, "a"]]}, "prompt[0][1]"),
        (COMPLETIONS, {"prompt": [True]}, "prompt[0]"),
        (EMBEDDINGS, {"input": [None]}, "input[0]"),
        (CHAT, {"messages": {"role": "user"}}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": "a"}, 7]}, "messages[1]"),
        (CHAT, {"messages": [{"role": 7, "content": "a"}]}, "messages[0].role"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
            "messages[0].content[0].text",
        ),
        (CHAT, {"messages": [{"role": "user", "content": ["a", 7]}]}, "messages[0].content[1]"),
        (CHAT, {"messages": [{"role": "user", "content": "a", "name": 7}]}, "messages[0].name"),
        (MESSAGES, {"system": 7}, "system"),
        (MESSAGES, {"system": [7]}, "system[0]"),
        (RESPONSES, {"input": [[]]}, "input[0]"),
        (RESPONSES, {"reasoning": 7}, "reasoning"),
        (CHAT, {"truncate_prompt_tokens": "7"}, "truncate_prompt_tokens"),
        (EMBEDDINGS, {"messages": [[{"role": "user", "content": "a"}], [7]]}, "messages[1][0]"),
        ("/v1/rerank", {"documents": 7}, "documents"),
        ("/v1/score", {"text_1": 7}, "text_1"),
    ],
)
def test_a_value_of_a_wrong_type_is_refused_with_its_place(path: str, body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        prompt_of(path, body)
    assert refused.value.param == param
    assert refused.value.status == 400


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"role":"user","content":[', '{"messages":['])
@pytest.mark.parametrize("field", ["messages", "prompt", "input", "tools", "documents", "tokens"])
def test_nesting_without_end_is_a_bad_request(opening: str, field: str) -> None:
    closing = opening.translate(str.maketrans("[{", "]}"))
    closing = "".join(letter for letter in reversed(closing) if letter in "]}")
    body = f'{{"{field}":' + opening * 50_000 + "1" + closing * 50_000 + "}"
    with pytest.raises(BadRequest):
        read_fields(body.encode())


def read_or_refused(path: str, body: bytes | dict[str, Any]) -> Prompt | BadRequest:
    try:
        return prompt_of(path, body)
    except BadRequest as refused:
        return refused


@pytest.mark.parametrize("depth", [10, 400, 900, 1100])
def test_deep_nesting_is_read_or_refused_and_no_fault(depth: int) -> None:
    inner = "[" * depth + "]" * depth
    for path in APIS:
        for name in ("messages", "prompt", "input", "tools", "documents", "tokens", "system"):
            for value in (inner, f'[{{"role":"user","content":{inner}}}]', f'[{{"x":{inner}}}]'):
                assert read_or_refused(path, f'{{"{name}":{value}}}'.encode())


KEYS = [
    "role",
    "content",
    "type",
    "text",
    "tool_calls",
    "name",
    "image_url",
    "source",
    "data",
    "url",
    "input",
    "tool_use_id",
    "output",
    "call_id",
    "reasoning",
    "thinking",
    "effort",
    "cache_control",
]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(KEYS),
            inner | st.sampled_from(["tool_result", "tool_use", "image", "function_call_output", "system"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(st.sampled_from(sorted(APIS)), st.data())
def test_any_json_is_a_prompt_or_a_bad_request(path: str, data: st.DataObject) -> None:
    fields = sorted({name for name, _ in APIS[path].prompt_fields})
    found = read_or_refused(path, {name: data.draw(values) for name in fields})
    if isinstance(found, Prompt):
        assert found.count >= 1
        assert found.text_bytes == sum(map(len, found.texts))
    else:
        assert found.param is None or found.param.split("[")[0].split(".")[0] in fields
