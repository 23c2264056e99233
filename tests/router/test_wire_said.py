"""Texts and tool calls out of the pieces of answers, in the words of each API: the same as if all had been read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.governance.answers import Said
from router.wire.answer_sample import HEAD_BYTES, WHOLE_BYTES, AnswerSample
from router.wire.fields import read_fields
from router.wire.openai import APIS
from router.wire.said import names_of_tools, prompt_end, prompt_text, said

CHAT, COMPLETIONS, RESPONSES, MESSAGES = "/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"
CALL = ("weather", '{"city":"Bern"}')


def data(event: dict[str, Any], ascii_only: bool = False) -> bytes:
    name = b"event: %b\n" % event["type"].encode() if "type" in event else b""
    return name + b"data: %b\n\n" % json.dumps(event, ensure_ascii=ascii_only).encode()


def chat_chunk(**delta: Any) -> dict[str, Any]:
    return {"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta, "logprobs": None}]}


def stream_of(path: str, texts: list[str], *, ascii_only: bool = False) -> list[bytes]:
    """The events of an answer that says these texts, one a piece."""
    if path == CHAT:
        events = [chat_chunk(role="assistant", content=""), chat_chunk(reasoning_content="content thought")]
        events += [chat_chunk(content=text) for text in texts]
    elif path == COMPLETIONS:
        events = [{"id": "x", "choices": [{"index": 0, "text": text, "logprobs": None}]} for text in texts]
    elif path == MESSAGES:
        kind = "content_block_delta"
        events = [{"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}]
        events += [{"type": kind, "index": 0, "delta": {"type": "thinking_delta", "thinking": "no"}}]
        events += [{"type": kind, "index": 0, "delta": {"type": "text_delta", "text": text}} for text in texts]
    else:
        kind = "response.output_text.delta"
        events = [{"type": "response.reasoning_text.delta", "delta": "no"}]
        events += [{"type": kind, "content_index": 0, "delta": text, "logprobs": []} for text in texts]
        events += [{"type": "response.output_text.done", "text": "".join(texts)}]
    return [*(data(event, ascii_only) for event in events), b"data: [DONE]\n\n"]


def sample(pieces: list[bytes]) -> AnswerSample:
    made = AnswerSample()
    for piece in pieces:
        made.add(piece)
    return made


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
@pytest.mark.parametrize("ascii_only", [True, False])
@given(texts=st.lists(st.text(st.characters(codec="utf-8"), max_size=12), max_size=8), cut=st.integers(1, 400))
def test_a_streams_text_is_what_it_said_however_it_is_cut(
    path: str, ascii_only: bool, texts: list[str], cut: int
) -> None:
    raw = b"".join(stream_of(path, texts, ascii_only=ascii_only))
    found = said(APIS[path], sample([raw[at : at + cut] for at in range(0, len(raw), cut)][:120]))
    if len(raw) <= cut * 120:
        assert (found.text if found is not None else "") == "".join(texts)
        assert found is None or (found.whole and found.calls == ())


@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, RESPONSES, MESSAGES])
def test_of_a_long_stream_the_beginning_and_the_end_are_seen_within_the_bound(path: str) -> None:
    texts = [f" n{number}" for number in range(5000)]
    taken = sample(stream_of(path, texts))
    found = said(APIS[path], taken)
    assert found is not None
    assert not found.whole
    assert found.text.startswith(" n0 n1 n2")
    assert " n4999" in found.text
    assert " n2500" not in found.text
    assert len(taken.events) < 4 * HEAD_BYTES
    huge = sample([b"x" * 200_000] * 1000)
    assert len(huge.events) < 200_000 + 128 * 4096 + 10


def calls(path: str) -> list[bytes]:
    """A call of a tool, in two pieces."""
    name, arguments = CALL
    if path == CHAT:
        first = {"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": ""}}
        rest = [{"index": 0, "function": {"arguments": part}} for part in (arguments[:5], arguments[5:])]
        return [data(chat_chunk(tool_calls=[one])) for one in (first, *rest)]
    if path == MESSAGES:
        block = {"type": "tool_use", "id": "c", "name": name, "input": {}}
        events: list[dict[str, Any]] = [{"type": "content_block_start", "index": 1, "content_block": block}]
        for part in (arguments[:5], arguments[5:]):
            delta = {"type": "input_json_delta", "partial_json": part}
            events.append({"type": "content_block_delta", "index": 1, "delta": delta})
        return [data(event) for event in events]
    item = {"type": "function_call", "name": name, "arguments": arguments}
    return [data({"type": "response.output_item.done", "output_index": 0, "item": item})]


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_tool_calls_of_a_stream_are_put_together(path: str) -> None:
    assert said(APIS[path], sample(calls(path))) == Said("", (CALL,), True)
    both = said(APIS[path], sample([*stream_of(path, ["hello"]), *calls(path)]))
    assert both == Said("hello", (CALL,), True)


FUNCTION = {"name": CALL[0], "arguments": CALL[1]}
WHOLES: dict[str, dict[str, Any]] = {
    CHAT: {
        "choices": [
            {"message": {"content": "hello", "reasoning_content": "no", "tool_calls": [{"function": FUNCTION}]}}
        ]
    },
    COMPLETIONS: {"choices": [{"text": "hello"}]},
    MESSAGES: {
        "content": [
            {"type": "thinking", "thinking": "no"},
            {"type": "text", "text": "hello"},
            {"type": "tool_use", "name": CALL[0], "input": {"city": "Bern"}},
        ]
    },
    RESPONSES: {
        "output": [
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "no"}]},
            {"type": "message", "content": [{"type": "output_text", "text": "hello"}]},
            {"type": "function_call", **FUNCTION},
        ]
    },
}


@pytest.mark.parametrize("path", WHOLES)
def test_a_whole_answer_that_came_in_pieces_is_read(path: str) -> None:
    body = json.dumps(WHOLES[path]).encode()
    found = said(APIS[path], sample([body[:20], body[20:]]))
    assert found == Said("hello", () if path == COMPLETIONS else (CALL,), True)


@pytest.mark.parametrize("path", WHOLES)
def test_a_whole_answer_is_read(path: str) -> None:
    made = AnswerSample()
    made.keep(json.dumps(WHOLES[path]).encode())
    assert said(APIS[path], made) == Said("hello", () if path == COMPLETIONS else (CALL,), True)


@pytest.mark.parametrize("path", WHOLES)
@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"choices":[1],"output":[1],"content":7}', b"\xff", b"x" * WHOLE_BYTES * 2]
)
def test_what_cannot_be_read_is_nothing(path: str, body: bytes) -> None:
    made = AnswerSample()
    made.keep(body)
    assert said(APIS[path], made) is None
    assert said(APIS[path], sample([body])) is None


@given(st.binary(max_size=300), st.sampled_from(list(WHOLES)))
def test_no_bytes_are_a_fault(raw: bytes, path: str) -> None:
    text = raw.replace(b"\n", b'"content":"')
    for one in (raw, text, b'data: {"tool_calls"' + raw):
        said(APIS[path], sample([one]))
        prompt_text(one)
        names_of_tools(one)


def test_half_a_pair_of_surrogates_is_no_fault() -> None:
    found = said(APIS[CHAT], sample([b'data: {"choices":[{"delta":{"content":"a\\ud83d"}}]}\n\n']))
    assert found is not None
    assert found.text.startswith("a")


BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": [{"type": "text", "text": "сколько"}]}]},
    COMPLETIONS: {"prompt": "сколько"},
    RESPONSES: {"input": "сколько"},
    MESSAGES: {"messages": [{"role": "user", "content": "сколько"}]},
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_prompts_text_is_found(path: str, ascii_only: bool) -> None:
    raw = json.dumps({"model": "m", **BODIES[path]}, ensure_ascii=ascii_only).encode()
    assert "сколько" in prompt_text(prompt_end(APIS[path], read_fields(raw)))


def test_of_a_long_conversation_the_last_turn_counts() -> None:
    turns = [{"role": "user", "content": "hello " * 100} for _ in range(100)]
    body = {"messages": [*turns, {"role": "user", "content": "сколько " * 50}]}
    text = prompt_text(prompt_end(APIS[CHAT], read_fields(json.dumps(body).encode())))
    assert "сколько" in text
    assert "hello" not in text
    one = {"messages": [{"role": "user", "content": "привет " * 20_000}]}
    raw = prompt_end(APIS[CHAT], read_fields(json.dumps(one).encode()))
    assert len(raw) == 16 * 1024
