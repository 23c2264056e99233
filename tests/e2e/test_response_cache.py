"""The response cache of two gateway processes that share a Redis, as users of the official SDKs meet it.

Floor: tests only; simulated engines. Each test asks what no other does.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anthropic
import httpx2
import openai
import pytest

from tests.e2e.fleet import running_fleet
from tests.e2e.front import MODEL, WAIT_SECONDS, Front, key, prompt, start_gateway, until
from tests.e2e.replicas import SECRET, Replicas, running_replicas
from tests.e2e.workers import running_crew

TENANTS: dict[str, dict[str, Any]] = {
    "acme": {"cache": {}, "tier": "platinum"},  # whose streams have token ids, which no client sees
    "globex": {"cache": {}},
    "plain": {},
}
CACHE = "x-promptlane-cache"
PATIENT = 3.0
"""Seconds for a Redis that lives, on a machine that is busy: within the default it might be given up."""


@pytest.fixture(scope="module")
def started() -> Iterator[Replicas]:
    with running_replicas(2) as replicas:
        yield replicas


@pytest.fixture
async def replicas(started: Replicas) -> Replicas:
    """Both serve the tenants, and the engine has been asked nothing."""
    for front in started.fronts:
        await configure(front)
    started.engines[0].fault("none")
    started.engines[0].clear()
    return started


async def configure(front: Front) -> None:
    shared = {section: front.config[section] for section in ("state", "replicas", "routing")}
    shared["state"] = shared["state"] | {"cache_timeout": PATIENT}
    await front.reload(front.configuration((0,), tenants=TENANTS, **shared | {"server": front.config["server"]}))
    await until("its engine is well", lambda: healthy(front))


async def healthy(front: Front) -> bool:
    return all(one["healthy"] for one in (await front.state())["endpoints"])


def sdk(front: Front, tenant: str = "acme") -> openai.AsyncOpenAI:
    http = openai.DefaultAsyncHttpxClient(trust_env=False)
    return openai.AsyncOpenAI(base_url=f"{front.url}/v1", api_key=key(tenant), max_retries=0, http_client=http)


async def told(front: Front, question: str, *, tenant: str = "acme", stream: bool = True) -> tuple[str | None, str]:
    """What the cache did, and what the SDK read."""
    async with sdk(front, tenant) as client:
        ask = client.chat.completions.with_raw_response.create
        messages: Any = [{"role": "user", "content": question}]
        fields: dict[str, Any] = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 30}
        raw: Any = await ask(**fields, **({"stream": True} if stream else {}))
        if not stream:
            return raw.headers.get(CACHE), raw.parse().choices[0].message.content
        said = [choice.delta.content or "" async for chunk in raw.parse() for choice in chunk.choices]
        return raw.headers.get(CACHE), "".join(said)


def asked(replicas: Replicas) -> int:
    """How many requests the engine has had."""
    return len(replicas.engines[0].requests())


async def kept(front: Front, count: float, tenant: str = "acme") -> None:
    """Until this process has put in so many answers of the tenant."""

    async def there() -> bool:
        return await front.metric("promptlane_cache_answers_total", tenant=tenant, result="stored") >= count

    await until(f"{count} answers are kept", there)


@asynccontextmanager
async def keeping(front: Front, answers: int = 1, tenant: str = "acme") -> AsyncIterator[None]:
    """What is asked within is kept when it is over."""
    before = await front.metric("promptlane_cache_answers_total", tenant=tenant, result="stored")
    yield
    await kept(front, before + answers, tenant)


@pytest.mark.parametrize("stream", [True, False])
async def test_what_one_replica_was_told_the_other_tells_again(replicas: Replicas, stream: bool) -> None:
    first, second = replicas.fronts
    question = prompt(60)
    async with keeping(first):
        result, said = await told(first, question, stream=stream)
    assert result == "miss"
    assert len(said) > 30
    assert await told(second, question, stream=stream) == ("hit", said)
    assert await told(first, question, stream=stream) == ("hit", said)
    assert asked(replicas) == 1
    state = await second.whole()
    assert state["caches"]["acme"]["store"] == "redis"
    assert state["caches"]["acme"]["hit"] >= 1
    assert await first.metric("promptlane_cache_shared_bytes", tenant="acme") > 0
    assert await first.metric("promptlane_cache_requests_total", tenant="acme", result="hit") >= 1


async def test_a_stream_from_there_has_the_usage_that_was_asked_for_and_an_id_of_its_own(replicas: Replicas) -> None:
    question, ids, usages = prompt(60), [], []
    for front, asks in zip(replicas.fronts * 2, (True, True, False, True), strict=True):
        async with sdk(front) as client:
            options: Any = {"stream_options": {"include_usage": True}} if asks else {}
            messages: Any = [{"role": "user", "content": question}]
            stream = await client.chat.completions.create(
                model=MODEL, messages=messages, temperature=0, max_tokens=20, stream=True, **options
            )
            chunks = [chunk async for chunk in stream]
        assert {chunk.model for chunk in chunks} == {MODEL}
        ids.append({chunk.id for chunk in chunks})
        usages.append([chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None])
        if len(ids) == 1:
            await until("it is kept", lambda: in_redis(replicas, "acme"))
    assert usages == [[20], [20], [], [20]]
    assert [len(one) for one in ids] == [1] * 4
    assert len(set.union(*ids)) == 4
    assert asked(replicas) == 1


async def in_redis(replicas: Replicas, tenant: str) -> bool:
    with replicas.redis.client() as client:
        return bool(client.keys(f"promptlane:{{{tenant}}}:cache:*"))


async def test_anthropics_sdk_reads_a_stream_from_there(replicas: Replicas) -> None:
    first, second = replicas.fronts
    question, said = prompt(60), []
    for front in (first, second):
        http = anthropic.DefaultAsyncHttpxClient(trust_env=False)
        async with anthropic.AsyncAnthropic(
            base_url=front.url, api_key=key("acme"), max_retries=0, http_client=http
        ) as client:
            before = await first.metric("promptlane_cache_answers_total", tenant="acme", result="stored")
            messages: Any = [{"role": "user", "content": question}]
            async with client.messages.stream(
                model=MODEL, max_tokens=20, messages=messages, extra_body={"temperature": 0}
            ) as stream:
                said.append([text async for text in stream.text_stream])
        if front is first:
            await kept(first, before + 1)
    assert "".join(said[0]) == "".join(said[1])
    assert len("".join(said[0])) > 20
    assert asked(replicas) == 1


async def test_no_tenant_gets_what_another_was_told(replicas: Replicas) -> None:
    front, question = replicas.fronts[0], prompt(60)
    async with keeping(front), keeping(front, tenant="globex"):
        assert [(await told(front, question, tenant=one))[0] for one in TENANTS] == ["miss", "miss", None]
    assert [(await told(front, question, tenant=one))[0] for one in TENANTS] == ["hit", "hit", None]
    assert asked(replicas) == 4
    with replicas.redis.client() as client:
        values = {bytes(name): client.get(name) for name in client.keys("promptlane:*:cache:*")}
    assert not [name for name, value in values.items() if question.encode() in name + (value or b"")]


async def test_answers_outlive_the_process_that_kept_them_and_its_engines() -> None:
    with running_replicas(1) as replicas:
        (front,) = replicas.fronts
        await configure(front)
        question = prompt(60)
        async with keeping(front):
            _, said = await told(front, question)
        front.gateway.process.send_signal(signal.SIGTERM)
        front.gateway.process.wait(WAIT_SECONDS)
        gateway = start_gateway(front.config_file, front.config_file.parent, front.ports, SECRET, lambda: None)
        try:
            replicas.engines[0].fault("refuse")
            assert await told(front, question) == ("hit", said)
        finally:
            gateway.stop()


async def test_operators_empty_the_cache_of_one_tenant_for_all_replicas(replicas: Replicas) -> None:
    first, second = replicas.fronts
    question = prompt(60)
    async with keeping(first), keeping(first, tenant="globex"):
        await told(first, question)
        await told(first, question, tenant="globex")
    assert (await told(second, question))[0] == "hit"
    async with httpx2.AsyncClient(base_url=second.admin_url, timeout=60.0, trust_env=False) as operator:
        answer = await operator.post("/admin/cache/purge", params={"tenant": "acme"})
        assert (answer.status_code, answer.json()["tenant"], answer.json()["purged"] >= 1) == (200, "acme", True)
        refused = {
            "plain": (await operator.post("/admin/cache/purge", params={"tenant": "plain"})),
            "nobody": (await operator.post("/admin/cache/purge", params={"tenant": "nobody"})),
            "none": (await operator.post("/admin/cache/purge")),
        }
    found = {name: (one.status_code, one.json()["error"]["code"]) for name, one in refused.items()}
    assert found["plain"] == (409, "cache_off")
    assert found["nobody"][0] == 400
    assert found["none"] == (400, "missing_required_parameter")
    async with keeping(first):
        assert (await told(first, question))[0] == "miss"
    assert (await told(first, question, tenant="globex"))[0] == "hit"


@pytest.mark.parametrize("fault", ["pause", "kill"])
async def test_without_redis_every_request_is_answered_and_with_it_again_from_there(
    replicas: Replicas, fault: str
) -> None:
    front, question = replicas.fronts[0], prompt(60)
    async with keeping(front):
        _, said = await told(front, question)
    getattr(replicas.redis, fault)()
    try:
        for _ in range(6):
            assert await told(front, question) == ("miss", said)
        assert asked(replicas) == 7
        assert await front.metric("promptlane_cache_calls_total", result="skipped") > 0
        assert (await front.whole())["caches"]["acme"]["away"]
        async with httpx2.AsyncClient(base_url=front.admin_url, timeout=60.0, trust_env=False) as operator:
            answer = await operator.post("/admin/cache/purge", params={"tenant": "acme"})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "cache_unavailable")
    finally:
        if fault == "pause":
            replicas.redis.go_on()
        else:
            replicas.redis.start()

    async def again() -> bool:
        return (await told(front, question)) == ("hit", said)

    await until("answers come from there again", again)


async def test_workers_are_emptied_together_and_told_of_as_one() -> None:
    with running_crew(2) as crew:
        await crew.serve((0,), tenants={"acme": {"cache": {"store": "memory"}}})
        await crew.owner()
        question = prompt(60)

        async def both_have_it() -> bool:
            results = [(await told(crew, question))[0] for _ in range(8)]
            entries: int = (await crew.whole())["caches"]["acme"]["entries"]
            return entries == 2 and set(results) == {"hit"}

        await until("each worker keeps the answer for itself", both_have_it)
        assert await crew.metric("promptlane_cache_entries", tenant="acme") == 2
        async with httpx2.AsyncClient(base_url=crew.admin_url, timeout=60.0, trust_env=False) as operator:
            answer = await operator.post("/admin/cache/purge", params={"tenant": "acme"})
            assert (answer.status_code, answer.json()) == (200, {"tenant": "acme", "purged": 2})
            refused = await operator.post("/admin/cache/purge", params={"tenant": "nobody"})
            assert refused.status_code == 400
        assert (await crew.whole())["caches"]["acme"]["entries"] == 0
        assert (await told(crew, question))[0] == "miss"


async def test_a_client_that_leaves_while_it_is_answered_from_there_leaves_nothing_behind(replicas: Replicas) -> None:
    front, question = replicas.fronts[0], prompt(60)
    async with keeping(front):
        await told(front, question)
    await asyncio.gather(*(leave(front, question) for _ in range(10)))
    await front.settled()
    assert (await told(front, question))[0] == "hit"


async def leave(front: Front, question: str) -> None:
    async with front.client() as client:
        messages = [{"role": "user", "content": question}]
        body = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 30, "stream": True}
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            assert answer.headers[CACHE] == "hit"


async def test_a_stream_that_went_on_elsewhere_is_not_kept() -> None:
    with running_fleet(2) as fleet:
        await fleet.serve((0, 1), tenants={"acme": {"cache": {}, "tier": "platinum"}})
        question = prompt(60)
        for engine in fleet.engines:
            engine.fault("die-mid-stream", after_chunks=9, count=1, paths=["/v1/chat/completions"])
        result, said = await told(fleet, question)
        for engine in fleet.engines:
            engine.fault("none")
        assert result == "miss"
        assert await fleet.metric("promptlane_resumes_total", pool=fleet.pool, result="ok") >= 1
        async with keeping(fleet):
            assert await told(fleet, question) == ("miss", said)
        assert await told(fleet, question) == ("hit", said)
        assert await fleet.metric("promptlane_cache_answers_total", result="stored") == 1
