"""Streams through the gateway, rules on: sockets, the alias, usage, engines that break and clients that leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.stack import poll
from tests.router.guards import events
from tests.router.guards.events import DONE, read, texts
from tests.router.guards.stack import DENY, KEY, PII, guarded, settled, streaming
from tests.router.guards.test_answers import QUESTIONS
from tests.router.stack import Stack

CHAT = "/v1/chat/completions"
USAGE = events.data(
    {**events.HEAD, "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}}
)


@pytest.fixture(scope="module")
def running() -> Iterator[Stack]:
    with guarded([PII, DENY]) as stack:
        yield stack


@pytest.fixture
def stack(running: Stack) -> Stack:
    poll("nothing is under way", lambda: not any(one.in_flight for one in running.app.runtime.pools["p"].states))
    running.process.metrics._totals["promptlane_guard_verdicts"].clear()
    return running


def ask(stack: Stack, path: str = CHAT, **fields: Any) -> tuple[int, bytes]:
    status, _, answer = stack.post(path, {"model": "qwen", "stream": True, **QUESTIONS[path], **fields}, key=KEY)
    return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()


def test_a_stream_is_redacted_renamed_and_keeps_hidden_usage_hidden(stack: Stack) -> None:
    before = stack.process.metrics.total("promptlane_completion_tokens", "acme")
    stack.engines["e"].reply = streaming([*events.chat(["to jane", "@acme", ".com, ", "no bo", "mber"]), USAGE, DONE])
    status, answer = ask(stack)
    assert status == 200
    assert texts(read(answer)) == {(0, "delta", "content"): "to [email], no bomber"}
    assert {event["model"] for event in read(answer)} == {"qwen"}
    assert b"usage" not in answer
    assert answer.endswith(DONE)
    settled(stack, {("pii", "output", "redact"): 1})
    assert stack.process.metrics.total("promptlane_completion_tokens", "acme") == before + 3


def test_usage_that_was_asked_for_comes(stack: Stack) -> None:
    stack.engines["e"].reply = streaming([*events.chat(["to jane@acme.com"]), USAGE, DONE])
    _, answer = ask(stack, stream_options={"include_usage": True})
    assert read(answer)[-1]["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("path", QUESTIONS)
def test_a_block_ends_the_stream_stops_the_engine_and_is_settled(stack: Stack, path: str) -> None:
    make = {CHAT: events.chat, "/v1/completions": events.completions, "/v1/messages": events.messages}
    shape = make.get(path, events.responses)
    left = asyncio.Event()
    said = shape(["this is ", "a bo", "mb ", *["and more "] * 3000])
    stack.engines["e"].reply = streaming(said, left=left)
    status, answer = ask(stack, path)
    assert status == 200
    assert b"mb " not in answer
    assert b"this is " in answer
    assert list(texts(read(answer)).values()) == ["this is a "]
    assert {event["model"] for event in read(answer) if "model" in event} <= {"qwen"}
    settled(stack, {("deny", "output", "block"): 1})
    poll("the engine was stopped", left.is_set)
    metrics = stack.process.metrics
    assert metrics.total("promptlane_rejections", "acme", "content_policy_violation") > 0


def test_a_stream_that_is_blocked_before_its_first_text_is_an_error(stack: Stack) -> None:
    stack.engines["e"].reply = streaming([*events.completions(["bomb", " and more"]), DONE])
    status, answer = ask(stack, "/v1/completions")
    assert (status, json.loads(answer)["error"]["code"]) == (400, "content_policy_violation")
    settled(stack, {("deny", "output", "block"): 1})


def test_events_that_come_together_end_as_those_that_do_not(stack: Stack) -> None:
    said = [*events.completions(["it is a ", "bomb", " and more"]), DONE]
    for pieces in (said, [b"".join(said)]):
        stack.engines["e"].reply = streaming(pieces)
        status, answer = ask(stack, "/v1/completions")
        assert (status, texts(read(answer))) == (200, {(0, "", "text"): "it is a "})
        assert read(answer)[-1]["choices"][0]["finish_reason"] == "content_filter"


def test_a_stream_in_one_piece_with_its_length_is_examined(stack: Stack) -> None:
    for said, want in ((["to jane@acme.com"], "to [email]"), (["hello. ", "a bomb."], None)):
        body = b"".join([*events.chat(said), DONE])

        async def reply(_: bytes, writer: asyncio.StreamWriter, body: bytes = body) -> None:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)

        stack.engines["e"].reply = reply
        status, answer = ask(stack)
        if want is None:
            assert (status, json.loads(answer)["error"]["code"]) == (400, "content_policy_violation")
        else:
            assert texts(read(answer)) == {(0, "delta", "content"): want}


def test_an_engine_that_breaks_off_lets_go_of_what_was_held(stack: Stack) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for event in events.chat(["hello to jane@acme.com", " and bo"])[:-1]:
            writer.write(b"%x\r\n%b\r\n" % (len(event), event))
            await writer.drain()
            await asyncio.sleep(0.02)
        writer.transport.abort()

    stack.engines["e"].reply = reply
    status, answer = ask(stack)
    assert status == 200
    got = read(answer)
    assert texts(got) == {(0, "delta", "content"): "hello to [email] and bo"}
    assert got[-1]["error"]["code"] == "engine_closed"


def test_a_client_that_leaves_leaves_nothing_behind(stack: Stack) -> None:
    left = asyncio.Event()
    stack.engines["e"].reply = streaming(events.chat([f"word {n} to jane@acme.com " for n in range(3000)]), left=left)
    body = json.dumps({"model": "qwen", "stream": True, **QUESTIONS[CHAT]}).encode()
    with stack.connect() as sock:
        head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        while b"[email]" not in sock.recv(65536):
            pass
    poll("the engine was stopped", left.is_set)
    poll("nothing is under way", lambda: not any(one.in_flight for one in stack.app.runtime.pools["p"].states))


def test_other_tenants_get_the_engines_bytes(stack: Stack) -> None:
    stream = [*events.chat(["a bomb for jane@acme.com"]), DONE]
    stack.engines["e"].reply = streaming(stream)
    body = {"model": "tiny", "stream": True, "stream_options": {"include_usage": True}, **QUESTIONS[CHAT]}
    assert stack.post(CHAT, body, key="globex-key")[2] == b"".join(stream)
