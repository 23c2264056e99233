"""Requests that wait at the gateway, over HTTP: who is served, what the others are told, and what an engine's death,
silence or return, a reload and the end of the process do to them.

Floor: tests only. An engine that hangs is how a request is made to wait for as long as a test likes.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import openai
import pytest

from tests.e2e.fleet import LARGE, Fleet, running_fleet
from tests.e2e.front import MODEL, chat, key, prompt, until

CHAT = "/v1/chat/completions"
SMALL = 100
WHOLE_OR_STREAM = pytest.mark.parametrize("stream", [True, False], ids=["streams", "answers in one piece"])


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    with running_fleet(2) as running:
        yield running


@pytest.fixture
async def fleet(engines: Fleet) -> AsyncIterator[Fleet]:
    """Engines that are well and have seen nothing; afterwards nothing may be left in the gateway's books."""
    yield engines
    for engine in engines.engines:
        engine.fault("none")
    await engines.settled()
    for engine in engines.engines:
        engine.clear()


Answers = list[asyncio.Task[httpx2.Response]]


def ask(client: httpx2.AsyncClient, tokens: int = SMALL, **fields: Any) -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(client.post(CHAT, json=chat(tokens, **fields)))


async def hold(fleet: Fleet, client: httpx2.AsyncClient, *sizes: int, stream: bool = True) -> Answers:
    """An engine that hangs with a large prompt, and requests that wait behind it, in this order."""
    fleet.engines[0].fault("hang")
    tasks = [ask(client, LARGE, stream=True)]
    await fleet.until_in_flight(1)
    for size in sizes:
        tasks.append(ask(client, size, stream=stream))
        await fleet.until_waiting(len(tasks) - 1)
    return tasks


async def statuses(tasks: Answers) -> list[int]:
    return [answer.status_code for answer in await asyncio.gather(*tasks)]


# What a first token does


async def test_a_held_request_is_answered_while_the_one_before_it_still_generates(fleet: Fleet) -> None:
    await fleet.serve()
    order: list[str] = []

    async def watch(client: httpx2.AsyncClient, name: str, tokens: int, output: int) -> None:
        async with client.stream(
            "POST", CHAT, json=chat(tokens, max_tokens=output, stream=True, ignore_eos=True)
        ) as it:
            async for _ in it.aiter_bytes():
                if f"{name} begins" not in order:
                    order.append(f"{name} begins")
        order.append(f"{name} ends")

    async with fleet.client() as client:
        fleet.engines[0].fault("hang")
        first = asyncio.create_task(watch(client, "first", LARGE, 60_000))
        await fleet.until_in_flight(1)
        second = asyncio.create_task(watch(client, "second", SMALL, 2))
        await fleet.until_waiting(1)
        assert len(fleet.seen()) == 1, "the engine knows nothing of what is held"
        fleet.engines[0].fault("none")
        await second
        assert order == ["first begins", "second begins", "second ends"]
        first.cancel()


async def test_a_response_that_is_only_created_has_no_first_token_yet(fleet: Fleet) -> None:
    """vLLM tells so at once, before the prompt is computed; what waits would be sent too early, and it would look as if
    the engine computed prompts in no time."""
    await fleet.serve(pool={"hold_back_seconds": 0})
    body = {"model": MODEL, "input": prompt(LARGE), "max_output_tokens": 2, "stream": True}
    async with fleet.client() as client:
        fleet.engines[0].fault("slow", factor=100.0)
        async with client.stream("POST", "/v1/responses", json=body) as first:
            pieces = first.aiter_bytes()
            assert b"response.created" in await anext(pieces)
            waiting = ask(client)
            await fleet.until_waiting(1)
            assert (await fleet.endpoint("e0"))["pending_prefill_seconds"] > 1
        fleet.engines[0].fault("none")
        assert (await waiting).status_code == 200


# Who leaves


