"""What a request's record says of it, by how it ended; and what requests get when no record can be kept."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks.ledger import call as finished_call
from router.calls import Call
from router.measure import Measured
from router.request_records import Looking, RequestRecords, Weights
from router.wire.draft import Draft
from router.wire.openai import APIS
from router.wire.record import Record
from tests.policies.builders import make_request
from tests.router.stack import ANSWER, Stack, chat, read_answer, running, two_tenants, whole

CHAT = "/v1/chat/completions"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
SECRET_WORD = "xyzzy-never-to-be-kept"
KEY = b"t" * 32
WATCHED = "zyxwatchedzyx"
WEIGHTS, OTHER_WEIGHTS = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


@dataclass
class Drawer:
    """A ledger in memory."""

    records: list[Record] = field(default_factory=list)
    accepts: bool = True

    @property
    def add(self) -> Callable[[Draft], None]:
        return self.finish

    def finish(self, draft: Draft) -> None:
        draft.examine(KEY)
        self.records.append(draft.finish(KEY))


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture(scope="module")
def stack(drawer: Drawer) -> Iterator[Stack]:
    config = two_tenants()
    config["tenants"]["globex"]["limits"] = {"requests_per_minute": 1}
    config["tiers"] = {"platinum": {"resume": False}}
    config["tenants"]["acme"]["models"]["tiny"]["prices"] = {"input": 2, "output": 10, "cached": 0.5}
    config["tenants"]["acme"]["models"]["tiny"]["weights_digest"] = WEIGHTS
    config["tenants"]["acme"]["requests"] = {"max_tokens": 1000}
    config["tenants"]["acme"]["watch_words"] = [WATCHED, "never said"]
    config["governance"] = {"output": "all"}
    for endpoint in config["pools"]["acme"]["endpoints"]:
        endpoint["hourly_cost"] = 3.6e5  # 100 micro-units for each microsecond
    config["pools"]["acme"]["endpoints"][1]["weights_digest"] = OTHER_WEIGHTS
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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
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


# -- governance

SAMPLING = {"temperature": 0.25, "top_p": 0.5, "seed": 11}
STOP = {"stop": [SECRET_WORD]}
FUNCTION = {"name": SECRET_WORD, "parameters": {"type": "object", "properties": {}}}
ASKED: dict[str, dict[str, Any]] = {
    CHAT: {**chat(), **SAMPLING, **STOP, "max_tokens": 5000, "tools": [{"type": "function", "function": FUNCTION}]},
    "/v1/completions": {"model": "tiny", "prompt": SECRET_WORD, **SAMPLING, **STOP, "max_tokens": 5000},
    "/v1/responses": {"model": "tiny", "input": SECRET_WORD, **SAMPLING, "max_output_tokens": 5000},
    "/v1/messages": {
        "model": "tiny", "messages": [{"role": "user", "content": SECRET_WORD}], "max_tokens": 5000, **SAMPLING,
        "stop_sequences": [SECRET_WORD], "tools": [{"name": SECRET_WORD, "input_schema": {}}],
    },
}  # fmt: skip
WHOLE = {
    CHAT: ANSWER[:-1] + b',"system_fingerprint":"vllm-0.32-tp1"}',
    "/v1/completions": b'{"id":"x","object":"text_completion","created":1,"model":"tiny","system_fingerprint":'
    b'"vllm-0.32-tp1","choices":[{"index":0,"text":"hi","finish_reason":"stop"}]}',
    "/v1/responses": b'{"id":"x","object":"response","status":"completed","model":"tiny","output":[]}',
    "/v1/messages": b'{"id":"x","type":"message","role":"assistant","model":"tiny","content":[],"stop_reason":'
    b'"end_turn"}',
}


@pytest.mark.parametrize("path", ASKED)
def test_the_parameters_are_those_that_the_engine_got(stack: Stack, drawer: Drawer, path: str) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(WHOLE[path]))

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    assert stack.post(path, ASKED[path], key="acme-key")[0] == 200
    record = only(stack, drawer)
    assert record.parameters is not None
    assert {name: record.parameters[name] for name in SAMPLING} == SAMPLING
    assert record.parameters["max_tokens"] == 1000, "what the tenant's bound has left of 5000"
    assert ("stop" in record.parameters) == (path != "/v1/responses")
    assert ("tool_names_hash" in record.parameters) == ("tools" in ASKED[path])
    assert record.prompt_hash is not None
    assert len(record.prompt_hash) == 32
    by_openai = path in (CHAT, "/v1/completions")
    assert record.system_fingerprint == ("vllm-0.32-tp1" if by_openai else None)
    assert record.weights_digest == {"acme-0": WEIGHTS, "acme-1": OTHER_WEIGHTS}[str(record.endpoint)]


@pytest.mark.parametrize("asks_usage", [True, False])
def test_a_streams_fingerprint_is_known_whether_the_client_sees_its_usage_or_not(
    stack: Stack, drawer: Drawer, asks_usage: bool
) -> None:
    last = (
        b'data: {"id":"x","object":"chat.completion.chunk","created":1,"model":"tiny","choices":[],"usage":'
        b'{"prompt_tokens":9,"completion_tokens":1},"system_fingerprint":"vllm-0.32-tp2"}\n\ndata: [DONE]\n\n'
    )

    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM + chunk("hi") + chunk("", '"stop"') + b"%x\r\n%b\r\n" % (len(last), last) + b"0\r\n\r\n")

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    options = {"stream_options": {"include_usage": True}} if asks_usage else {}
    assert stack.post(CHAT, chat(stream=True, **options), key="acme-key")[0] == 200
    assert only(stack, drawer).system_fingerprint == "vllm-0.32-tp2"


def test_equal_prompts_have_equal_hashes_however_their_json_is_spelled_and_others_have_others(
    stack: Stack, drawer: Drawer
) -> None:
    bodies = [chat(), chat(temperature=1), json.dumps(chat(), indent=2).encode(), chat("tiny", "another prompt")]
    for body in bodies:
        assert stack.post(CHAT, body, key="acme-key")[0] == 200
    one, sampled, spelled, other = [record.prompt_hash for record in recorded(stack, drawer, len(bodies))]
    assert one == sampled == spelled != other


def test_a_request_that_was_refused_for_its_parameters_says_which_they_were(stack: Stack, drawer: Drawer) -> None:
    assert stack.post("/v1/completions", {"model": "tiny", "prompt": {}, **SAMPLING}, key="acme-key")[0] == 400
    record = only(stack, drawer)
    assert (record.parameters, record.prompt_hash) == (SAMPLING, None)


# -- what was answered

SENTENCE = f"Entschuldigung, {WATCHED} ist {SECRET_WORD}. "
EVENTS: dict[str, Callable[[str], tuple[str, dict[str, Any]]]] = {
    CHAT: lambda text: ("", {"id": "x", "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]}),
    "/v1/completions": lambda text: ("", {"id": "x", "choices": [{"index": 0, "text": text, "finish_reason": None}]}),
    "/v1/responses": lambda text: ("response.output_text.delta", {"delta": text}),
    "/v1/messages": lambda text: ("content_block_delta", {"index": 0, "delta": {"type": "text_delta", "text": text}}),
}
LASTS = {
    CHAT: b"data: [DONE]\n\n",
    "/v1/completions": b"data: [DONE]\n\n",
    "/v1/responses": b'event: response.completed\ndata: {"response":{"status":"completed"}}\n\n',
    "/v1/messages": b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


def event(path: str, text: str) -> bytes:
    kind, data = EVENTS[path](text)
    name = f"event: {kind}\n" if kind else ""
    return f"{name}data: {json.dumps({**data, 'type': kind} if kind else data, separators=(',', ':'))}\n\n".encode()


def said_whole(path: str, text: str) -> bytes:
    if path == "/v1/responses":
        item = {"type": "message", "content": [{"type": "output_text", "text": text}]}
        return json.dumps({"id": "x", "status": "completed", "output": [item]}).encode()
    if path == "/v1/messages":
        return json.dumps({"type": "message", "content": [{"type": "text", "text": text}], "stop_reason": "x"}).encode()
    choice = {"message": {"content": text}} if path == CHAT else {"text": text}
    return json.dumps({"id": "x", "choices": [{"index": 0, **choice, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize("path", EVENTS)
@pytest.mark.parametrize("stream", [True, False])
def test_an_answers_figures_are_recorded_and_not_a_word_of_it(
    stack: Stack, drawer: Drawer, path: str, stream: bool
) -> None:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        if not stream:
            writer.write(whole(said_whole(path, SENTENCE * 20)))
            return
        pieces = [*(event(path, SENTENCE) for _ in range(20)), LASTS[path]]
        writer.write(STREAM + b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n")

    for name in ("acme-0", "acme-1"):
        stack.engines[name].reply = reply
    body = {**ASKED[path], "stream": stream}
    assert stack.post(path, body, key="acme-key")[0] == 200
    record = only(stack, drawer)
    assert record.output is not None
    (watched,) = record.output.pop("watched").values()
    assert watched == 20
    assert record.output.pop("repetition") > 0.8
    assert record.output == {
        "seen": "whole", "characters": 20 * len(SENTENCE), "shift": 0.0, "scripts": {"latin": 1.0}, "refusal": False,
    }  # fmt: skip
    assert WATCHED.encode() not in record.body()


def test_of_several_choices_and_of_what_generates_nothing_no_text_is_looked_at(stack: Stack, drawer: Drawer) -> None:
    assert stack.post(CHAT, chat(n=2), key="acme-key")[0] == 200
    assert stack.post("/v1/embeddings", {"model": "tiny", "input": "x"}, key="acme-key")[0] == 200
    assert [record.output for record in recorded(stack, drawer, 2)] == [None, None]


@pytest.mark.parametrize(("name", "odd"), [(SECRET_WORD, None), ("unknown", 1)])
def test_calls_of_tools_are_held_against_the_tools_that_there_are(
    stack: Stack, drawer: Drawer, name: str, odd: int | None
) -> None:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}

    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        choice = {"index": 0, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
        writer.write(whole(json.dumps({"id": "x", "choices": [choice]}).encode()))

    for engine in ("acme-0", "acme-1"):
        stack.engines[engine].reply = reply
    assert stack.post(CHAT, ASKED[CHAT], key="acme-key")[0] == 200
    record = only(stack, drawer)
    assert record.output is not None
    assert (record.finish_reason, record.output["tool_calls"]) == ("tool_calls", 1)
    assert record.output["tool_calls_odd"] == (odd or 0)


@pytest.mark.interpreted("its call has no client")
def test_a_share_of_the_answers_is_looked_at() -> None:
    drawn = iter([0.05, 0.2, 0.09, 0.1])
    records = RequestRecords(Drawer(), lambda: 0.0, None, Looking(0.1), lambda: next(drawn))
    call = Call(cast("Any", None), APIS[CHAT], "x", 0.0)
    call.measured = Measured(make_request(), 0, 0, counted=False)
    assert [records.looks_at(call) for _ in range(4)] == [True, False, True, False]
    assert not RequestRecords(Drawer(), lambda: 0.0).looks_at(call), "off"


@pytest.mark.interpreted("its call has no client")
def test_a_degraded_answer_has_the_bound_of_its_terms_and_not_the_weights_of_the_usual_model() -> None:
    drawer, made = Drawer(), finished_call()
    weights = Weights({("acme", "qwen2-7b"): WEIGHTS}, {("other", "acme-0"): OTHER_WEIGHTS})
    RequestRecords(drawer, lambda: 0.0, weights).finished(made, 11.0)
    made.degraded = cast(
        "Any", SimpleNamespace(terms=SimpleNamespace(max_tokens=64), pool=SimpleNamespace(name="other"))
    )
    RequestRecords(drawer, lambda: 0.0, weights).finished(made, 11.0)
    RequestRecords(drawer, lambda: 0.0, Weights(weights.models)).finished(made, 11.0)
    usual, degraded, unknown = drawer.records
    assert usual.parameters is not None
    assert degraded.parameters is not None
    assert (usual.parameters["max_tokens"], degraded.parameters["max_tokens"]) == (300, 64)
    assert (usual.weights_digest, degraded.weights_digest) == (WEIGHTS, OTHER_WEIGHTS)
    assert unknown.weights_digest is None


def test_a_short_prompt_is_hashed_later_and_like_a_long_one() -> None:
    spec = APIS[CHAT]
    segments = (b"one", b"\x1ftwo")
    hashes = {
        Draft(Record("", 0, "request", 0.0), spec, prompt=prompt).finish(KEY).prompt_hash
        for prompt in (segments, hashlib.sha256(b"".join(segments)).digest())
    }
    assert len(hashes) == 1
    assert Draft(Record("", 0, "request", 0.0), spec, prompt=()).finish(KEY).prompt_hash is None


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_answer_leaves_before_its_record_is_made_and_nothing_breaks_it_off_then(
    stack: Stack, drawer: Drawer, cancelled: bool
) -> None:
    """The loop has its turn between the two. What ends the process in it changes nothing of what was answered."""
    seen: list[str] = []
    messages: list[dict[str, Any]] = []

    async def ask() -> None:
        body = json.dumps(chat()).encode()
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(requests, None) or await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: dict[str, Any]) -> None:
            messages.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                asyncio.get_running_loop().call_soon(turn)

        def turn() -> None:
            seen.append(f"{len(drawer.records)} records")
            if cancelled:
                asking.cancel()

        headers = [(b"authorization", b"Bearer acme-key"), (b"content-length", b"%d" % len(body))]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "client": ("127.0.0.1", 1)}
        asking = asyncio.ensure_future(stack.app(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.wait([asking])

    stack.run(ask())
    assert seen == ["0 records"]
    (record,) = drawer.records
    assert (record.outcome, record.status, record.finish_reason) == ("complete", 200, "stop")
    assert b"".join(one.get("body", b"") for one in messages) == ANSWER
    assert [one["type"] for one in messages] == ["http.response.start", "http.response.body"]


@pytest.mark.parametrize("stream", [False, True])
def test_who_waits_for_a_whole_answer_lets_others_come_as_far_and_a_stream_goes_on_at_once(
    stack: Stack, stream: bool
) -> None:
    """What came together is measured first, and sent then; of a stream somebody sees when it begins."""

    async def sent_at_once() -> int:
        body = json.dumps(chat(stream=stream)).encode()
        requests = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def receive() -> dict[str, Any]:
            return next(requests, None) or await asyncio.Event().wait()  # type: ignore[return-value]

        async def send(message: dict[str, Any]) -> None:
            """It is looked at by nobody."""

        headers = [(b"authorization", b"Bearer acme-key"), (b"content-length", b"%d" % len(body))]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers, "client": ("127.0.0.1", 1)}
        asking = asyncio.ensure_future(stack.app(scope, receive, send))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        sent = sum(state.in_flight for pool in stack.app.runtime.pools.values() for state in pool.states)
        await asking
        return sent

    assert stack.run(sent_at_once()) == (1 if stream else 0)
