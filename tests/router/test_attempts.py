"""What becomes of a request whose endpoints fail it, over real sockets: retried unseen, or an honest end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest

from policies.health import EndpointHealth
from policies.retry import Budget
from tests.router.stack import ANSWER, RecordingEngine, Stack, chat, running, two_tenants
from tests.router.test_relay import (
    ASKS_USAGE,
    CHAT,
    CHUNK,
    DONE,
    FINISH,
    LAST,
    STREAM,
    Reply,
    answered,
    broken,
    metric,
    once,
    streamed,
)

ROLE = CHUNK.replace(b'"content":"a"', b'"role":"assistant","content":""')
ALIVE = b": keep-alive\n\n"
ERROR = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}\n\n'
ABORT = FINISH.replace(b'"stop"', b'"abort"').replace(b'"content":"b"', b'"content":""')
GOOD = (ROLE, CHUNK, FINISH, LAST, DONE)
ASKS = {"stream": True, **ASKS_USAGE}


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running() as one:
        yield one


@pytest.fixture(autouse=True)
def _fresh(stack: Stack) -> None:
    async def reset() -> None:
        for engine in stack.engines.values():
            engine.received.clear()
            engine.reply = engine.answer
        for pool in stack.app.runtime.pools.values():
            pool.attempts.retry.budget = Budget(0.1, 256)
            for state in pool.states:
                state.health = EndpointHealth(assume_healthy=True)

    stack.run(reset())


def acme(stack: Stack) -> list[RecordingEngine]:
    return [stack.engines["acme-0"], stack.engines["acme-1"]]


def first_fails(stack: Stack, fails: Reply, then: Reply | None = None) -> None:
    """The first attempt fails like this, wherever it goes; others are answered."""
    for engine in acme(stack):
        engine.reply = once(fails, acme(stack), then or engine.answer)


def attempts(stack: Stack) -> int:
    return sum(len(engine.received) for engine in acme(stack))


def error_of(body: bytes) -> dict[str, Any]:
    """The error of an answer's last event."""
    error: dict[str, Any] = json.loads(body.rpartition(b"data: ")[2])["error"]
    return error


# -- before anything was seen


@pytest.mark.parametrize(
    "pieces",
    [
        (ERROR, DONE),
        (ROLE, ERROR + DONE),
        (ROLE + ERROR, DONE),
        (ALIVE, ROLE, ERROR[:20], ERROR[20:] + DONE),
        (ROLE, CHUNK + ERROR + DONE),
        (ROLE, ABORT, DONE),
        (ROLE,),
        (),
    ],
    ids=["error", "role, error", "at once", "cut", "content and error at once", "abort", "only a role", "nothing"],
)
def test_a_stream_that_fails_before_content_is_retried_and_the_client_sees_one_beginning(
    stack: Stack, pieces: tuple[bytes, ...]
) -> None:
    first_fails(stack, streamed(*pieces), streamed(*GOOD))
    status, _, body = stack.post(CHAT, chat(**ASKS), key="acme-key")
    assert (status, body) == (200, b"".join(GOOD))
    assert attempts(stack) == 2


def test_an_early_failure_counts_against_the_endpoint(stack: Stack) -> None:
    before = metric(stack, "promptlane_attempt_failures_total", pool="acme", endpoint="acme-0", cause="engine_abort")
    acme(stack)[0].reply = streamed(ROLE, ERROR, DONE)
    acme(stack)[1].reply = streamed(*GOOD)
    states = stack.app.runtime.pools["acme"].states
    for number in range(20):
        stack.post(CHAT, chat(content=f"{number}", **ASKS), key="acme-key")
    after = metric(stack, "promptlane_attempt_failures_total", pool="acme", endpoint="acme-0", cause="engine_abort")
    assert 3 <= after - before < 20, "then its circuit is open, but for a try each second or later"
    assert not states[0].health.well
    assert states[1].health.well


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":{"message":"x","type":"InternalServerError","param":null,"code":500}}',
        b'{"id":"1","object":"chat.completion"}',
        ANSWER.replace(b'"stop"', b'"abort"'),
        ANSWER.replace(b'"stop"', b'"error"'),
        ANSWER[:-30],
    ],
    ids=["error", "no choices", "abort", "error ending", "half"],
)
def test_a_body_that_is_no_answer_is_retried(stack: Stack, body: bytes) -> None:
    first_fails(stack, answered(body))
    status, _, answer = stack.post(CHAT, chat(), key="acme-key")
    assert (status, answer) == (200, json.loads(ANSWER))
    assert attempts(stack) == 2


