"""A tenant's cache on the line: who is answered from there, with what, and what that counts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from policies.health import EndpointHealth
from router.wire.record import Record
from tests.router.stack import Stack, chat, read_answer, running, two_tenants, whole
from tests.router.test_request_records import Drawer

CHAT, EMBEDDINGS = "/v1/chat/completions", "/v1/embeddings"
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
ASKS_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
MAIL = "jane@acme.com"


def configuration(**cache: Any) -> dict[str, Any]:
    """acme and globex have caches; two models of acme's are one of the engine's."""
    config = two_tenants()
    acme, globex = config["tenants"]["acme"], config["tenants"]["globex"]
    acme |= {"cache": {"store": "memory", **cache}, "limits": {"tokens_per_day": 1_000_000, "concurrency": 50}}
    acme["models"]["tiny"]["prices"] = {"input": 2, "output": 10, "cached": 0.5}
    globex["cache"] = {"store": "memory"}
    globex["guards"] = [{"name": "mail", "on": "output", "action": "redact", "find": {"pii": ["email"]}}]
    return config


@pytest.fixture(scope="module")
def drawer() -> Drawer:
    return Drawer()


@pytest.fixture(scope="module")
def stack(drawer: Drawer) -> Iterator[Stack]:
    with running(configuration(), ledger=drawer) as one:
        yield one


class Engine:
    """Says something new each time, under the id that engines give it. `text`: what; `reason`: why it ends."""

    def __init__(self) -> None:
        self.said = 0
        self.text = "hello"
        self.reason = "stop"
        self.embedding = False

    async def reply(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        self.said += 1
        head, _, data = request.partition(b"\r\n\r\n")
        lines = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:])
        name, body = f"chatcmpl-{lines[b'x-request-id'].decode()}", json.loads(data)
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 30}}
        if "input" in body:
            usage = {"prompt_tokens": 7, "total_tokens": 7}
            answer = {"id": name, "object": "list", "data": [{"embedding": [self.said]}], "model": "tiny"}
            writer.write(whole(_json({**answer, "usage": usage})))
            return
        text, finish = f"{self.text} {self.said}", {"index": 0, "finish_reason": self.reason}
        if not body.get("stream"):
            choice = {**finish, "message": {"role": "assistant", "content": text}}
            writer.write(whole(_json({"id": name, "model": "tiny", "choices": [choice], "usage": usage})))
            return
        events = [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
        events += [{"index": 0, "delta": {"content": letter}, "finish_reason": None} for letter in text]
        events += [{**finish, "delta": {}}]
        chunks = [{"id": name, "model": "tiny", "choices": [one]} for one in events]
        if body.get("stream_options", {}).get("include_usage"):
            chunks.append({"id": name, "model": "tiny", "choices": [], "usage": usage})
        writer.write(STREAM)
        for data in [*map(_json, chunks), b"[DONE]"]:
            writer.write(b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data))
        writer.write(b"0\r\n\r\n")


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@pytest.fixture
def engine(stack: Stack, drawer: Drawer) -> Engine:
    made = Engine()

    async def reset() -> None:
        for one in stack.engines.values():
            one.received.clear()
            one.reply = made.reply
        for pool in stack.app.runtime.pools.values():
            for state in pool.states:
                state.health = EndpointHealth(assume_healthy=True)
        for cache in caches(stack).values():
            await cache.purge()
        drawer.records.clear()

    stack.run(reset())
    return made


def caches(stack: Stack) -> dict[str, Any]:
    assert stack.app.runtime.caches is not None
    return stack.app.runtime.caches.of


def ask(
    stack: Stack, path: str = CHAT, *, key: str = "acme-key", wish: str | None = None, **fields: Any
) -> tuple[int, dict[str, str], Any]:
    """One request with one answer, unless `fields` say otherwise; what was to be kept of it has been."""
    body = {"model": "tiny", "input": "x"} if path == EMBEDDINGS else chat(temperature=0) | fields
    answer = stack.post(path, body, key=key, headers={"cache-control": wish} if wish else {})
    for cache in caches(stack).values():
        stack.run(cache.settled())
    return answer


def told(headers: dict[str, str]) -> str | None:
    return headers.get("x-promptlane-cache")


def texts(body: bytes) -> str:
    """Of a stream."""
    events = [json.loads(line[6:]) for line in body.split(b"\n") if line.startswith(b"data: {")]
    return "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])


def requests(stack: Stack, result: str, tenant: str = "acme") -> float:
    return stack.process.metrics.total("promptlane_cache_requests", tenant, result)


def test_the_same_request_gets_the_same_answer_under_its_own_id_and_no_engine_works(
    stack: Stack, engine: Engine
) -> None:
    before = requests(stack, "hit"), requests(stack, "miss")
    status, first, answer = ask(stack)
    assert (status, told(first), "age" in first) == (200, "miss", False)
    status, second, again = ask(stack)
    assert (status, told(second), engine.said) == (200, "hit", 1)
    assert 0 <= int(second["age"]) < 60
    assert second["content-type"] == "application/json"
    assert second["x-request-id"] != first["x-request-id"]
    assert (answer["id"], again["id"]) == (f"chatcmpl-{first['x-request-id']}", f"chatcmpl-{second['x-request-id']}")
    assert {**answer, "id": ""} == {**again, "id": ""}
    assert (requests(stack, "hit"), requests(stack, "miss")) == (before[0] + 1, before[1] + 1)
    assert "x-promptlane-endpoint" not in second
    state = caches(stack)["acme"].describe()
    assert (state["store"], state["entries"], state["billed"]) == ("memory", 1, "full")


def test_a_stream_comes_again_byte_for_byte_with_usage_for_who_asks_for_it(stack: Stack, engine: Engine) -> None:
    _, headers, asked = ask(stack, **ASKS_USAGE)
    _, second, again = ask(stack, **ASKS_USAGE)
    assert (told(headers), told(second), engine.said) == ("miss", "hit", 1)
    assert second["content-type"] == "text/event-stream"
    assert again == asked.replace(headers["x-request-id"].encode(), second["x-request-id"].encode())
    assert again.endswith(b"data: [DONE]\n\n")
    assert b'"usage":{"prompt_tokens":100' in again
    _, third, unasked = ask(stack, stream=True)
    assert (told(third), engine.said) == ("hit", 1), "engines are asked for usage in any case"
    assert b"usage" not in unasked
    assert texts(unasked) == texts(again) == "hello 1"


def test_who_asks_by_an_alias_is_answered_by_it(stack: Stack, engine: Engine) -> None:
    for fields in ({}, {"stream": True}):
        for expected in ("miss", "hit"):
            _, headers, answer = ask(stack, model="qwen2-7b", **fields)
            assert told(headers) == expected
            models = {answer["model"]} if isinstance(answer, dict) else set(_models(answer))
            assert models == {"qwen2-7b"}
    assert told(ask(stack)[1]) == "miss", "the model is another"


def _models(body: bytes) -> list[str]:
    return [json.loads(line[6:])["model"] for line in body.split(b"\n") if line.startswith(b"data: {")]


def test_one_tenant_never_gets_what_another_was_told(stack: Stack, engine: Engine) -> None:
    both = [("acme-key", "qwen2-7b"), ("globex-key", "qwen2-7b")]
    assert [told(ask(stack, key=key, model=model)[1]) for key, model in both * 2] == ["miss", "miss", "hit", "hit"]
    assert engine.said == 2
    assert told(ask(stack, key="acme-scoped")[1]) == "miss"
    assert told(ask(stack, key="acme-key")[1]) == "hit", "keys of one tenant share"


@pytest.mark.parametrize(
    "fields", [{"temperature": 0.1}, {"temperature": None}, {"n": 2}, {"temperature": 1, "n": 2, "seed": 3}]
)
def test_what_has_several_answers_is_asked_every_time(stack: Stack, engine: Engine, fields: dict[str, Any]) -> None:
    before = requests(stack, "unfit")
    for expected in (1, 2):
        status, headers, _ = ask(stack, **fields)
        assert (status, told(headers), engine.said) == (200, None, expected)
    assert requests(stack, "unfit") == before + 2
    assert caches(stack)["acme"].describe()["entries"] == 0


def test_embeddings_are_answered_from_there_too(stack: Stack, engine: Engine) -> None:
    (_, first, answer), (_, second, again) = ask(stack, EMBEDDINGS), ask(stack, EMBEDDINGS)
    assert (told(first), told(second), engine.said) == ("miss", "hit", 1)
    assert answer["data"] == again["data"] == [{"embedding": [1]}]


def test_a_client_may_have_a_new_answer_or_leave_the_cache_alone(stack: Stack, engine: Engine) -> None:
    before = requests(stack, "bypass")
    assert ask(stack)[2]["choices"][0]["message"]["content"] == "hello 1"
    _, headers, answer = ask(stack, wish="no-store")
    assert (told(headers), answer["choices"][0]["message"]["content"]) == (None, "hello 2")
    assert ask(stack)[2]["choices"][0]["message"]["content"] == "hello 1"
    _, headers, answer = ask(stack, wish="no-cache")
    assert (told(headers), answer["choices"][0]["message"]["content"]) == ("miss", "hello 3")
    assert ask(stack)[2]["choices"][0]["message"]["content"] == "hello 3", "it has taken the other's place"
    assert requests(stack, "bypass") == before + 2


@pytest.mark.parametrize("reason", ["abort", "error", "content_filter"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_was_cut_is_not_kept(stack: Stack, engine: Engine, reason: str, stream: bool) -> None:
    engine.reason = reason
    ask(stack, stream=stream)
    assert caches(stack)["acme"].describe()["entries"] == 0
    engine.reason = "length"
    assert told(ask(stack, stream=stream)[1]) == "miss"
    assert told(ask(stack, stream=stream)[1]) == "hit"


def broken(*, status: bytes = b"", cut: bool = False) -> Callable[[bytes, asyncio.StreamWriter], Any]:
    async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
        if status:
            writer.write(whole(b'{"error":{"message":"no","type":"BadRequestError","code":400}}', status))
            return
        event = b'data: {"id":"chatcmpl-x","model":"tiny","choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
        writer.write(STREAM + b"%x\r\n%b\r\n" % (len(event), event))
        await writer.drain()
        raise ConnectionResetError

    return reply


@pytest.mark.parametrize(
    ("reply", "stream"),
    [(broken(status=b"400 Bad Request"), False), (broken(status=b"500 Oh"), False), (broken(), True)],
    ids=["refused", "failed", "broken off"],
)
def test_errors_and_streams_that_broke_are_not_kept(
    stack: Stack, engine: Engine, reply: Callable[[bytes, asyncio.StreamWriter], Any], stream: bool
) -> None:
    for one in stack.engines.values():
        one.reply = reply
    ask(stack, stream=stream)
    assert caches(stack)["acme"].describe()["entries"] == 0


def test_of_a_client_that_leaves_nothing_is_kept(stack: Stack, engine: Engine) -> None:
    for one in stack.engines.values():
        one.reply = one.silent
        one.client_left.clear()
        one.began.clear()
    data = _json(chat(temperature=0))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer acme-key\r\ncontent-length: {len(data)}\r\n\r\n"
    with stack.connect() as sock:
        sock.sendall(head.encode() + data)
        stack.run(_any(*(one.began.wait() for one in stack.engines.values())))
    stack.run(_any(*(one.client_left.wait() for one in stack.engines.values())))
    assert caches(stack)["acme"].describe()["entries"] == 0


async def _any(*waits: Any) -> None:
    _, waiting = await asyncio.wait([asyncio.ensure_future(one) for one in waits], return_when="FIRST_COMPLETED")
    for one in waiting:
        one.cancel()


def test_what_is_too_long_passes_and_is_not_kept(stack: Stack, engine: Engine) -> None:
    before = stack.process.metrics.total("promptlane_cache_answers", "acme", "too_long")
    engine.text = "x" * 1_100_000
    for _ in range(2):
        _, headers, answer = ask(stack)
        assert told(headers) == "miss"
        assert len(answer["choices"][0]["message"]["content"]) > 1_100_000
    assert stack.process.metrics.total("promptlane_cache_answers", "acme", "too_long") == before + 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_answer_comes_again_whole(stack: Stack, engine: Engine, stream: bool) -> None:
    engine.text = "abcdefghij" * (300 if stream else 90_000)
    (_, _, answer), (_, second, again) = ask(stack, stream=stream), ask(stack, stream=stream)
    assert told(second) == "hit"
    if stream:
        assert texts(again) == texts(answer) == f"{engine.text} 1"
    else:
        assert again["choices"] == answer["choices"]


@pytest.mark.parametrize("stream", [False, True])
def test_rules_for_answers_look_at_what_comes_from_there(stack: Stack, engine: Engine, stream: bool) -> None:
    engine.text = f"write to {MAIL} please"
    verdicts = ("promptlane_guard_verdicts", "globex", "mail", "output", "redact")
    before = stack.process.metrics.total(*verdicts)
    for expected in ("miss", "hit"):
        _, headers, answer = ask(stack, key="globex-key", model="qwen2-7b", stream=stream)
        assert told(headers) == expected
        said = texts(answer) if stream else answer["choices"][0]["message"]["content"]
        assert said == "write to [email] please 1"
    assert stack.process.metrics.total(*verdicts) == before + 2


@pytest.mark.parametrize("stream", [False, True])
def test_what_rules_withhold_is_not_kept_and_what_is_kept_they_still_withhold(drawer: Drawer, stream: bool) -> None:
    config = configuration()
    rule = {"name": "mail", "on": "output", "action": "block", "find": {"pii": ["email"]}}
    config["tenants"]["acme"]["guards"] = [rule]
    engine = Engine()
    with running(config) as stack:
        for one in stack.engines.values():
            one.reply = engine.reply
        engine.text = f"write to {MAIL}"
        status, headers, answer = ask(stack, stream=stream)
        assert MAIL not in str(answer)
        assert caches(stack)["acme"].describe()["entries"] == 0
        engine.text = "call Quito"
        assert told(ask(stack, stream=stream)[1]) == "miss"
        rule["find"] = {"words": ["call"]}
        stack.run(_reload(stack, config))
        status, headers, answer = ask(stack, stream=stream)
        assert (told(headers), engine.said) == ("hit", 2), "the reload has kept the answers"
        assert status == 400 or b"content_filter" in answer
        assert "Quito" not in str(answer)  # no digits: ids have them


async def _reload(stack: Stack, config: dict[str, Any]) -> None:
    from router.assembly import build

    before = stack.app.runtime
    stack.app.runtime = build(stack.configure(config), stack.process, before)
    stack.app.runtime.start()
    await before.stop(stack.app.runtime)


def last_record(stack: Stack, drawer: Drawer) -> Record:
    async def read() -> Record:
        return drawer.records[-1]

    record: Record = stack.run(read())
    return record


@pytest.mark.parametrize(
    ("billing", "tokens", "cached", "cost"),
    [("full", 120, 30, 2 * 70 + 15 + 200), ("cached", 120, 30, 50 + 200), ("none", 0, 30, 0)],
)
def test_a_hit_counts_as_it_is_billed_for_limits_money_and_the_record(
    billing: str, tokens: int, cached: int, cost: int
) -> None:
    drawer, engine, config = Drawer(), Engine(), configuration(billed=billing)
    config["tenants"]["acme"]["limits"] |= {"tokens_per_minute": 100_000, "requests_per_minute": 100}
    with running(config, ledger=drawer) as stack:
        for one in stack.engines.values():
            one.reply = engine.reply
        ask(stack)
        made = last_record(stack, drawer)
        left = _left(stack)
        _, headers, _ = ask(stack)
        assert told(headers) == "hit"
        hit, spent = last_record(stack, drawer), [was - now for was, now in zip(left, _left(stack), strict=True)]
        assert spent == [1, tokens]
        assert stack.app.runtime.gateway.limits["acme"].in_flight == 0
        counted = stack.process.metrics.total("promptlane_cost_micro_usd", "acme", "tiny")
        assert counted == made.cost_micro + hit.cost_micro
    assert (made.cost_micro, made.detail) == (355, None)
    assert (hit.outcome, hit.status, hit.usage_from) == ("complete", 200, "engine")
    assert (hit.prompt_tokens, hit.completion_tokens, hit.cached_tokens) == (100, 20, cached)
    assert (hit.endpoint, hit.attempts, hit.engine_micro_seconds, hit.cost_micro) == (None, 0, 0, cost)
    assert hit.detail == {"from_cache": billing}
    assert hit.finish_reason == "stop"


def _left(stack: Stack) -> list[int]:
    """Requests and tokens that acme may still use this minute."""
    limiter = stack.app.runtime.gateway.limits["acme"]

    async def look() -> list[int]:
        found = limiter.snapshot(stack.process.clock(), "main", "tiny")
        assert found.remaining_requests is not None
        assert found.remaining_tokens is not None
        return [found.remaining_requests, found.remaining_tokens]

    found: list[int] = stack.run(look())
    return found


def test_limits_are_asked_first_and_a_hit_holds_no_seat_of_an_engine() -> None:
    config, engine = configuration(billed="none"), Engine()
    config["tenants"]["acme"]["limits"] = {"requests_per_minute": 3}
    with running(config) as stack:
        for one in stack.engines.values():
            one.reply = engine.reply
        ask(stack)

        async def endpoints_away() -> None:
            for state in stack.app.runtime.pools["acme"].states:
                state.health = EndpointHealth()

        stack.run(endpoints_away())
        assert [ask(stack)[0] for _ in range(3)] == [200, 200, 429]
        assert engine.said == 1


def test_a_tenant_without_a_cache_hears_nothing_of_it_and_nothing_is_kept(stack: Stack, engine: Engine) -> None:
    body = chat("free", temperature=0)
    for _ in range(2):
        status, headers, _ = stack.post(CHAT, body, headers={"host": "open.llm.test"})
        assert (status, told(headers)) == (200, None)
    assert engine.said == 2
    assert "open" not in caches(stack)


def test_equal_requests_at_once_all_get_a_whole_answer(stack: Stack, engine: Engine) -> None:
    data = _json(chat(temperature=0, stream=True))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer acme-key\r\ncontent-length: {len(data)}\r\n"
    socks: list[socket.socket] = []
    for _ in range(20):
        socks.append(stack.connect())
        socks[-1].sendall(f"{head}connection: close\r\n\r\n".encode() + data)
    said = {texts(read_answer(sock)[2]) for sock in socks}
    for sock in socks:
        sock.close()
    assert said <= {f"hello {number}" for number in range(1, 21)}
    stack.run(caches(stack)["acme"].settled())
    _, headers, answer = ask(stack, stream=True)
    assert told(headers) == "hit"
    assert texts(answer) in said
    assert caches(stack)["acme"].describe()["entries"] == 1


def test_an_answer_that_is_no_good_is_made_anew(stack: Stack, engine: Engine) -> None:
    from router.response_cache.entry import pack

    ask(stack)
    store = caches(stack)["acme"].store
    (key,) = store._shelf._entries
    for data in (b"nonsense", pack(b"application/json", b'{"no":"answer"}', "x", 0.0, whole=True)):
        store._shelf.put(key, data, stack.process.clock())
        status, headers, answer = ask(stack)
        assert (status, told(headers)) == (200, "miss")
        assert answer["choices"][0]["message"]["content"] == f"hello {engine.said}"
        assert told(ask(stack)[1]) == "hit"
