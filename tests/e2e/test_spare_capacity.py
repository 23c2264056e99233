"""What a pool does with too little room and with room to spare: overflow, copies to keep a standby warm, no flapping,
and who is refused first.

Floor: tests only; engines hang, so that what is in flight and what waits stands still while it is looked at.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.fleet import LARGE, Fleet, anew, running_fleet
from tests.e2e.front import HEALTH, chat, prompt, until

CHAT = "/v1/chat/completions"
BATCH = {"x-promptlane-lane": "batch"}
SHORT, LONG = 50, 5000

Answers = list[asyncio.Task[httpx2.Response]]


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    with running_fleet(2) as running:
        yield running


@pytest.fixture
async def fleet(engines: Fleet) -> AsyncIterator[Fleet]:
    async with anew(engines):
        yield engines


def hot_and_warm(fleet: Fleet, seats: int = 256, **standby: Any) -> dict[str, Any]:
    """A pool of both engines, the second one a standby."""
    endpoints = [
        {"name": f"e{number}", "url": fleet.engines[number].url, "role": role, "max_in_flight": seats}
        for number, role in enumerate(("hot", "warm"))
    ]
    return {"endpoints": endpoints, "health": HEALTH, "standby": standby}


def ask(client: httpx2.AsyncClient, tokens: int = SHORT, **headers: str) -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(client.post(CHAT, json=chat(tokens, stream=True), headers=headers))


async def in_flight(fleet: Fleet) -> list[int]:
    return [one["in_flight"] for one in (await fleet.state())["endpoints"]]


def go_on(fleet: Fleet) -> None:
    for engine in fleet.engines:
        engine.fault("none")


async def statuses(tasks: Answers) -> set[int]:
    return {answer.status_code for answer in await asyncio.gather(*tasks)}


# -- overflow


@pytest.mark.parametrize(("overflow", "helped"), [({"share": 0.2}, 2), ({"share": 0.5}, 8), (None, 0)])
async def test_a_warm_endpoint_takes_its_share_of_what_the_full_hot_one_cannot(
    fleet: Fleet, overflow: dict[str, float] | None, helped: int
) -> None:
    await fleet.serve((0, 1), pool=hot_and_warm(fleet, seats=8, overflow=overflow))
    for engine in fleet.engines:
        engine.fault("hang")
    async with fleet.client() as client:
        tasks = [ask(client) for _ in range(20)]
        await fleet.until_waiting(12 - helped)
        assert await in_flight(fleet) == [8, helped]
        go_on(fleet)
        assert await statuses(tasks) == {200}


async def test_while_the_hot_endpoint_has_room_the_warm_one_gets_nothing(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool=hot_and_warm(fleet, seats=8, overflow={"share": 0.5}))
    fleet.engines[0].fault("hang")
    async with fleet.client() as client:
        tasks = [ask(client) for _ in range(7)]
        await fleet.until_in_flight(7, "e0")
        assert fleet.seen(1) == []
        go_on(fleet)
        assert await statuses(tasks) == {200}


# -- copies


async def test_copies_keep_a_standby_warm_and_are_answered_to_nobody_and_billed_to_nobody(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool=hot_and_warm(fleet, mirror={"share": 1.0}))
    before = {name: await fleet.metric(name, tenant="acme") for name in BILLED}
    text = prompt(2000)
    async with fleet.client() as client:
        first = await client.post(CHAT, json=chat(text=text, max_tokens=8, ignore_eos=True))
        await until_copied(fleet, 1)
        (sent,), (copy,) = fleet.seen(0), fleet.seen(1)
        after = {name: await fleet.metric(name, tenant="acme") for name in BILLED}
        fleet.engines[0].fault("refuse")
        second = await client.post(CHAT, json=chat(text=text, max_tokens=8, ignore_eos=True))
    assert (copy["messages"], copy["cache_salt"], copy["max_tokens"]) == (sent["messages"], sent["cache_salt"], 1)
    assert first.headers["x-promptlane-endpoint"] == "e0"
    assert first.json()["usage"]["completion_tokens"] == 8
    assert [after[name] - before[name] for name in BILLED] == [1, first.json()["usage"]["prompt_tokens"], 8]
    assert second.headers["x-promptlane-endpoint"] == "e1"
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] > 1500, "it knew the prompt already"


BILLED = ("promptlane_requests_total", "promptlane_prompt_tokens_total", "promptlane_completion_tokens_total")


async def until_copied(fleet: Fleet, count: int) -> None:
    async def there() -> bool:
        return await fleet.metric("promptlane_mirrored_total", pool=fleet.pool, result="answered") == count

    await until(f"{count} copies are answered", there)


async def test_a_standby_that_hangs_with_its_copies_is_waited_for_by_nobody(fleet: Fleet) -> None:
    await fleet.serve((0, 1), pool=hot_and_warm(fleet, mirror={"share": 1.0, "max_in_flight": 2}))
    fleet.engines[1].fault("hang")
    async with fleet.client() as client:
        answers = [await client.post(CHAT, json=chat()) for _ in range(10)]
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-promptlane-endpoint"] for answer in answers} == {"e0"}
    assert len(fleet.seen(1)) <= 2
    assert await fleet.metric("promptlane_mirrored_total", pool=fleet.pool, result="skipped") == 8


# -- flapping


async def test_after_too_many_failovers_the_standby_keeps_the_work_though_the_hot_endpoint_is_well(
    fleet: Fleet,
) -> None:
    standby = {"calm_seconds": 0.3, "max_failovers": 2, "failover_window": 600.0}
    await fleet.serve((0, 1), pool=hot_and_warm(fleet, **standby))
    async with fleet.client() as client:
        for what, value in (("level", "hot"), ("stays", True)):
            fleet.engines[0].fault("refuse")
            assert (await client.post(CHAT, json=chat())).headers["x-promptlane-endpoint"] == "e1"
            await until_standby(fleet, "level", "warm")
            fleet.engines[0].fault("none")
            await until_standby(fleet, what, value)
        assert (await fleet.endpoint("e0"))["healthy"]
        answers = [await client.post(CHAT, json=chat()) for _ in range(5)]
    assert {answer.headers["x-promptlane-endpoint"] for answer in answers} == {"e1"}
    assert "it has failed over 2 times within 600 s" in fleet.gateway.log.read_text()


async def until_standby(fleet: Fleet, what: str, value: object) -> None:
    async def there() -> bool:
        return bool((await fleet.state())["standby"][what] == value)

    await until(f"{what} is {value}", there)


# -- who is refused first


async def held(fleet: Fleet, client: httpx2.AsyncClient, requests: int) -> Answers:
    """Behind a large prompt that hangs, so many short requests that wait."""
    fleet.engines[0].fault("hang")
    tasks = [ask(client, LARGE)]
    await fleet.until_in_flight(1)
    tasks += [ask(client) for _ in range(requests)]
    await fleet.until_waiting(requests)
    return tasks


async def test_batch_is_refused_first_then_long_prompts_and_short_ones_last(fleet: Fleet) -> None:
    await fleet.serve((0,), lanes={"short": {"max_waiting": 20}})
    async with fleet.client() as client:
        tasks = await held(fleet, client, 17)
        tasks += [ask(client, **BATCH), ask(client, LONG)]
        await fleet.until_waiting(19)
        tasks.append(ask(client))
        await fleet.until_waiting(20)  # of them 18 short
        refused = [await client.post(CHAT, json=chat(), headers=BATCH)]
        tasks.append(ask(client, LONG))
        await fleet.until_waiting(21)
        tasks.append(ask(client))
        await fleet.until_waiting(22)  # 19 short
        refused.append(await client.post(CHAT, json=chat(LONG)))
        tasks.append(ask(client))
        await fleet.until_waiting(23)  # 20 short
        refused.append(await client.post(CHAT, json=chat()))
        go_on(fleet)
        assert await statuses(tasks) == {200}
    assert [answer.status_code for answer in refused] == [429, 429, 429]
    assert all(float(answer.headers["retry-after"]) >= 1 for answer in refused)


async def test_who_is_of_a_better_tier_takes_the_place_of_the_last_of_a_worse_one(fleet: Fleet) -> None:
    tenants = {"acme": {"tier": "silver"}, "globex": {"tier": "platinum"}}
    await fleet.serve((0,), tenants=tenants, lanes={"short": {"max_waiting": 3}}, routing={"hold_seconds": 0.001})
    async with fleet.client("acme") as silver, fleet.client("globex") as platinum:
        tasks = await held(fleet, silver, 2)
        last = ask(silver, 400)
        await fleet.until_waiting(3)
        better = ask(platinum, 300)
        answer = await last
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert float(answer.headers["retry-after"]) >= 1
        await fleet.until_waiting(3)
        go_on(fleet)
        assert await statuses([*tasks, better]) == {200}
    assert fleet.sizes(0)[1] == 300, "and it goes first"
    assert 400 not in fleet.sizes(0)