@pytest.mark.parametrize("status", [b"500 Internal Server Error", b"502 Bad Gateway", b"503 Service Unavailable"])
def test_a_5xx_without_output_is_retried(stack: Stack, status: bytes) -> None:
    first_fails(stack, answered(b"{}", status))
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    assert attempts(stack) == 2


@pytest.mark.parametrize(
    "status", [b"400 Bad Request", b"429 Too Many", b"501 Not Implemented", b"504 Gateway Timeout"]
)
def test_what_another_endpoint_would_answer_too_is_not_retried(stack: Stack, status: bytes) -> None:
    first_fails(stack, answered(b'{"error":{"message":"no"}}', status))
    assert stack.post(CHAT, chat(), key="acme-key")[0] == int(status[:3])
    assert attempts(stack) == 1


def test_a_request_that_the_engine_refuses_inside_the_stream_is_the_clients_affair(stack: Stack) -> None:
    refused = ERROR.replace(b"500", b"400").replace(b"InternalServerError", b"BadRequestError")
    first_fails(stack, streamed(refused, DONE))
    assert stack.post(CHAT, chat(**ASKS), key="acme-key")[2] == refused + DONE
    assert attempts(stack) == 1
    assert all(state.health.well and state.health._failures == 0 for state in stack.app.runtime.pools["acme"].states)


def test_a_request_that_every_endpoint_has_failed_once_goes_back_when_attempts_are_left(stack: Stack) -> None:
    engine = stack.engines["globex-0"]
    engine.reply = once(broken, [engine], engine.answer)
    assert stack.post(CHAT, chat("qwen2-7b"), key="globex-key")[0] == 200
    assert len(engine.received) == 2


def test_an_engine_that_is_restarted_answers_what_it_was_asked_before() -> None:
    with running() as stack:
        engine = stack.engines["globex-0"]
        port = engine.port

        async def die(_: bytes, writer: asyncio.StreamWriter) -> None:
            engine.reply = engine.answer
            assert engine._server is not None
            engine._server.close()
            engine.began.set()
            writer.transport.abort()

        async def restart() -> None:
            await engine.began.wait()
            refused = {"pool": "globex", "endpoint": "globex-0", "cause": "connect"}
            registry = stack.process.metrics.registry
            while not registry.get_sample_value("promptlane_attempt_failures_total", refused):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)
            await engine.start(port)

        engine.reply = die
        coming = asyncio.run_coroutine_threadsafe(restart(), stack.loop)
        status, _, body = stack.post(CHAT, chat("qwen2-7b"), key="globex-key")
        coming.result(20)
        assert (status, body["object"]) == (200, "chat.completion")


# -- after something was seen


@pytest.mark.parametrize("bad", [ERROR + DONE, ABORT + DONE, FINISH], ids=["error", "abort", "no last event"])
def test_a_stream_that_fails_after_content_ends_with_an_error_event_and_no_done(stack: Stack, bad: bytes) -> None:
    engine = stack.engines["globex-0"]
    engine.reply = streamed(ROLE, CHUNK, bad)
    before = metric(stack, "promptlane_rejections_total", tenant="globex", reason="engine_aborted")
    status, _, body = stack.post(CHAT, chat("qwen2-7b", **ASKS), key="globex-key")
    assert (status, body[: len(ROLE + CHUNK)]) == (200, ROLE + CHUNK)
    assert error_of(body)["code"] == ("engine_closed" if bad == FINISH else "engine_aborted")
    assert error_of(body).keys() == {"message", "type", "param", "code"}
    assert not {b"[DONE]", b"abort", b"EngineCore"} & set(body.split(b'"'))
    assert len(engine.received) == 1
    after = metric(stack, "promptlane_rejections_total", tenant="globex", reason="engine_aborted")
    assert after - before == (bad != FINISH)
    assert stack.app.runtime.pools["globex"].states[0].health._failures == 1


