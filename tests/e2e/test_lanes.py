"""In which order requests that wait at the gateway are served, over HTTP: by length, age, lane and tenant; what each is
charged; and that nothing of them is left when all is over.

Floor: tests only. Order is read from what reached the engine, never from a clock.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest

from tests.e2e.bodies import events
from tests.e2e.fleet import LARGE, Fleet, running_fleet
from tests.e2e.front import MODEL, chat, prompt

CHAT = "/v1/chat/completions"
BATCH = {"x-promptlane-lane": "batch"}
ONE_BY_ONE = {"hold_seconds": 0.001}
"""Nothing is sent behind any prompt, however short: two that are sent at once may reach the engine in any order."""
PATIENT = 100
"""κ at which a hundredth of a second of age is worth a second of prefill, so that age shows at once."""


@pytest.fixture(scope="module")
def engines() -> Iterator[Fleet]:
    with running_fleet(1) as running:
        yield running


@pytest.fixture
async def fleet(engines: Fleet) -> AsyncIterator[Fleet]:
    """An engine that is well and has seen nothing; afterwards nothing may be left in the gateway's books."""
    yield engines
    engines.engines[0].fault("none")
    await engines.settled()
    engines.engines[0].clear()


class Line:
    """Clients of one pool whose engine hangs with a large prompt until `go`: all others wait at the gateway."""

    def __init__(self, fleet: Fleet, client: httpx2.AsyncClient) -> None:
        self._fleet = fleet
        self._client = client
        self._tasks: list[asyncio.Task[httpx2.Response]] = []

    async def block(self) -> None:
        self._fleet.engines[0].fault("hang")
        self._add(self._client, LARGE, {})
        await self._fleet.until_in_flight(1)

    async def wait(
        self, *sizes: int, client: httpx2.AsyncClient | None = None, headers: dict[str, str] | None = None
    ) -> None:
        """One more for each size, one after the other."""
        for size in sizes:
            self._add(client or self._client, size, headers or {})
            await self._fleet.until_waiting(len(self._tasks) - 1)

    def _add(self, client: httpx2.AsyncClient, size: int, headers: dict[str, str]) -> None:
        sent = client.post(CHAT, json=chat(size, stream=True, max_tokens=1), headers=headers)
        self._tasks.append(asyncio.create_task(sent))

    async def go(self) -> list[int]:
        """The sizes in the order in which the engine got them, all answered; without the first."""
        self._fleet.engines[0].fault("none")
        answers = await asyncio.gather(*self._tasks)
        assert {answer.status_code for answer in answers} == {200}
        return self._fleet.sizes()[1:]


# Order


async def test_short_prompts_overtake_long_ones(fleet: Fleet) -> None:
    await fleet.serve(routing=ONE_BY_ONE)
    async with fleet.client() as client:
        line = Line(fleet, client)
        await line.block()
        await line.wait(20_000, 1000, 15_000, 100, 10_000)
        assert await line.go() == [100, 1000, 10_000, 15_000, 20_000]


async def test_who_has_waited_long_is_not_overtaken_for_ever(fleet: Fleet) -> None:
    await fleet.serve(routing={"ageing": PATIENT, **ONE_BY_ONE})
    async with fleet.client() as client:
        line = Line(fleet, client)
        await line.block()
        await line.wait(10_000, 100, 200, 300)
        assert await line.go() == [10_000, 100, 200, 300]


async def test_batch_requests_wait_for_the_others_even_when_they_are_shorter(fleet: Fleet) -> None:
    await fleet.serve(routing=ONE_BY_ONE, lanes={"batch": {"min_share": 0}})
    async with fleet.client() as client:
        line = Line(fleet, client)
        await line.block()
        await line.wait(100, 200, headers=BATCH)
        await line.wait(8000, 5000)
        assert await fleet.metric("promptlane_waiting", pool=fleet.pool, lane="batch") == 2
        assert await line.go() == [5000, 8000, 100, 200]


