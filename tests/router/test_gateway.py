"""The straight line over real sockets: who may ask, what engines get, what clients get back."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from router.canary import WAYS
from router.secret import cache_salt
from tests.router.stack import ANSWER, SECRET, RecordingEngine, Stack, chat, read_answer, running, two_tenants, whole

CHAT = "/v1/chat/completions"
CANARIES = tuple(json.dumps(dict(way.fields), separators=(",", ":")).encode()[1:-1] for way in WAYS)


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running() as one:
        yield one


@pytest.fixture(autouse=True)
def _fresh(stack: Stack) -> None:
    for engine in stack.engines.values():
        engine.received.clear()
        engine.reply = engine.answer


def asked(engine: RecordingEngine) -> list[bytes]:
    """What reached the engine for clients: an endpoint that another test had made fail is asked by canaries."""
    return [request for request in engine.received if not any(mark in request for mark in CANARIES)]


def reached(stack: Stack) -> set[str]:
    return {name for name, engine in stack.engines.items() if asked(engine)}


def sent(stack: Stack) -> tuple[bytes, dict[str, Any]]:
    """Head and parsed body of the one request that reached an engine."""
    (request,) = [request for engine in stack.engines.values() for request in asked(engine)]
    head, _, body = request.partition(b"\r\n\r\n")
    return head.lower(), json.loads(body)


# -- identity


@pytest.mark.parametrize("header", ["authorization", "x-api-key", "api-key"])
def test_a_key_in_any_of_the_three_headers_is_enough(stack: Stack, header: str) -> None:
    value = "Bearer acme-key" if header == "authorization" else "acme-key"
    status, _, _ = stack.post(CHAT, chat(), headers={header: value})
    assert status == 200
    assert reached(stack) <= {"acme-0", "acme-1"}


@pytest.mark.parametrize(
    "host", ["acme.llm.test", "ACME.llm.test:8080", "llm.acme.example", "acme.llm.test.", "else.example"]
)
def test_the_tenants_hosts_and_unknown_hosts_work_with_its_key(stack: Stack, host: str) -> None:
    status, _, _ = stack.post(CHAT, chat(), key="acme-key", headers={"host": host})
    assert status == 200


def test_a_key_on_another_tenants_host_is_403(stack: Stack) -> None:
    status, _, body = stack.post(CHAT, chat(), key="acme-key", headers={"host": "globex.llm.test"})
    assert (status, body["error"]["code"]) == (403, "wrong_tenant")
    assert not reached(stack)


@pytest.mark.parametrize("key", [None, "unknown", "acme-old", ""])
def test_no_unknown_expired_or_empty_key_is_401_in_openais_words(stack: Stack, key: str | None) -> None:
    status, headers, body = stack.post(CHAT, chat(), key=key, headers={"host": "acme.llm.test"})
    assert status == 401
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert (body["error"]["type"], body["error"]["code"]) == ("invalid_request_error", "invalid_api_key")
    assert headers["x-request-id"]
    assert not reached(stack)


def test_an_anonymous_tenant_is_served_by_its_host_alone_but_not_with_a_wrong_key(stack: Stack) -> None:
    host = {"host": "open.llm.test"}
    assert stack.post(CHAT, chat("free"), headers=host)[0] == 200
    assert reached(stack) == {"open-0"}
    assert stack.post(CHAT, chat("free"), key="unknown", headers=host)[0] == 401


def test_a_keys_scope_bounds_apis_and_models(stack: Stack) -> None:
    assert stack.post(CHAT, chat("tiny"), key="acme-scoped")[0] == 200
    status, _, body = stack.post(CHAT, chat("qwen2-7b"), key="acme-scoped")
    assert (status, body["error"]["code"]) == (403, "scope_denied")
    status, _, body = stack.post("/v1/completions", {"model": "tiny", "prompt": "x"}, key="acme-scoped")
    assert (status, body["error"]["code"]) == (403, "scope_denied")
    assert [m["id"] for m in stack.get("/v1/models", key="acme-scoped")[2]["data"]] == ["tiny"]


def test_a_forwarded_host_counts_only_from_a_trusted_proxy() -> None:
    forwarded = {"host": "acme.llm.test", "x-forwarded-host": "globex.llm.test"}
    with running() as untrusting:
        assert untrusting.post(CHAT, chat(), key="acme-key", headers=forwarded)[0] == 200
    with running(two_tenants(trusted_proxies=["127.0.0.0/8"])) as trusting:
        assert trusting.post(CHAT, chat(), key="acme-key", headers=forwarded)[0] == 403


def test_two_host_headers_are_refused(stack: Stack) -> None:
    body = json.dumps(chat()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\nhost: b\r\nauthorization: Bearer acme-key\r\n"
    status, _, _ = stack.send(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body)
    assert status == 400
    assert not reached(stack)


# -- what an engine gets


def test_an_engine_gets_its_model_name_the_tenants_salt_and_no_control_field(stack: Stack) -> None:
    fields = {
        "priority": -5,
        "cache_salt": "mine",
        "kv_transfer_params": {"remote_host": "x"},
        "request_id": "r",
        "session_id": "s",
        "vllm_xargs": {"kv_transfer_params": 1, "kept": 2},
        "unknown_field": [1, {"a": None}],
        "temperature": 0.25,
    }
    assert stack.post(CHAT, chat("qwen2-7b", **fields), key="acme-key")[0] == 200
    _, body = sent(stack)
    assert body == chat(
        "tiny",
        vllm_xargs={"kept": 2},
        unknown_field=[1, {"a": None}],
        temperature=0.25,
        cache_salt=cache_salt(SECRET, "acme"),
    )


def test_of_repeated_keys_the_engine_gets_only_the_one_the_gateway_read(stack: Stack) -> None:
    body = b'{"model":"secret-model","model":"tiny","messages":[],"cache_salt":"a","\\u0063ache_salt":"b"}'
    assert stack.post(CHAT, body, key="acme-key")[0] == 200
    (request,) = [request for engine in stack.engines.values() for request in engine.received]
    assert request.count(b'"model"') == 1
    assert request.count(b"salt") == 1


def test_only_allowed_headers_reach_an_engine(stack: Stack) -> None:
    headers = {
        "x-vllm-priority": "1",
        "x-data-parallel-rank": "0",
        "x-session-id": "s",
        "cookie": "a=b",
        "x-custom": "c",
        "accept-encoding": "gzip",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "x-request-id": "my-id.1",
        "te": "trailers",
    }
    status, answer, _ = stack.post(CHAT, chat(), key="acme-key", headers=headers)
    assert (status, answer["x-request-id"]) == (200, "my-id.1")
    names = {line.split(b":")[0] for line in sent(stack)[0].split(b"\r\n")[1:]}
    assert names == {b"host", b"content-length", b"content-type", b"accept-encoding", b"x-request-id", b"traceparent"}
    assert b"acme-key" not in sent(stack)[0]


@pytest.mark.parametrize("given", ["bad id", "x" * 200, "-dash", "a\tb"])
def test_an_odd_request_id_is_replaced(stack: Stack, given: str) -> None:
    _, headers, _ = stack.post(CHAT, chat(), key="acme-key", headers={"x-request-id": given})
    assert headers["x-request-id"] not in ("", given)


# -- what a client gets


def test_the_alias_comes_back_and_nothing_else_changes(stack: Stack) -> None:
    status, headers, body = stack.post(CHAT, chat("qwen2-7b"), key="acme-key")
    assert status == 200
    assert body == json.loads(ANSWER) | {"model": "qwen2-7b"}
    assert headers["content-type"] == "application/json"
    assert {"x-promptlane-lane", "x-promptlane-endpoint", "x-promptlane-cached-tokens", "x-promptlane-queue-ms"} <= set(
        headers
    )


@pytest.mark.parametrize("model", ["tiny", "qwen2-7b"])
def test_a_stream_is_passed_byte_for_byte(stack: Stack, model: str) -> None:
    event = (
        b'data: {"id":"1","model":"tiny","choices":[{"delta":{"content":"say \\"model\\":\\"tiny\\" \xc3\xa9"}}]}\n\n'
    )
    pieces = [event, event[:30], event[30:] + b": comment\n\n", b"data: [DONE]\n\n"]

    async def stream(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for piece in pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")

    for engine in stack.engines.values():
        engine.reply = stream
    status, headers, body = stack.post(CHAT, chat(model, stream=True), key="acme-key")
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    assert body == b"".join(pieces).replace(b'"model":"tiny"', b'"model":"%b"' % model.encode())


def test_an_engines_4xx_passes_unchanged_apart_from_the_alias(stack: Stack) -> None:
    error = b'{"error":{"message":"The model `tiny` objects.","type":"BadRequestError","param":"top_p","code":400}}'

    async def refuse(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(error, b"400 Bad Request"))

    for engine in stack.engines.values():
        engine.reply = refuse
    status, _, body = stack.post(CHAT, chat("qwen2-7b"), key="acme-key")
    assert status == 400
    assert body == json.loads(error.replace(b"tiny", b"qwen2-7b"))
    assert sum(len(engine.received) for engine in stack.engines.values()) == 1, "a client's mistake is not retried"


def test_a_5xx_is_tried_elsewhere_and_passed_on_when_nobody_can_help(stack: Stack) -> None:
    error = b'{"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}'

    async def fail(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(error, b"500 Internal Server Error"))

    stack.engines["acme-0"].reply = fail
    answers = [stack.post(CHAT, chat(content=f"{n}"), key="acme-key")[0] for n in range(2)]
    assert answers == [200, 200]
    stack.engines["acme-1"].reply = fail
    status, _, body = stack.post(CHAT, chat(), key="acme-key")
    assert (status, body) == (500, json.loads(error))


def test_a_connection_that_breaks_before_the_answer_is_tried_elsewhere(stack: Stack) -> None:
    async def drop(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    stack.engines["acme-0"].reply = drop
    assert [stack.post(CHAT, chat(content=f"{n}"), key="acme-key")[0] for n in range(3)] == [200, 200, 200]


def test_an_engine_that_dies_in_a_stream_ends_it_with_an_error_event(stack: Stack) -> None:
    async def die(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await writer.drain()
        writer.transport.abort()

    stack.engines["globex-0"].reply = die
    status, _, body = stack.post(CHAT, chat("qwen2-7b", stream=True), key="globex-key")
    first, _, event = body.partition(b"\n\n")
    assert (status, first) == (200, b"data: 1")
    assert json.loads(event.removeprefix(b"data: "))["error"]["code"] == "engine_closed"
    assert b"[DONE]" not in body


@pytest.mark.parametrize("streaming", [True, False])
def test_a_client_that_leaves_closes_the_engines_connection(stack: Stack, streaming: bool) -> None:
    engine = stack.engines["globex-0"]
    engine.began.clear()
    engine.client_left.clear()

    async def begin_a_stream(request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(b"9\r\ndata: 1\n\n\r\n")
        await engine.silent(request, writer)

    engine.reply = begin_a_stream if streaming else engine.silent
    body = json.dumps(chat("qwen2-7b", stream=streaming)).encode()
    with stack.connect() as sock:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer globex-key\r\n"
        sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        seen = b""
        while streaming and b"data: 1" not in seen:
            seen += sock.recv(65536)
        stack.run(asyncio.wait_for(engine.began.wait(), 60))
    stack.run(asyncio.wait_for(engine.client_left.wait(), 60))
    assert in_flight(stack, "globex") == 0


def in_flight(stack: Stack, pool: str) -> int:
    async def read() -> int:
        async with asyncio.timeout(60):
            while any(state.in_flight for state in stack.app.runtime.pools[pool].states):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return sum(state.in_flight for state in stack.app.runtime.pools[pool].states)

    return stack.run(read())


# -- errors


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"", None),
        (b"{", None),
        (b"[]", None),
        (b'"text"', None),
        (b"\xff\xfe", None),
        (b'{"a":' * 100_000, None),
        (b'{"messages":[]}', "model"),
        (b'{"model":7,"messages":[]}', "model"),
        (b'{"model":"","messages":[]}', "model"),
        (b'{"model":"tiny","messages":"x","stream":"yes"}', "stream"),
        (b'{"model":"tiny","messages":7}', "messages"),
        (b'{"model":"tiny","messages":[7]}', "messages[0]"),
        (b'{"model":"tiny","messages":[{"role":"user","content":{"a":1}}]}', "messages[0].content"),
        (b'{"model":"tiny","messages":[{"role":"user","content":[{"type":7}]}]}', "messages[0].content[0].type"),
        (b'{"model":"tiny","messages":[],"max_tokens":"many"}', "max_tokens"),
        (b'{"model":"tiny","messages":[],"n":1.5}', "n"),
        (
            b'{"model":"tiny","messages":[{"role":"user","content":[{"type":"image_url","image_url":"\xff"}]}]}',
            "messages[0].content[0]",
        ),
        (b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', None),
    ],
)
def test_bad_bodies_are_400_and_name_the_field(stack: Stack, body: bytes, param: str | None) -> None:
    status, _, answer = stack.post(CHAT, body, key="acme-key")
    assert status == 400
    assert answer["error"]["param"] == param
    assert answer["error"]["type"] == "invalid_request_error"
    assert isinstance(answer["error"]["code"], str)
    assert not reached(stack)


def test_a_model_of_another_tenant_is_404_and_no_names_are_listed(stack: Stack) -> None:
    status, _, body = stack.post(CHAT, chat("secret-model"), key="acme-key")
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
    assert "qwen2-7b" not in json.dumps(body)
    assert stack.get("/v1/models/secret-model", key="acme-key")[0] == 404


def test_models_lists_only_the_tenants_own(stack: Stack) -> None:
    status, _, body = stack.get("/v1/models", key="acme-key")
    assert status == 200
    assert [model["id"] for model in body["data"]] == ["qwen2-7b", "tiny"]
    assert stack.get("/v1/models/tiny", key="acme-key")[2]["object"] == "model"
    assert stack.get("/v1/models")[0] == 401


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/health",
        "/metrics",
        "/v1/files",
        "/invocations",
        "/v1/chat/completions/",
        "/sleep",
        "/v1//models",
        "/%2e%2e/metrics",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_nothing_outside_the_list_is_served_or_forwarded(stack: Stack, path: str, method: str) -> None:
    status, _, body = stack.get(path, key="acme-key", method=method)
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    assert not reached(stack)


@pytest.mark.parametrize(
    ("method", "path", "allow"), [("GET", CHAT, "POST"), ("DELETE", CHAT, "POST"), ("POST", "/v1/models", "GET")]
)
def test_an_unsupported_method_is_405(stack: Stack, method: str, path: str, allow: str) -> None:
    status, headers, body = stack.get(path, key="acme-key", method=method)
    assert (status, headers["allow"], body["error"]["code"]) == (405, allow, "method_not_allowed")


def test_errors_of_the_messages_api_have_anthropics_shape(stack: Stack) -> None:
    status, _, body = stack.post("/v1/messages", {"max_tokens": 5}, headers={"x-api-key": "acme-key"})
    assert (status, body["type"], body["error"]["type"]) == (400, "error", "invalid_request_error")
    status, _, body = stack.post("/v1/messages/count_tokens", {}, headers={"x-api-key": "nobody"})
    assert (status, body["error"]["type"]) == (401, "authentication_error")


def test_bodies_and_headers_have_bounds() -> None:
    with running(
        two_tenants(max_body_bytes=2000, max_header_bytes=2000, body_timeout=0.6, header_timeout=0.6)
    ) as stack:
        assert stack.post(CHAT, chat(content="x" * 3000), key="acme-key")[0] == 413
        chunk = b"7d0\r\n" + b"x" * 2000 + b"\r\n"
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer acme-key\r\n"
        status, _, body = stack.send(head + b"transfer-encoding: chunked\r\n\r\n" + chunk * 3)
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")
        status, _, body = stack.post(CHAT, chat(), key="acme-key", headers={"x-long": "y" * 3000})
        assert (status, body["error"]["code"]) == (431, "headers_too_large")
        status, headers, body = stack.send(head + b"content-length: 10\r\n\r\n{")
        assert (status, json.loads(body)["error"]["code"], headers["connection"]) == (408, "request_timeout", "close")
        for start in (b"", b"POST /v1/chat", head, head + b"x-endless: " + b"z" * 500):
            status, _, body = stack.send(start)
            assert (status, json.loads(body)["error"]["code"]) == (408, "request_timeout")
        status, _, body = stack.send(head + b"x-endless: " + b"z" * 5000)
        assert (status, json.loads(body)["error"]["code"]) == (431, "headers_too_large")


def test_what_is_not_http_is_400(stack: Stack) -> None:
    status, _, body = stack.send(b"EHLO gateway\r\n\r\n")
    assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_http")


def test_a_compressed_body_is_refused_clearly(stack: Stack) -> None:
    status, _, body = stack.post(CHAT, b"\x1f\x8b", key="acme-key", headers={"content-encoding": "gzip"})
    assert (status, body["error"]["code"]) == (400, "unsupported_content_encoding")


def test_a_wish_for_http2_is_ignored_and_the_body_is_read(stack: Stack) -> None:
    java = {"connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAEAAEAAAAIAAAAB"}
    assert stack.post(CHAT, chat(), key="acme-key", headers=java)[0] == 200


def test_two_requests_on_one_connection_are_both_answered(stack: Stack) -> None:
    body = json.dumps(chat()).encode()
    request = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer acme-key\r\ncontent-length: %d\r\n\r\n"
        % len(body)
        + body
    )
    with stack.connect() as sock:
        for _ in range(2):
            sock.sendall(request)
            assert read_answer(sock)[0] == 200


def test_without_a_living_engine_the_gateway_answers_503_until_one_comes() -> None:
    config = two_tenants()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    config["pools"]["globex"]["endpoints"][0]["url"] = f"http://127.0.0.1:{port}"
    with running(config, wait=False) as stack:
        status, headers, body = stack.post(CHAT, chat("qwen2-7b"), key="globex-key")
        assert (status, body["error"]["code"]) == (503, "no_endpoint")
        assert int(headers["retry-after"]) >= 1
        late = RecordingEngine()
        stack.run(late.start(port))
        stack.run(stack.all_available())
        assert stack.post(CHAT, chat("qwen2-7b"), key="globex-key")[0] == 200
        stack.run(late.stop())


@pytest.mark.parametrize("framing", [b"content-length: 2000000", b"transfer-encoding: chunked"])
def test_a_long_body_that_breaks_off_breaks_the_connection_and_is_no_fault_of_ours(
    stack: Stack, framing: bytes
) -> None:
    async def break_off(_: bytes, writer: asyncio.StreamWriter) -> None:
        piece = b"{" + b" " * 100_000 + b"\n\n"
        if framing.startswith(b"transfer"):
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n" + framing + b"\r\n\r\n" + piece)
        await writer.drain()
        writer.transport.abort()

    for engine in stack.engines.values():
        engine.reply = break_off
    before = stack.process.metrics.render().count(b"promptlane_internal_errors_total{")
    body = json.dumps(chat(content="break off")).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer acme-key\r\n"
    with stack.connect() as sock:
        sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        seen = b""
        while piece := sock.recv(65536):
            seen += piece
    assert seen.startswith(b"HTTP/1.1 200")
    assert b'"error"' not in seen
    assert not seen.endswith(b"0\r\n\r\n")
    assert stack.process.metrics.render().count(b"promptlane_internal_errors_total{") == before


def test_a_client_that_leaves_is_counted_as_such_and_as_no_refusal(stack: Stack) -> None:
    engine = stack.engines["globex-0"]
    engine.began.clear()
    engine.client_left.clear()
    engine.reply = engine.silent
    body = json.dumps(chat("secret-model")).encode()
    with stack.connect() as sock:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer globex-key\r\n"
        sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        stack.run(asyncio.wait_for(engine.began.wait(), 60))
    stack.run(asyncio.wait_for(engine.client_left.wait(), 60))
    assert in_flight(stack, "globex") == 0
    text = stack.process.metrics.render().decode()
    assert 'promptlane_requests_total{api="chat",lane="short",status="499",tenant="globex"}' in text
    assert "shutting_down" not in text
