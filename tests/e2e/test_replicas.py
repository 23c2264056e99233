"""Three gateway processes, one queue: who decides, and what the death of any of them, or of Redis, does to requests.

Floor: tests only; real processes, sockets and a real Redis, simulated engines.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import httpx2
import pytest

from tests.e2e.fleet import HELD, LARGE, SLOW
from tests.e2e.front import Front, chat, until
from tests.e2e.replicas import Replicas, running_replicas, streamed
from tests.servers import free_port

CHAT = "/v1/chat/completions"
LONG_ANSWER = 150  # tokens: three seconds of stream, and those of an engine that is held


@pytest.fixture
def trio(request: pytest.FixtureRequest) -> Iterator[Replicas]:
    with running_replicas(3, endpoint=getattr(request, "param", None), **SLOW) as running:
        yield running


@pytest.fixture
async def clients(trio: Replicas) -> AsyncIterator[dict[int, httpx2.AsyncClient]]:
    """A client of each replica, by the identity of its front."""
    async with AsyncExitStack() as stack:
        yield {id(front): await stack.enter_async_context(front.client()) for front in trio.fronts}


Clients = dict[int, httpx2.AsyncClient]


async def ready(trio: Replicas) -> tuple[Front, list[Front]]:
    for front in trio.fronts:
        await until("every endpoint is healthy", lambda front=front: front._all_healthy(len(trio.engines)))
    return await trio.settled()


def stream(client: httpx2.AsyncClient, tokens: int = 16, output: int = LONG_ANSWER) -> asyncio.Task[str]:
    return asyncio.create_task(streamed(client, chat(tokens, max_tokens=output, ignore_eos=True)))


# One seat, or those sent together would reach the engine in the order of their ways there.
@pytest.mark.parametrize("trio", [{"max_in_flight": 1}], indirect=True, ids=["one seat"])
async def test_requests_of_all_replicas_wait_in_one_queue_the_shortest_first(trio: Replicas, clients: Clients) -> None:
    owner, (one, other) = await ready(trio)
    trio.engines[0].fault("hang")
    behind = [asyncio.create_task(clients[id(one)].post(CHAT, json=chat(LARGE, stream=True)))]
    await owner.until_in_flight(1)
    for count, (front, size) in enumerate(
        [(one, 20_000), (other, 5_000), (owner, 10_000), (other, 15_000), (one, 100)], 1
    ):
        behind.append(asyncio.create_task(clients[id(front)].post(CHAT, json=chat(size))))
        await owner.until_waiting(count)
    assert [await front.metric("promptlane_waiting") for front in (one, other)] == [0, 0]
    trio.engines[0].fault("none")
    assert [answer.status_code for answer in await asyncio.gather(*behind)] == [200] * 6
    assert trio.sizes() == [LARGE, 100, 5_000, 10_000, 15_000, 20_000]
    await trio.all_at_rest()


async def test_every_replica_knows_of_the_requests_of_all_where_it_decides_and_of_its_own_where_not(
    trio: Replicas, clients: Clients
) -> None:
    owner, (one, other) = await ready(trio)
    trio.engines[0].fault("slow", factor=HELD)
    streams = [stream(clients[id(front)]) for front in (owner, one, one, other)]
    await owner.until_in_flight(4)
    assert [sum(e["in_flight"] for e in (await front.state())["endpoints"]) for front in (one, other)] == [2, 1]
    assert (await trio.part(owner))["seats_of_followers"] == 3
    trio.engines[0].fault("none")
    await asyncio.gather(*streams)
    await trio.all_at_rest()


async def test_a_replica_at_which_a_pools_requests_come_in_becomes_its_owner(trio: Replicas, clients: Clients) -> None:
    """As behind an ingress that hashes by host."""
    _, (one, _) = await ready(trio)

    async def leads() -> bool:
        answer = await clients[id(one)].post(CHAT, json=chat(max_tokens=1))
        assert answer.status_code == 200
        return (await trio.part(one))["part"] == "leads"

    await until("the replica that gets the requests owns the pool", leads)
    assert await one.metric("promptlane_replica_decisions_total", by="follows") >= 60
    part = await trio.part(one)
    assert part["home"] == part["owner"] == await trio.name(one)
    await clients[id(one)].post(CHAT, json=chat(max_tokens=1))
    assert await one.metric("promptlane_replica_decisions_total", by="leads") >= 1
    await trio.all_at_rest()


async def test_a_client_that_leaves_while_it_waits_at_the_owner_leaves_nothing_there(
    trio: Replicas, clients: Clients
) -> None:
    owner, (one, _) = await ready(trio)
    trio.engines[0].fault("hang")
    first = asyncio.create_task(clients[id(one)].post(CHAT, json=chat(LARGE, stream=True)))
    await owner.until_in_flight(1)
    second = asyncio.create_task(clients[id(one)].post(CHAT, json=chat(100)))
    await owner.until_waiting(1)
    for task in (first, second):
        task.cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    await trio.all_at_rest()


async def test_the_owners_death_loses_no_request_of_the_others(trio: Replicas, clients: Clients) -> None:
    owner, followers = await ready(trio)
    trio.engines[0].fault("slow", factor=HELD)
    streams = [stream(clients[id(front)]) for front in followers for _ in range(3)]
    lost = [stream(clients[id(owner)]) for _ in range(2)]
    await owner.until_in_flight(8)
    trio.engines[0].fault("hang", factor=HELD)
    waiting = [asyncio.create_task(clients[id(followers[0])].post(CHAT, json=chat(LARGE, stream=True)))]
    await owner.until_in_flight(9)
    waiting += [asyncio.create_task(clients[id(front)].post(CHAT, json=chat(100))) for front in followers * 3]
    await owner.until_waiting(6)
    trio.kill(owner)
    began = time.monotonic()
    trio.engines[0].fault("none")
    await trio.led()
    print(f"a new owner after {time.monotonic() - began:.2f} s")  # about 2 on a machine that is not busy
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 7
    await asyncio.gather(*streams)
    await asyncio.gather(*lost, return_exceptions=True)
    await trio.all_at_rest()


async def test_a_follower_that_dies_gives_back_its_seats(trio: Replicas, clients: Clients) -> None:
    owner, (one, other) = await ready(trio)
    trio.engines[0].fault("slow", factor=HELD)
    lost = [stream(clients[id(one)]) for _ in range(3)]
    kept = [stream(clients[id(other)])]
    await owner.until_in_flight(4)
    trio.kill(one)
    await asyncio.gather(*lost, return_exceptions=True)
    await owner.until_in_flight(1)
    trio.engines[0].fault("none")
    await asyncio.gather(*kept)
    await trio.all_at_rest()


async def test_redis_may_die_and_come_back_empty(trio: Replicas, clients: Clients) -> None:
    owner, _ = await ready(trio)
    term = (await trio.part(owner))["term"]
    trio.engines[0].fault("slow", factor=HELD)
    streams = [stream(clients[id(front)]) for front in trio.fronts]
    await owner.until_in_flight(3)
    trio.redis.kill()
    for front in trio.fronts:

        async def noticed(front: Front = front) -> bool:
            async with httpx2.AsyncClient(base_url=front.admin_url, timeout=60.0, trust_env=False) as operator:
                rows = (await operator.get("/metrics")).text.splitlines()
            found = [row for row in rows if row.startswith("promptlane_replica_store_failures_total")]
            return bool(found) and float(found[0].split()[-1]) > 8  # two seconds, longer than a lease

        await until("a replica has noticed that Redis is gone", noticed)
    assert await trio.parts() == ["leads" if front is owner else "follows" for front in trio.fronts]  # as before
    answers = [await clients[id(front)].post(CHAT, json=chat()) for front in trio.fronts]
    trio.redis.start()
    trio.engines[0].fault("none")
    await asyncio.gather(*streams)
    answers += [await clients[id(front)].post(CHAT, json=chat()) for front in trio.fronts]
    assert [answer.status_code for answer in answers] == [200] * 6
    await trio.settled()

    async def led_anew() -> bool:
        return all([(await trio.part(front))["term"] > term for front in trio.fronts])

    await until("there is an owner with a higher term", led_anew)
    await trio.all_at_rest()


async def test_a_replica_that_reaches_no_engine_is_not_ready_while_another_one_reaches_some(trio: Replicas) -> None:
    owner, (one, other) = await ready(trio)

    async def statuses(*fronts: Front) -> list[int]:
        found = []
        for front in fronts:
            async with httpx2.AsyncClient(base_url=front.admin_url, timeout=60.0, trust_env=False) as operator:
                found.append((await operator.get("/readyz")).status_code)
        return found

    async def until_they_are(*wanted: int) -> None:
        async def they_are() -> bool:
            return await statuses(one, owner, other) == list(wanted)

        await until(f"readiness is {wanted}", they_are)

    await until_they_are(200, 200, 200)
    cut_off = json.loads(json.dumps(one.config))
    cut_off["pools"][one.pool]["endpoints"][0]["url"] = f"http://127.0.0.1:{free_port()}"
    whole = one.config
    await one.reload(cut_off)
    await until_they_are(503, 200, 200)
    await one.reload(whole)
    await until_they_are(200, 200, 200)
    await one.reload(cut_off)
    await until_they_are(503, 200, 200)
    trio.engines[0].stop()  # now nobody reaches it: clients get the gateways' errors, not the balancer's
    await until_they_are(200, 200, 200)
    async with one.client() as client:
        answer = await client.post(CHAT, json=chat())
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_endpoint")


async def test_an_owner_that_is_told_to_end_hands_over_at_once(trio: Replicas, clients: Clients) -> None:
    owner, followers = await ready(trio)
    trio.engines[0].fault("slow", factor=HELD)
    streams = [stream(clients[id(front)]) for front in trio.fronts]
    await owner.until_in_flight(3)
    trio.engines[0].fault("hang", factor=HELD)
    waiting = [asyncio.create_task(clients[id(followers[0])].post(CHAT, json=chat(LARGE, stream=True)))]
    await owner.until_in_flight(4)
    waiting += [asyncio.create_task(clients[id(front)].post(CHAT, json=chat(100))) for front in [*trio.fronts] * 2]
    await owner.until_waiting(6)
    owner.gateway.process.send_signal(signal.SIGTERM)
    trio.fronts.remove(owner)
    began = time.monotonic()
    await trio.led()
    print(f"a new owner after {time.monotonic() - began:.2f} s")
    trio.engines[0].fault("none")
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 7
    await asyncio.gather(*streams)
    assert await asyncio.to_thread(owner.gateway.process.wait, 90.0) == 0
    await trio.all_at_rest()