async def test_a_batch_lane_that_holds_less_than_its_minimum_is_level_with_the_others(fleet: Fleet) -> None:
    await fleet.serve(routing=ONE_BY_ONE, lanes={"batch": {"min_share": 0.001}})
    async with fleet.client() as client:
        line = Line(fleet, client)
        await line.block()
        await line.wait(600, 700, headers=BATCH)
        await line.wait(8000, 5000)
        order = await line.go()
    assert order[0] == 600
    assert order.index(700) > 1, "with one in flight it has its minimum"


async def test_a_better_tier_goes_first(fleet: Fleet) -> None:
    await fleet.serve(tenants={"acme": {"tier": "silver"}, "globex": {"tier": "platinum"}}, routing=ONE_BY_ONE)
    async with fleet.client("acme") as silver, fleet.client("globex") as platinum:
        line = Line(fleet, silver)
        await line.block()
        await line.wait(2000, 2100)
        await line.wait(2200, client=platinum)
        assert (await line.go())[0] == 2200


async def test_a_flood_of_one_tenant_does_not_hold_up_another(fleet: Fleet) -> None:
    """Their requests are alike, so by age alone the second tenant's would come last."""
    await fleet.serve(tenants={"flood": {}, "single": {}}, routing=ONE_BY_ONE)
    async with fleet.client("flood") as flood, fleet.client("single") as single:
        line = Line(fleet, flood)
        await line.block()
        await line.wait(*[6000] * 16)
        await line.wait(6001, client=single)
        order = await line.go()
    assert order.index(6001) <= 6


# What is charged, what is shown


async def test_usage_that_only_the_gateway_asked_for_is_not_shown_and_limits_are_settled_by_it(fleet: Fleet) -> None:
    limit = 200_000
    await fleet.serve(tenants={"acme": {"limits": {"tokens_per_minute": limit}}})
    async with fleet.client() as client:
        line = Line(fleet, client)
        await line.block()
        asked = asyncio.create_task(client.post(CHAT, json=chat(2000, stream=True, max_tokens=50_000)))
        await fleet.until_waiting(1)
        await line.go()
        seen = events((await asked).content)
        assert all("usage" not in event for event in seen)
        assert all(event["choices"] for event in seen)
        assert all(body["stream_options"] == {"include_usage": True} for body in fleet.seen())
        before = await fleet.metric("promptlane_completion_tokens_total", tenant="acme")
        answer = await client.post(CHAT, json=chat(100))
    assert before >= 64, "the answers' length is known all the same"
    left = int(answer.headers["x-ratelimit-remaining-tokens"])
    assert left > limit - 1.1 * (LARGE + 2000 + 64 + 100), "50,000 were reserved for an answer of 64"


async def test_where_nothing_is_held_engines_get_a_priority_that_puts_shorter_prompts_first(fleet: Fleet) -> None:
    await fleet.serve(routing={"hold": False})
    async with fleet.client() as client:
        fleet.engines[0].fault("hang")
        asked = {"x-vllm-priority": "-99"}
        tasks = [
            asyncio.create_task(client.post(CHAT, json=chat(size, priority=-99), headers=asked))
            for size in (20_000, 5000, 100)
        ]
        await fleet.until_in_flight(3)
        await fleet.until_waiting(0)
        fleet.engines[0].fault("none")
        assert {answer.status_code for answer in await asyncio.gather(*tasks)} == {200}
    requests = fleet.engines[0].requests()
    bodies = [json.loads(one["body"]) for one in requests]
    headers = [[value for name, value in one["headers"] if name == "x-vllm-priority"] for one in requests]
    assert [[str(body["priority"])] for body in bodies] == headers
    by_size = {len(body["messages"][-1]["content"]) // 4: body["priority"] for body in bodies}
    assert by_size[100] < by_size[5000] < by_size[20_000]


async def test_requests_that_generate_nothing_are_held_too(fleet: Fleet) -> None:
    await fleet.serve()
    async with fleet.client() as client:
        line = Line(fleet, client)
        await line.block()
        texts = [prompt(100) for _ in range(3)]
        tasks = [
            asyncio.create_task(client.post("/v1/embeddings", json={"model": MODEL, "input": text})) for text in texts
        ]
        await fleet.until_waiting(3)
        fleet.engines[0].fault("none")
        assert [answer.status_code for answer in await asyncio.gather(*tasks)] == [200] * 3
