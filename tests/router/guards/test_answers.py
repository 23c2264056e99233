"""Rules for answers in one piece: every text of every API that generates."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from tests.router.guards.stack import DENY, KEY, PII, answering, guarded, settled
from tests.router.stack import Stack

MAIL = "write to jane@acme.com please"
CLEAN = "write to [email] please"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12}


def chat(**message: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": "stop"}
    return {"id": "x", "object": "chat.completion", "model": "tiny", "choices": [choice], "usage": USAGE}


def tool(text: str) -> list[dict[str, Any]]:
    return [{"id": "c", "type": "function", "function": {"name": "send", "arguments": f'{{"to":"{text}"}}'}}]


def completion(text: str) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    return {"id": "x", "object": "text_completion", "model": "tiny", "choices": [choice], "usage": USAGE}


def response(**item: Any) -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 3, "total_tokens": 12}
    return {"id": "x", "object": "response", "status": "completed", "model": "tiny", "output": [item], "usage": usage}


def message(**block: Any) -> dict[str, Any]:
    usage = {"input_tokens": 9, "output_tokens": 3}
    return {
        "id": "x", "type": "message", "role": "assistant", "model": "tiny", "content": [block],
        "stop_reason": "end_turn", "usage": usage,
    }  # fmt: skip


def text_parts(text: str) -> list[dict[str, Any]]:
    return [{"type": "output_text", "text": text, "annotations": []}]


QUESTIONS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/completions": {"prompt": "x"},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"max_tokens": 5, "messages": [{"role": "user", "content": "x"}]},
}
ANSWERS = [
    ("/v1/chat/completions", lambda text: chat(content=text)),
    ("/v1/chat/completions", lambda text: chat(content="x", reasoning_content=text)),
    ("/v1/chat/completions", lambda text: chat(content="x", reasoning=text)),
    ("/v1/chat/completions", lambda text: chat(tool_calls=tool(text))),
    ("/v1/chat/completions", lambda text: chat(refusal=text)),
    ("/v1/completions", completion),
    ("/v1/responses", lambda text: response(type="message", role="assistant", content=text_parts(text))),
    ("/v1/responses", lambda text: response(type="reasoning", summary=[{"type": "summary_text", "text": text}])),
    ("/v1/responses", lambda text: response(type="function_call", name="f", arguments=f'{{"a":"{text}"}}')),
    ("/v1/messages", lambda text: message(type="text", text=text)),
    ("/v1/messages", lambda text: message(type="thinking", thinking=text)),
    ("/v1/messages", lambda text: message(type="tool_use", id="t", name="f", input={"to": [text]})),
]
CASES = pytest.mark.parametrize(("path", "answer"), ANSWERS, ids=[f"{one[0]} {at}" for at, one in enumerate(ANSWERS)])


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with guarded([PII, DENY]) as stack:
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    running.process.metrics._totals["promptlane_guard_verdicts"].clear()
    return running


def ask(stack: Stack, path: str, key: str = KEY, **fields: Any) -> tuple[int, Any]:
    status, _, answer = stack.post(path, {"model": "qwen", **QUESTIONS[path], **fields}, key=key)
    return status, answer


@CASES
def test_what_a_rule_takes_out_reaches_no_client(stack: Stack, path: str, answer: Any) -> None:
    stack.engines["e"].reply = answering(answer(MAIL))
    status, got = ask(stack, path)
    assert status == 200
    assert got == {**answer(CLEAN), "model": "qwen"}
    settled(stack, {("pii", "output", "redact"): 1})


@CASES
def test_an_answer_that_is_blocked_is_an_error_and_its_work_is_counted(stack: Stack, path: str, answer: Any) -> None:
    before = stack.process.metrics.total("promptlane_completion_tokens", "acme")
    stack.engines["e"].reply = answering(answer("a BOMB plan"))
    status, got = ask(stack, path)
    assert status == 400
    assert "deny" in got["error"]["message"]
    assert "bomb" not in str(got).lower()
    settled(stack, {("deny", "output", "block"): 1})
    assert stack.process.metrics.total("promptlane_completion_tokens", "acme") == before + 3


@CASES
def test_other_tenants_get_what_the_engine_said(stack: Stack, path: str, answer: Any) -> None:
    stack.engines["e"].reply = answering(answer("a bomb for jane@acme.com"))
    assert ask(stack, path, "globex-key") == (200, {**answer("a bomb for jane@acme.com"), "model": "qwen"})


def test_an_answer_with_nothing_in_it_keeps_its_bytes(stack: Stack) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        body = (
            b'{ "id":"x", "choices":[ {"index":0,"message":{"content":"\\u0068i", "n":1.50},"finish_reason":"stop"}]}'
        )
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)

    stack.engines["e"].reply = reply
    _, _, got = stack.send(
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer acme-key\r\nconnection: close\r\n"
        b'content-length: 30\r\n\r\n{"model":"tiny","messages":[]}'
    )
    assert got.startswith(b'{ "id":"x", "choices":[ {"index":0,"message":{"content":"\\u0068i", "n":1.50}')


def test_an_answer_without_a_length_is_examined_as_well(stack: Stack) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n")
        body = b'{"choices":[{"index":0,"message":{"content":"to jane@acme.com"},"finish_reason":"stop"}]}'
        for piece in (body[:60], body[60:]):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    stack.engines["e"].reply = reply
    status, got = ask(stack, "/v1/chat/completions")
    assert (status, got["choices"][0]["message"]["content"]) == (200, "to [email]")


@pytest.mark.parametrize("body", [b"[1, 2]", b'{"choices": 1', b'"text"'])
def test_an_answer_that_cannot_be_read_does_not_pass(stack: Stack, body: bytes) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body))
        writer.write(body)

    stack.engines["e"].reply = reply
    assert ask(stack, "/v1/chat/completions")[0] == 502


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/chat/completions", {"logprobs": True}),
        ("/v1/chat/completions", {"logprobs": True, "top_logprobs": 2}),
        ("/v1/chat/completions", {"prompt_logprobs": 0}),
        ("/v1/chat/completions", {"return_token_ids": True}),
        ("/v1/chat/completions", {"echo": True}),
        ("/v1/completions", {"echo": True}),
        ("/v1/completions", {"logprobs": 0}),
        ("/v1/responses", {"include": ["message.output_text.logprobs"]}),
        ("/v1/responses", {"top_logprobs": 3}),
    ],
)
def test_fields_that_would_show_text_beside_the_rules_are_refused_by_name(
    stack: Stack, path: str, fields: dict[str, Any]
) -> None:
    status, got = ask(stack, path, **fields)
    assert status == 400
    assert got["error"]["param"] in fields
    assert got["error"]["code"] == "field_refused"


def test_the_same_fields_pass_where_they_ask_for_nothing(stack: Stack) -> None:
    stack.engines["e"].reply = answering(chat(content="hi"))
    nothing = {"logprobs": False, "top_logprobs": None, "echo": False, "return_token_ids": False}
    assert ask(stack, "/v1/chat/completions", **nothing)[0] == 200


def test_embeddings_pass_by_rules_for_answers(stack: Stack) -> None:
    vectors = {"object": "list", "data": [{"embedding": [0.5]}], "model": "tiny", "usage": {"prompt_tokens": 1}}
    stack.engines["e"].reply = answering(vectors)
    status, _, got = stack.post("/v1/embeddings", {"model": "tiny", "input": "x"}, key=KEY)
    assert (status, got) == (200, vectors)


def test_errors_of_engines_pass_as_they_are(stack: Stack) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        body = b'{"error":{"message":"no bomb","type":"BadRequestError","code":400}}'
        head = b"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
        writer.write(head % len(body) + body)

    stack.engines["e"].reply = reply
    assert ask(stack, "/v1/chat/completions")[0] == 400
    settled(stack, {})
