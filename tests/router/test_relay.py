"""An engine's answer on its way to the client, over real sockets: cut anywhere, broken anywhere, tried elsewhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator

import pytest

from policies.health import EndpointHealth
from router.relay import WHOLE_BYTES
from router.wire.sse import EVENT_BYTES
from tests.router.stack import ANSWER, RecordingEngine, Stack, chat, running, two_tenants, whole

CHAT = "/v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ASKS_USAGE = {"stream_options": {"include_usage": True}}
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}\n\n'
FINISH = b'data: {"choices":[{"index":0,"delta":{"content":"b"},"finish_reason":"stop"}]}\n\n'
STAMPED = FINISH.replace(b"]}", b'],"system_fingerprint":"f"}')
LAST = (
    b'data: {"choices":[],"usage":{"prompt_tokens":50,"completion_tokens":2,"prompt_tokens_details":'
    b'{"cached_tokens":32}},"system_fingerprint":"f"}\n\n'
)
DONE = b"data: [DONE]\n\n"
Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


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
            for state in pool.states:  # a test that breaks answers must not open the next one's circuit
                state.health = EndpointHealth(assume_healthy=True)

    stack.run(reset())


def streamed(*pieces: bytes, end: bool = True) -> Reply:
    """Chunks that arrive one by one; without an end the connection breaks after them."""

    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0.005)  # so that each piece is read on its own
        if end:
            writer.write(b"0\r\n\r\n")
        else:
            writer.transport.abort()

    return reply


def once(first: Reply, engines: list[RecordingEngine], then: Reply) -> Reply:
    """`first` for the first request that any of the engines got, `then` for the others."""

    async def reply(request: bytes, writer: asyncio.StreamWriter) -> None:
        sent = sum(len(engine.received) for engine in engines)
        await (first if sent == 1 else then)(request, writer)

    return reply


def answered(body: bytes, status: bytes = b"200 OK") -> Reply:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(body, status))

    return reply


async def broken(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def metric(stack: Stack, name: str, **labels: str) -> float:
    """Read on the gateway's loop, so after what it is at: the last request is settled."""

    async def read() -> float:
        return stack.process.metrics.registry.get_sample_value(name, labels) or 0.0

    value: float = stack.run(read())
    return value


# -- streams


@pytest.mark.parametrize(
    "pieces",
    [
        (b"data: 1\n\n",),
        (b"data: 1\n", b"\n"),
        (b"d", b"ata: 1", b"\n\n"),
        (b"data: 1\n\n", b": keep-alive\n\n"),
    ],
    ids=["whole", "between the line ends", "in pieces", "after a comment"],
)
def test_a_stream_that_breaks_between_two_events_ends_with_an_error_event(
    stack: Stack, pieces: tuple[bytes, ...]
) -> None:
    stack.engines["globex-0"].reply = streamed(*pieces, end=False)
    status, _, body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")
    assert (status, body[: len(b"".join(pieces))]) == (200, b"".join(pieces))
    last = body[len(b"".join(pieces)) :]
    assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_closed"