async def test_a_client_that_leaves_while_held_is_gone_from_queue_limits_and_metrics_and_reaches_no_engine(
    fleet: Fleet,
) -> None:
    limits = {"concurrency": 2, "tokens_per_minute": 1_000_000}
    await fleet.serve(tenants={"acme": {"limits": limits}})
    before = await fleet.metric("promptlane_requests_total", tenant="acme", status="499")
    async with fleet.client() as client:
        first, leaves = await hold(fleet, client, 5000)
        refused = await client.post(CHAT, json=chat())
        assert refused.status_code == 429, "both of the tenant's places are taken"
        remaining = int(refused.headers["x-ratelimit-remaining-tokens"])
        leaves.cancel()
        await fleet.until_waiting(0)
        stays = ask(client)
        await fleet.until_waiting(1)
        again = await client.post(CHAT, json=chat())
        assert again.status_code == 429
        assert int(again.headers["x-ratelimit-remaining-tokens"]) > remaining + 4000, "what it had reserved is back"
        fleet.engines[0].fault("none")
        assert await statuses([first, stays]) == [200, 200]
    assert fleet.sizes() == [LARGE, SMALL]
    assert await fleet.metric("promptlane_requests_total", tenant="acme", status="499") == before + 1


@WHOLE_OR_STREAM
async def test_of_many_that_leave_at_once_nothing_is_left(fleet: Fleet, stream: bool) -> None:
    await fleet.serve((0, 1))
    async with fleet.client() as client:
        for engine in fleet.engines:
            engine.fault("hang")
        tasks = [ask(client, LARGE, stream=stream) for _ in range(2)]
        await fleet.until_in_flight(2)
        tasks += [ask(client, 3000, stream=stream) for _ in range(30)]
        for task in tasks[1:]:
            task.cancel()
        await fleet.until_in_flight(1)
        await fleet.until_waiting(0)
        for engine in fleet.engines:
            engine.fault("none")
        assert await statuses(tasks[:1]) == [200]


# No room and no time


@pytest.mark.parametrize("status", [429, 503])
async def test_a_full_queue_says_so_and_when_to_come_back(fleet: Fleet, status: int) -> None:
    await fleet.serve(lanes={"long": {"max_waiting": 2, "when_full": status}})
    async with fleet.client() as client:
        tasks = await hold(fleet, client, 5000, 5000)
        answer = await client.post(CHAT, json=chat(5000))
        assert answer.status_code == status
        error = answer.json()["error"]
        codes = {429: ("requests", "rate_limit_exceeded"), 503: ("overloaded_error", "queue_full")}
        assert (error["type"], error["code"]) == codes[status]
        assert 1 <= float(answer.headers["retry-after"]) <= 300
        short = ask(client, SMALL)
        await fleet.until_waiting(3)
        assert not short.done(), "another lane has a queue of its own"
        fleet.engines[0].fault("none")
        assert await statuses([*tasks, short]) == [200] * 4
    assert await fleet.metric("promptlane_rejections_total", tenant="acme", reason=codes[status][1]) >= 1


async def test_where_short_prompts_find_no_room_to_wait_long_ones_find_none_either(fleet: Fleet) -> None:
    """Each would take the time of many short ones."""
    await fleet.serve(lanes={"short": {"max_waiting": 2}})
    async with fleet.client() as client:
        tasks = await hold(fleet, client, SMALL, SMALL)
        assert [(await client.post(CHAT, json=chat(size))).status_code for size in (SMALL, 5000)] == [429, 429]
        fleet.engines[0].fault("none")
        assert await statuses(tasks) == [200] * 3


async def test_the_longer_the_queue_the_later_a_client_is_to_come_back(fleet: Fleet) -> None:
    seconds = []
    for bound in (3, 12):
        await fleet.serve(lanes={"short": {"max_waiting": bound}})
        async with fleet.client() as client:
            tasks = await hold(fleet, client, *[SMALL] * bound)
            seconds.append(float((await client.post(CHAT, json=chat())).headers["retry-after"]))
            fleet.engines[0].fault("none")
            assert set(await statuses(tasks)) == {200}
    assert seconds[0] < seconds[1]