def test_messages_are_told_in_their_own_words(stack: Stack) -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"id":"m"}}\n\n'
    said = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'
    bad = b'event: error\ndata: {"type":"error","error":{"type":"InternalServerError","message":"EngineCore"}}\n\n'
    stack.engines["globex-0"].reply = streamed(start, said, bad)
    body = stack.post("/v1/messages", chat("qwen2-7b", stream=True, max_tokens=5), key="globex-key")[2]
    assert body.startswith(start + said + b"event: error\ndata: ")
    assert b"EngineCore" not in body


def test_an_engine_that_dies_behind_the_last_event_has_answered(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(*GOOD, end=False)
    assert stack.post(CHAT, chat("qwen2-7b", **ASKS), key="globex-key")[2] == b"".join(GOOD)
    assert stack.app.runtime.pools["globex"].states[0].health._failures == 0


# -- what is held back


def test_a_beginning_that_lasts_is_let_go_after_its_time() -> None:
    config = two_tenants()
    config["pools"]["globex"]["hold_back_seconds"] = 0.05
    with running(config) as stack:
        engine, seen = stack.engines["globex-0"], asyncio.Event()

        async def slow(_: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM)
            for piece in (ALIVE + ROLE, CHUNK + FINISH + LAST + DONE):
                writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                await writer.drain()
                await seen.wait()  # the rest comes only once the client has seen the beginning
            writer.write(b"0\r\n\r\n")

        engine.reply = slow
        body = json.dumps(chat("qwen2-7b", **ASKS)).encode()
        with stack.connect() as sock:
            head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer globex-key\r\n"
            sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            found = b""
            while ROLE not in found:
                found += sock.recv(65536)
            stack.loop.call_soon_threadsafe(seen.set)
            while DONE not in found:
                found += sock.recv(65536)
        assert found.count(ROLE) == found.count(ALIVE) == 1


def test_where_nothing_is_held_back_the_beginning_is_seen_at_once() -> None:
    config = two_tenants()
    config["pools"]["globex"]["hold_back_seconds"] = 0
    with running(config) as stack:
        stack.engines["globex-0"].reply = streamed(ROLE, ERROR, DONE)
        body = stack.post(CHAT, chat("qwen2-7b", **ASKS), key="globex-key")[2]
        assert body.startswith(ROLE)
        assert error_of(body)["code"] == "engine_aborted"


# -- the budget and the limits


def test_beyond_the_budget_failures_are_told_and_sdks_are_asked_not_to_repeat_them() -> None:
    config = two_tenants()
    config["pools"]["acme"] |= {"retry_budget": {"share": 0, "reserve": 1}}
    with running(config) as stack:
        for engine in acme(stack):
            engine.reply = once(broken, acme(stack), answered(b"{}", b"500 Internal Server Error"))
        status, headers, body = stack.post(CHAT, chat(), key="acme-key")
        assert (status, headers.get("x-should-retry"), attempts(stack)) == (500, "false", 2)
        assert metric(stack, "promptlane_retry_budget_exhausted_total", pool="acme") == 1
        assert body["error"]["code"] == "engine_error", "the engine said nothing that could be passed on"


def test_a_first_byte_that_is_long_overdue_is_waited_for_elsewhere() -> None:
    config = two_tenants()
    config["pools"]["acme"]["timeouts"] = {"first_byte_least": 0.1, "first_byte_factor": 1}
    with running(config) as stack:

        async def head_only(_: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM)  # as vLLM does before it computes the prompt
            await asyncio.Event().wait()

        first_fails(stack, head_only, streamed(*GOOD))
        assert stack.post(CHAT, chat(**ASKS), key="acme-key")[2] == b"".join(GOOD)
        assert metric(stack, "promptlane_retries_total", pool="acme", cause="timeout") == 1


def test_no_reservation_is_left_whatever_failed(stack: Stack) -> None:
    async def in_flight() -> int:
        return sum(state.in_flight for pool in stack.app.runtime.pools.values() for state in pool.states)

    for pieces in ((ERROR,), (ROLE, ABORT), (ROLE, CHUNK, ERROR)):
        first_fails(stack, streamed(*pieces))
        stack.post(CHAT, chat(**ASKS), key="acme-key")
    first_fails(stack, answered(b"x"))
    stack.post(CHAT, chat(), key="acme-key")
    assert stack.run(in_flight()) == 0