def test_of_a_stream_that_breaks_in_an_event_the_client_sees_whole_events_only(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(CHUNK, b'data: {"half', end=False)
    status, _, body = stack.post(CHAT, chat("qwen2-7b", stream=True, **ASKS_USAGE), key="globex-key")
    assert (status, body[: len(CHUNK)]) == (200, CHUNK)
    assert json.loads(body[len(CHUNK) :].removeprefix(b"data: "))["error"]["code"] == "engine_closed"


def test_a_stream_that_breaks_in_an_event_too_long_to_hold_breaks_for_the_client_too(stack: Stack) -> None:
    long = b'data: {"half' + b"a" * EVENT_BYTES
    stack.engines["globex-0"].reply = streamed(long, end=False)
    with pytest.raises(ValueError, match="no end"):
        stack.post(CHAT, chat("qwen2-7b", stream=True, **ASKS_USAGE), key="globex-key")


def test_half_an_event_that_was_held_back_ends_as_an_error_event(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(CHUNK, FINISH + b'data: {"half', end=False)
    status, _, body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")
    assert (status, body[: len(CHUNK + FINISH)]) == (200, CHUNK + FINISH)
    assert json.loads(body[len(CHUNK + FINISH) :].removeprefix(b"data: "))["error"]["code"] == "engine_closed"


@pytest.mark.parametrize("pieces", [(b'data: {"half',), (b'data: {"choices":[{"finish_reason":"stop"}]}\n\n',)])
def test_a_stream_of_which_nothing_was_seen_yet_is_tried_elsewhere(stack: Stack, pieces: tuple[bytes, ...]) -> None:
    engines = [stack.engines["acme-0"], stack.engines["acme-1"]]
    for engine in engines:
        engine.reply = once(streamed(*pieces, end=False), engines, streamed(CHUNK, LAST, DONE))
    status, _, body = stack.post(CHAT, chat(stream=True), key="acme-key")
    assert (status, body) == (200, CHUNK + DONE)
    assert sum(len(engine.received) for engine in engines) == 2


def test_the_engine_that_is_tried_next_has_a_first_token_of_its_own(stack: Stack) -> None:
    engines = [stack.engines["acme-0"], stack.engines["acme-1"]]
    states = stack.app.runtime.pools["acme"].states
    for engine, state in zip(engines, states, strict=True):
        engine.reply = once(streamed(b'data: {"half', end=False), engines, streamed(CHUNK, LAST, DONE))
        state.last_first_token_at = None
    stack.post(CHAT, chat(stream=True), key="acme-key")
    assert None not in [state.last_first_token_at for state in states], "it would look as if it still prefilled"


def test_a_stream_that_breaks_before_its_first_piece_is_a_plain_error(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(end=False)
    status, headers, body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")
    assert (status, headers["content-type"], body["error"]["code"]) == (502, "application/json", "engine_closed")


def test_bytes_held_back_for_the_alias_are_sent_at_the_end(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(b'data: {"model":"ti', b'ny"}\n\n', DONE + b'data: "model":"tin')
    status, _, body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")
    assert (status, body) == (200, b'data: {"model":"qwen2-7b"}\n\n' + DONE + b'data: "model":"tin')


def test_the_usage_at_the_end_of_a_stream_is_counted(stack: Stack) -> None:
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":11,"completion_tokens":5}}\n\n'
    stack.engines["globex-0"].reply = streamed(b"data: 1\n\n", usage, b"data: [DONE]\n\n")
    before = metric(stack, "promptlane_prompt_tokens_total", tenant="globex", model="qwen2-7b")
    assert stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")[0] == 200
    assert metric(stack, "promptlane_prompt_tokens_total", tenant="globex", model="qwen2-7b") == before + 11


# -- usage that the gateway asked for


def sent_options(stack: Stack) -> object:
    """The `stream_options` that the engine got, or "none"."""
    (request,) = stack.engines["globex-0"].received
    return json.loads(request.partition(b"\r\n\r\n")[2]).get("stream_options", "none")


@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_usage_is_asked_for_counted_and_kept_from_a_client_that_did_not_ask(stack: Stack, path: str) -> None:
    stack.engines["globex-0"].reply = streamed(CHUNK, FINISH, LAST, DONE)
    before = metric(stack, "promptlane_cached_tokens_total", pool="globex", endpoint="globex-0", kind="reported")
    body = {"model": "qwen2-7b", "messages": [{"role": "user", "content": "x"}], "prompt": "x", "stream": True}
    assert stack.post(path, body, key="globex-key")[2] == CHUNK + STAMPED + DONE
    assert sent_options(stack) == {"include_usage": True}
    after = metric(stack, "promptlane_cached_tokens_total", pool="globex", endpoint="globex-0", kind="reported")
    assert after == before + 32


def test_a_client_that_asks_gets_what_the_engine_sends(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(CHUNK, FINISH, LAST, DONE)
    body = chat("qwen2-7b", stream=True, **ASKS_USAGE)
    assert stack.post(CHAT, body, key="globex-key")[2] == CHUNK + FINISH + LAST + DONE
    assert sent_options(stack) == {"include_usage": True}


def test_usage_that_an_engine_sends_to_everybody_passes_and_is_counted(stack: Stack) -> None:
    forced = b'data: {"choices":[{"finish_reason":null}],"usage":{"prompt_tokens":50,"completion_tokens":1}}\n\n'
    stack.engines["globex-0"].reply = streamed(forced, FINISH, LAST, DONE)
    before = metric(stack, "promptlane_prompt_tokens_total", tenant="globex", model="qwen2-7b")
    body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")[2]
    assert body == forced + FINISH + LAST + DONE
    assert metric(stack, "promptlane_prompt_tokens_total", tenant="globex", model="qwen2-7b") == before + 50


def test_a_stream_in_one_piece_loses_the_usage_too(stack: Stack) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(CHUNK + FINISH + LAST + DONE, kind=b"text/event-stream; charset=utf-8"))

    stack.engines["globex-0"].reply = reply
    status, headers, body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")
    assert (status, body) == (200, CHUNK + STAMPED + DONE)
    assert headers["content-length"] == str(len(body))


def test_a_whole_answer_to_a_stream_is_not_searched_for_chunks(stack: Stack) -> None:
    stack.engines["globex-0"].reply = answered(b'{"choices":[],"usage":{"prompt_tokens":1}}')
    assert stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")[2]["usage"] == {"prompt_tokens": 1}


@pytest.mark.parametrize("stream", [False, None, "absent"])
def test_no_options_are_sent_where_nothing_is_streamed(stack: Stack, stream: object) -> None:
    stack.engines["globex-0"].reply = answered(ANSWER)
    fields = {} if stream == "absent" else {"stream": stream}
    assert stack.post(CHAT, chat("qwen2-7b", **fields), key="globex-key")[0] == 200
    assert sent_options(stack) == "none"


def test_the_fingerprint_is_learned_for_streams_of_several_choices(stack: Stack) -> None:
    other = CHUNK.replace(b'"index":0', b'"index":1')
    engine = stack.engines["globex-0"]
    for _ in range(2):
        engine.reply = streamed(FINISH, other, LAST, DONE)
        assert stack.post(CHAT, chat("qwen2-7b", stream=True, n=2), key="globex-key")[2] == STAMPED + other + DONE
    model = stack.app.runtime.gateway.models["globex"]["qwen2-7b"]
    assert model.fingerprints == {"globex-0": b',"system_fingerprint":"f"'}


def test_the_fingerprint_is_learned_for_streams_that_break_behind_their_last_word_too(stack: Stack) -> None:
    stack.engines["globex-0"].reply = streamed(CHUNK, FINISH, LAST, DONE)
    asked = chat("qwen2-7b", stream=True, stream_options={"include_usage": True})
    assert stack.post(CHAT, asked, key="globex-key")[2] == CHUNK + FINISH + LAST + DONE
    model = stack.app.runtime.gateway.models["globex"]["qwen2-7b"]
    assert model.fingerprints == {"globex-0": b',"system_fingerprint":"f"'}


# -- whole answers


def test_a_long_answer_passes_byte_for_byte_and_with_its_length_where_no_alias_changes_it(stack: Stack) -> None:
    vectors = b'{"model":"secret-model","data":"' + b"0.125," * (WHOLE_BYTES // 4) + b'"}'
    stack.engines["globex-0"].reply = answered(vectors)
    body = {"model": "secret-model", "input": "x"}
    status, headers, answer = stack.post("/v1/embeddings", json.dumps(body).encode(), key="globex-key")
    assert (status, headers["content-length"]) == (200, str(len(vectors)))
    assert answer == json.loads(vectors)


def test_a_long_answer_with_an_alias_is_whole(stack: Stack) -> None:
    vectors = b'{"data":"' + b"0.125," * (WHOLE_BYTES // 4) + b'","model":"tiny"}'
    stack.engines["globex-0"].reply = answered(vectors)
    status, _, answer = stack.post("/v1/embeddings", {"model": "qwen2-7b", "input": "x"}, key="globex-key")
    assert (status, answer) == (200, json.loads(vectors) | {"model": "qwen2-7b"})


@pytest.mark.parametrize(
    "usage",
    [b'{"prompt_tokens":-5,"completion_tokens":-5}', b'{"prompt_tokens":1' + b"0" * 400 + b"}",
     b'{"prompt_tokens":5,"prompt_tokens_details":{"cached_tokens":-1}}'],
    ids=["negative", "huge", "negative cached"],
)  # fmt: skip
def test_an_impossible_usage_harms_nobody(stack: Stack, usage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    stack.engines["globex-0"].reply = answered(b'{"id":"1","choices":[],"usage":' + usage + b"}")
    assert stack.post(CHAT, chat("qwen2-7b"), key="globex-key")[0] == 200
    assert metric(stack, "promptlane_internal_errors_total", where="gateway") == 0
    assert not [record for record in caplog.records if record.exc_info], "something was thrown after the answer"


def test_no_headers_of_an_engine_reach_a_client_but_the_ones_about_its_body(stack: Stack) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\nset-cookie: a=b\r\nx-internal: 1\r\nx-request-id: theirs\r\n"
        )
        writer.write(b"content-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(ANSWER) + ANSWER)

    stack.engines["globex-0"].reply = reply
    _, headers, _ = stack.post(CHAT, chat("qwen2-7b"), key="globex-key", headers={"x-request-id": "ours"})
    assert not {"server", "set-cookie", "x-internal", "date"} & set(headers)
    assert (headers["x-request-id"], headers["content-type"]) == ("ours", "text/plain")


# -- tried elsewhere


@pytest.mark.parametrize(("retries", "attempts"), [(0, 1), (1, 2), (2, 3)])
def test_retries_are_further_attempts_at_other_endpoints(retries: int, attempts: int) -> None:
    config = two_tenants()
    config["pools"]["acme"]["endpoints"] += [{"name": f"acme-{n}", "url": f"ENGINE:acme-{n}"} for n in (2, 3)]
    config["pools"]["acme"]["retries"] = retries
    with running(config, ["acme-0", "acme-1", "acme-2", "acme-3", "globex-0", "open-0"]) as stack:
        engines = [stack.engines[f"acme-{n}"] for n in range(4)]
        for engine in engines:
            engine.reply = broken
        status, _, body = stack.post(CHAT, chat(), key="acme-key")
        assert (status, body["error"]["code"]) == (502, "engine_closed")
        assert [len(engine.received) for engine in engines if engine.received] == [1] * attempts