async def test_openais_sdk_comes_back_when_told_and_is_served(fleet: Fleet) -> None:
    await fleet.serve(lanes={"short": {"max_waiting": 1}})
    async with fleet.client() as client:
        tasks = await hold(fleet, client, SMALL)
        http = openai.DefaultAsyncHttpxClient(trust_env=False)
        sdk = openai.AsyncOpenAI(base_url=f"{fleet.url}/v1", api_key=key("acme"), max_retries=3, http_client=http)
        before = await fleet.metric("promptlane_rejections_total", reason="rate_limit_exceeded")
        asked = asyncio.create_task(sdk.chat.completions.create(**chat()))

        async def refused() -> bool:
            return await fleet.metric("promptlane_rejections_total", reason="rate_limit_exceeded") > before

        await until("the SDK has been refused", refused)
        fleet.engines[0].fault("none")
        assert (await asked).choices[0].message.content
        assert await statuses(tasks) == [200, 200]
        await sdk.close()


async def test_who_waits_until_its_deadline_is_told_that_there_was_no_room(fleet: Fleet) -> None:
    await fleet.serve(lanes={"short": {"max_wait": 0.2}})
    async with fleet.client() as client:
        fleet.engines[0].fault("hang")
        first = ask(client, LARGE)
        await fleet.until_in_flight(1)
        answer = await client.post(CHAT, json=chat())
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "deadline_exceeded")
        assert float(answer.headers["retry-after"]) >= 1
        fleet.engines[0].fault("none")
        assert (await first).status_code == 200


# Engines that die, hang and come back


async def test_when_the_only_engine_dies_who_is_held_is_told_at_once(fleet: Fleet) -> None:
    await fleet.serve()
    async with fleet.client() as client:
        tasks = await hold(fleet, client, *[SMALL] * 6)
        fleet.engines[0].fault("refuse")
        answers = await asyncio.gather(*tasks)
        fleet.engines[0].fault("none")
    codes = {answer.json()["error"]["code"] for answer in answers}
    assert {answer.status_code for answer in answers} <= {502, 503}
    assert codes <= {"engine_closed", "engine_unreachable", "no_endpoint"}
    assert all("127.0.0.1" not in answer.text for answer in answers), "no client is told where engines are"


@WHOLE_OR_STREAM
async def test_when_one_of_two_dies_what_it_had_and_what_was_held_goes_to_the_other(fleet: Fleet, stream: bool) -> None:
    await fleet.serve((0, 1))
    async with fleet.client() as client:
        for engine in fleet.engines:
            engine.fault("hang")
        tasks = [ask(client, LARGE, stream=stream) for _ in range(2)]
        await fleet.until_in_flight(2)
        tasks += [ask(client, SMALL, stream=stream) for _ in range(6)]
        if stream:
            await fleet.until_waiting(6)
        fleet.engines[0].fault("refuse")
        fleet.engines[1].fault("none")
        answers = await asyncio.gather(*tasks)
        fleet.engines[0].fault("none")
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-promptlane-endpoint"] for answer in answers} == {"e1"}


async def test_an_engine_that_comes_back_serves_who_is_held(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool={"retries": 0})
    fleet.engines[1].fault("refuse")

    async def gone() -> bool:
        return not (await fleet.endpoint("e1"))["healthy"]

    await until("the second engine is seen to be down", gone)
    async with fleet.client() as client:
        tasks = await hold(fleet, client, SMALL, SMALL)
        fleet.engines[1].fault("none")
        answers = await asyncio.gather(*tasks[1:])
        assert {answer.headers["x-promptlane-endpoint"] for answer in answers} == {"e1"}
        fleet.engines[0].fault("none")
        assert await statuses(tasks[:1]) == [200]


