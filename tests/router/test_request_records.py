"""What a request's record says of it, by how it ended; and what requests get when no record can be kept."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from router.wire.record import Record
from tests.router.stack import ANSWER, Stack, chat, read_answer, running, two_tenants, whole

CHAT = "/v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SECRET_WORD = "xyzzy-never-to-be-kept"


@dataclass
class Drawer:
    """A ledger in memory."""

    records: list[Record] = field(default_factory=list)
    accepts: bool = True

    @property
    def add(self) -> Callable[[Record], None]:
        return self.records.append


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture(scope="module")
def stack(drawer: Drawer) -> Iterator[Stack]:
    config = two_tenants()
    config["tenants"]["globex"]["limits"] = {"requests_per_minute": 1}
    config["tiers"] = {"platinum": {"resume": False}}
    config["tenants"]["acme"]["models"]["tiny"]["prices"] = {"input": 2, "output": 10, "cached": 0.5}
    for endpoint in config["pools"]["acme"]["endpoints"]:
        endpoint["hourly_cost"] = 3.6e5  # 100 micro-units for each microsecond
    with running(config, ledger=drawer) as one:
        yield one


@pytest.fixture(autouse=True)
def _fresh(stack: Stack, drawer: Drawer) -> None:
    drawer.records.clear()
    drawer.accepts = True
    for engine in stack.engines.values():
        engine.reply = engine.answer
    stack.run(stack.all_available())


def recorded(stack: Stack, drawer: Drawer, count: int) -> list[Record]:
    """All that there are, once so many are: an answer is out before its record is made."""

    async def there() -> None:
        async with asyncio.timeout(20):
            while len(drawer.records) < count:  # noqa: ASYNC110 - a list has no event to wait for
                await asyncio.sleep(0.005)

    stack.run(there())
    assert len(drawer.records) == count
    return drawer.records


def only(stack: Stack, drawer: Drawer) -> Record:
    """The one record that there is, once it is there."""
    (record,) = recorded(stack, drawer, 1)
    assert SECRET_WORD.encode() not in record.body()
    return record


def chunk(content: str, finish: str = "null") -> bytes:
    data = (
        b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[{"index":0,"delta":'
        b'{"content":"%b"},"logprobs":null,"finish_reason":%b}]}\n\n' % (content.encode(), finish.encode())
    )
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_an_answer_is_recorded_with_all_that_is_known_of_it(stack: Stack, drawer: Drawer) -> None:
    body = chat("qwen2-7b", f"{SECRET_WORD} " * 100, max_tokens=7)
    status, headers, _ = stack.post(CHAT, body, key="acme-key", headers={"x-request-id": "my-request"})
    assert status == 200
    record = only(stack, drawer)
    said = {
        "kind": "request", "tenant": "acme", "tier": "platinum", "key": "main", "request_id": "my-request",
        "api": "chat", "model": "qwen2-7b", "engine_model": "tiny", "pool": "acme",
        "endpoint": headers["x-promptlane-endpoint"], "lane": "short", "stream": False, "outcome": "complete",
        "status": 200, "error": None, "finish_reason": "stop", "prompt_tokens": 9, "cached_tokens": 4,
        "completion_tokens": 1, "usage_from": "engine", "attempts": 1, "resumes": 0, "detail": {"max_tokens": 7},
    }  # fmt: skip
    assert {name: getattr(record, name) for name in said} == said
    assert record.at == pytest.approx(stack.process.wall_clock(), abs=60)
    assert record.first_byte_seconds is not None
    assert record.total_seconds is not None
    assert record.queue_seconds is not None
    assert 0 <= record.queue_seconds <= record.first_byte_seconds <= record.total_seconds < 60
    assert record.prefix_hash is not None


def test_a_request_is_charged_by_its_models_prices_or_by_its_engines_time(stack: Stack, drawer: Drawer) -> None:
    for model in ("tiny", "qwen2-7b"):
        assert stack.post(CHAT, chat(model), key="acme-key")[0] == 200
    priced, timed = recorded(stack, drawer, 2)
    assert priced.cost_micro == 2 * 5 + 0.5 * 4 + 10 * 1, "9 tokens of a prompt, 4 of them cached, and 1 of an answer"
    assert priced.engine_micro_seconds > 0
    assert timed.engine_micro_seconds > 0
    assert timed.cost_micro == pytest.approx(100 * timed.engine_micro_seconds, abs=51)


@pytest.mark.parametrize("status", [b"400 Bad Request", b"500 Internal Server Error"])
def test_without_an_answer_nothing_is_charged(stack: Stack, drawer: Drawer, status: bytes) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"no"}}', status))

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    stack.post(CHAT, chat(), key="acme-key")
    record = only(stack, drawer)
    assert (record.engine_micro_seconds, record.cost_micro) == (0, 0)


def test_equal_prefixes_have_equal_hashes_within_a_tenant_alone(stack: Stack, drawer: Drawer) -> None:
    for key in ("acme-key", "acme-key", "globex-key"):
        stack.post(CHAT, chat("qwen2-7b", "the same words again and again " * 60), key=key)
    first, second, other = (record.prefix_hash for record in recorded(stack, drawer, 3))
    assert first == second != other


def test_a_stream_is_recorded_as_one(stack: Stack, drawer: Drawer) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        usage = (
            b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[],"usage":'
            b'{"prompt_tokens":5,"total_tokens":8,"completion_tokens":3}}\n\n'
        )
        end = b"data: [DONE]\n\n"
        events = b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in (usage, end))
        writer.write(STREAM + chunk("hi") + chunk("", '"length"') + events + b"0\r\n\r\n")

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    status, _, _ = stack.post(CHAT, chat(stream=True), key="acme-key")
    assert status == 200
    record = only(stack, drawer)
    assert (record.stream, record.outcome, record.finish_reason) == (True, "complete", "length")
    assert (record.prompt_tokens, record.completion_tokens, record.usage_from) == (5, 3, "engine")


def test_what_no_engine_counted_is_an_estimate(stack: Stack, drawer: Drawer) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        body = json.loads(ANSWER)
        del body["usage"]
        writer.write(whole(json.dumps(body).encode()))

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    stack.post(CHAT, chat(content="a few words"), key="acme-key")
    record = only(stack, drawer)
    assert (record.usage_from, record.completion_tokens, record.cached_tokens) == ("estimate", None, None)
    assert record.prompt_tokens
    assert record.finish_reason == "stop"


def test_a_client_that_leaves_leaves_a_record(stack: Stack, drawer: Drawer) -> None:
    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = stack.engines[name].silent
        stack.engines[name].began.clear()
    data = json.dumps(chat()).encode()
    sock = stack.connect()
    head = "POST {} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer acme-key\r\ncontent-length: {}\r\n\r\n"
    sock.sendall(head.format(CHAT, len(data)).encode() + data)

    async def begun() -> None:
        async with asyncio.timeout(20):
            while not any(stack.engines[name].began.is_set() for name in ("acme-0", "acme-1")):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    stack.run(begun())
    sock.shutdown(socket.SHUT_RDWR)
    sock.close()
    record = only(stack, drawer)
    assert (record.outcome, record.status, record.error) == ("client_left", 499, None)
    assert record.endpoint is not None


def test_an_engine_that_dies_in_a_stream_is_an_interruption(stack: Stack, drawer: Drawer) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk("hi"))
        await writer.drain()
        writer.transport.abort()

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    status, _, _ = stack.post(CHAT, chat(stream=True), key="acme-key")
    record = only(stack, drawer)
    assert (status, record.status, record.outcome, record.error) == (200, 200, "interrupted", "engine_closed")


def test_engines_that_all_fail_are_a_failure_with_its_attempts(stack: Stack, drawer: Drawer) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"broken"}}', b"500 Internal Server Error"))

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    status, _, _ = stack.post(CHAT, chat(), key="acme-key")
    record = only(stack, drawer)
    assert status == record.status >= 500
    assert (record.outcome, record.error) == ("failed", "engine_error")
    assert record.attempts >= 2


def test_an_engines_own_refusal_is_one(stack: Stack, drawer: Drawer) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(b'{"error":{"message":"too long","code":400}}', b"400 Bad Request"))

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 400
    record = only(stack, drawer)
    assert (record.outcome, record.status, record.error) == ("refused", 400, None)


@pytest.mark.parametrize(
    ("path", "key", "body", "status", "code"),
    [
        (CHAT, "acme-key", b"{", 400, "invalid_json"),
        (CHAT, "acme-key", chat("of another tenant"), 404, "model_not_found"),
        (CHAT, "acme-scoped", chat("qwen2-7b"), 403, "scope_denied"),
        ("/v1/completions", "acme-scoped", {"model": "tiny", "prompt": "x"}, 403, "scope_denied"),
    ],
)
def test_a_refusal_is_recorded_once_the_tenant_is_known(
    stack: Stack, drawer: Drawer, path: str, key: str, body: Any, status: int, code: str
) -> None:
    assert stack.post(path, body, key=key)[0] == status
    record = only(stack, drawer)
    assert (record.tenant, record.outcome, record.status, record.error) == ("acme", "refused", status, code)
    assert record.endpoint is None


def test_a_limits_refusal_is_recorded(stack: Stack, drawer: Drawer) -> None:
    asked = 1
    while stack.post(CHAT, chat("qwen2-7b"), key="globex-key")[0] != 429:
        asked += 1
    record = recorded(stack, drawer, asked)[-1]
    assert (record.tenant, record.outcome, record.status) == ("globex", "refused", 429)
    assert record.error == "rate_limit_exceeded"
    assert (record.attempts, record.pool, record.usage_from) == (0, "globex", "estimate")


def test_of_nobody_there_is_no_record(stack: Stack, drawer: Drawer) -> None:
    assert stack.post(CHAT, chat(), key="unknown")[0] == 401
    assert stack.post(CHAT, chat(), key="acme-key", headers={"host": "globex.llm.test"})[0] == 403
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    assert only(stack, drawer).status == 200


def test_where_no_record_could_be_kept_a_request_gets_503_in_openais_words(stack: Stack, drawer: Drawer) -> None:
    drawer.accepts = False
    status, headers, body = stack.post(CHAT, chat(), key="acme-key")
    assert (status, body["error"]["code"]) == (503, "ledger_unavailable")
    assert body["error"].keys() == {"message", "type", "param", "code"}
    assert headers["retry-after"] == "5"
    drawer.accepts = True
    assert stack.post(CHAT, chat(), key="acme-key")[0] == 200
    assert only(stack, drawer).status == 200, "what was refused so has no record"


def test_several_requests_on_one_connection_have_a_record_each(stack: Stack, drawer: Drawer) -> None:
    data = json.dumps(chat()).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer acme-key\r\ncontent-length: {len(data)}\r\n\r\n"
    with stack.connect() as sock:
        for _ in range(3):
            sock.sendall(head.encode() + data)
            assert read_answer(sock)[0] == 200
    assert len({record.request_id for record in recorded(stack, drawer, 3)}) == 3