@WHOLE_OR_STREAM
async def test_beside_an_engine_that_hangs_others_still_serve(fleet: Fleet, stream: bool) -> None:
    await fleet.serve((0, 1))
    async with fleet.client() as client:
        fleet.engines[0].fault("hang")
        tasks = [ask(client, 2000, stream=stream) for _ in range(60)]

        async def served() -> bool:
            state = await fleet.state()
            idle = {one["name"] for one in state["endpoints"] if not one["in_flight"]}
            return state["waiting"] == 0 and idle == {"e1"}

        await until("nobody is held for the one that hangs, and the other has answered all of its own", served)
        # How many went to the first before its silence was noticed depends on how fast the machine is.
        assert sum(task.done() for task in tasks) >= 20
        fleet.engines[0].fault("none")
        assert set(await statuses(tasks)) == {200}


async def test_what_is_held_for_an_engine_that_hangs_goes_elsewhere(fleet: Fleet) -> None:
    """All of them begin as a prompt that only the first engine has in its cache."""
    await fleet.serve((0, 1))
    begin = prompt(8000)
    async with fleet.client() as client:
        home = (await client.post(CHAT, json=chat(text=begin))).headers["x-promptlane-endpoint"]
        fleet.engines[int(home[1])].fault("hang")
        first = ask(client, text=begin + prompt(9000), stream=True)
        await fleet.until_in_flight(1)
        held = [ask(client, text=begin + prompt(SMALL), stream=True) for _ in range(3)]
        await fleet.until_waiting(3)
        answers = await asyncio.gather(*held)
        assert home not in {answer.headers["x-promptlane-endpoint"] for answer in answers}
        assert not first.done()
        fleet.engines[int(home[1])].fault("none")
        assert (await first).status_code == 200


# Reloads and the end of the process


async def test_a_reload_loses_nobody_who_is_held(fleet: Fleet) -> None:
    await fleet.serve()
    async with fleet.client() as client:
        tasks = await hold(fleet, client, SMALL, 3000, SMALL)
        for window in (32, 16):
            await fleet.reload(fleet.configuration(routing={"window": window}))
        tasks.append(ask(client))
        await fleet.until_in_flight(1)
        fleet.engines[0].fault("none")
        assert await statuses(tasks) == [200] * 5
    assert sorted(fleet.sizes()) == [SMALL, SMALL, SMALL, 3000, LARGE]


async def test_after_a_reload_to_no_holding_nobody_waits_any_more(fleet: Fleet) -> None:
    await fleet.serve()
    async with fleet.client() as client:
        tasks = await hold(fleet, client, SMALL, SMALL)
        await fleet.reload(fleet.configuration(routing={"hold": False}))
        tasks.append(ask(client))
        await fleet.until_in_flight(4)
        fleet.engines[0].fault("none")
        assert await statuses(tasks) == [200] * 4


@pytest.mark.parametrize("grace", [20, 1])
async def test_a_process_that_is_told_to_end_serves_who_is_held_or_tells_them(engines: Fleet, grace: int) -> None:
    with running_fleet(1, grace=grace) as fleet:
        await fleet.serve()
        async with fleet.client() as client:
            tasks = await hold(fleet, client, SMALL, SMALL)
            fleet.gateway.process.send_signal(signal.SIGTERM)
            if grace > 1:
                fleet.engines[0].fault("none")
            answers = await asyncio.gather(*tasks)
            if grace > 1:
                assert [answer.status_code for answer in answers] == [200] * 3
            else:
                assert [answer.status_code for answer in answers] == [503] * 3
                assert {answer.json()["error"]["code"] for answer in answers} == {"shutting_down"}
        assert await asyncio.to_thread(fleet.gateway.process.wait, 90) == 0
        assert "Traceback" not in fleet.gateway.log_tail()
