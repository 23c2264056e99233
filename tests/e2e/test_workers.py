"""`server.workers`: several processes, one gateway. Real processes and sockets, simulated engines, once with Redis."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from tests.e2e.fleet import HELD, SLOW
from tests.e2e.front import MODEL, chat, key, until
from tests.e2e.replicas import streamed
from tests.e2e.workers import PLENTY, Crew, ask_anew, caller, running_crew
from tests.router.coordination.servers import redis_process
from tests.servers import free_ports

CHAT = "/v1/chat/completions"
LONG_ANSWER = 150  # tokens: three seconds of stream, and those of an engine that is held


@pytest.fixture(scope="module", params=[2, 4])
def started(request: pytest.FixtureRequest) -> Iterator[Crew]:
    with running_crew(request.param, **SLOW) as running:
        yield running


@pytest.fixture
async def crew(started: Crew) -> Crew:
    """With a pool of its own, all workers well and one of them deciding."""
    started.engines[0].fault("none")
    started.engines[0].clear()
    await started.all_serve()
    await started.serve((0,))
    await started.owner()
    return started


def streams(crew: Crew, count: int, tokens: int = LONG_ANSWER) -> list[asyncio.Task[str]]:
    """So many under way, each on a connection of its own. None ends before `failed`, or whoever ends the fault."""
    crew.engines[0].fault("slow", factor=HELD)

    async def one() -> str:
        async with caller(crew) as client:
            return await streamed(client, chat(max_tokens=tokens, ignore_eos=True))

    return [asyncio.create_task(one()) for _ in range(count)]


async def failed(crew: Crew, tasks: list[asyncio.Task[str]]) -> int:
    """How many did, once all are over."""
    crew.engines[0].fault("none")
    return sum(isinstance(one, BaseException) for one in await asyncio.gather(*tasks, return_exceptions=True))


async def test_every_worker_gets_requests_and_one_of_them_decides_for_all(crew: Crew) -> None:
    under_way = streams(crew, PLENTY)
    await crew.until_in_flight(PLENTY)
    counts = await crew.under_way()
    assert len(counts) == crew.workers
    assert all(counts.values()), counts
    assert sum(counts.values()) == PLENTY == await crew.metric("promptlane_endpoint_in_flight", pool=crew.pool)
    owner = await crew.owner()
    assert (await crew.parts())[owner]["seats_of_followers"] == PLENTY - counts[owner]
    assert await failed(crew, under_way) == 0
    await crew.at_rest()


async def test_what_no_engine_has_room_for_waits_in_one_queue(crew: Crew) -> None:
    await crew.reload(crew.configuration((0,), endpoint={"max_in_flight": 3}))
    crew.engines[0].fault("hang")
    waiting = asyncio.create_task(ask_anew(crew, 12, stream=True))
    await crew.until_waiting(9)
    await crew.until_in_flight(3)
    state = await crew.state()
    assert state["waiting"] == 9
    crew.engines[0].fault("none")
    assert await waiting == [200] * 12
    await crew.at_rest()


async def test_a_worker_that_is_killed_takes_only_its_own_streams_with_it_and_is_back(crew: Crew) -> None:
    owner = await crew.owner()
    victim = next(index for index in range(crew.workers) if index != owner)
    before = await crew.metric("promptlane_worker_restarts_total")
    under_way = streams(crew, PLENTY)
    await crew.until_in_flight(PLENTY)
    lost = (await crew.under_way())[victim]
    await crew.kill(victim)
    assert await ask_anew(crew, PLENTY) == [200] * PLENTY  # also those whose place is empty at the moment
    assert await failed(crew, under_way) == lost > 0
    await crew.all_serve()
    assert await crew.metric("promptlane_worker_restarts_total") == before + 1
    assert await crew.owner() in range(crew.workers)
    assert await ask_anew(crew, PLENTY) == [200] * PLENTY
    await crew.at_rest()


async def test_another_worker_decides_soon_after_the_owners_death_and_no_stream_of_others_ends(crew: Crew) -> None:
    assert await ask_anew(crew, PLENTY, tokens=400) == [200] * PLENTY
    await crew.at_rest()
    owner, term = await crew.owner(), (await crew.state())["replica"]["term"]
    known = (await crew.endpoint("e0"))["prefix_blocks"]
    assert known > PLENTY
    under_way = streams(crew, PLENTY, 2 * LONG_ANSWER)
    await crew.until_in_flight(PLENTY)
    lost = (await crew.under_way())[owner]
    await crew.kill(owner)
    began = time.monotonic()

    async def led_anew() -> bool:
        part = (await crew.state())["replica"]
        return part["part"] == "leads" and part["term"] > term

    await until("there is a new owner", led_anew)
    print(f"a new owner after {time.monotonic() - began:.2f} s")  # 0.1 to 0.6 on a machine that is not busy
    await crew.until_in_flight(PLENTY - lost)  # it knows of the requests of all others

    async def inherited() -> bool:
        return int((await crew.endpoint("e0"))["prefix_blocks"]) >= 0.95 * known

    await until("it knows of the engine's cache what the owner before it knew", inherited)
    assert await failed(crew, under_way) == lost
    await crew.all_serve()
    await crew.at_rest()


async def test_a_worker_that_somebody_tells_to_end_finishes_its_streams_while_others_take_what_comes(
    crew: Crew,
) -> None:
    pids = await crew.pids()
    under_way = streams(crew, PLENTY)
    await crew.until_in_flight(PLENTY)
    victim = await crew.owner()
    os.kill(pids[victim], signal.SIGTERM)
    crew.engines[0].fault("none")
    statuses: list[int] = []

    async def followed() -> bool:
        statuses.extend(await ask_anew(crew, PLENTY))  # without a pause, on connections of their own, asked once each
        return (await crew.pids()).get(victim) not in (None, pids[victim])

    await until("it has a successor", followed)
    assert await failed(crew, under_way) == 0
    assert await ask_anew(crew, PLENTY) == [200] * PLENTY
    assert set(statuses) == {200}
    await crew.at_rest()


async def test_two_workers_end_one_after_the_other_and_no_connection_is_reset(crew: Crew) -> None:
    pids = await crew.pids()
    over = asyncio.Event()

    async def asking() -> set[int]:
        found: set[int] = set()
        while not over.is_set():
            found.update(await ask_anew(crew, 5))
        return found

    callers = [asyncio.create_task(asking()) for _ in range(4)]
    for index, pid in list(pids.items())[:2]:
        os.kill(pid, signal.SIGTERM)

        async def followed(index: int = index, pid: int = pid) -> bool:
            return (await crew.pids()).get(index) not in (None, pid)

        await until("it has a successor", followed)
    over.set()
    assert await asyncio.gather(*callers) == [{200}] * 4
    await crew.at_rest()


async def test_a_worker_that_is_stopped_is_killed_and_what_comes_in_for_it_is_served_by_others() -> None:
    with running_crew(3, server={"worker_timeout": 5.0}, **SLOW) as crew:
        await crew.serve((0,))
        await crew.all_serve()
        owner = await crew.owner()
        stopped = psutil.Process((await crew.pids())[owner])
        stopped.send_signal(signal.SIGSTOP)
        assert await ask_anew(crew, PLENTY) == [200] * PLENTY  # a third of them came in for it
        assert (await asyncio.to_thread(psutil.wait_procs, [stopped], 90.0))[1] == []
        await crew.all_serve()
        assert await crew.metric("promptlane_worker_hung_total", worker=str(owner)) == 1
        assert await ask_anew(crew, PLENTY) == [200] * PLENTY
        await crew.at_rest()


async def test_the_metrics_of_all_add_up_to_what_was_asked_and_never_fall(crew: Crew) -> None:
    count = {"api": "chat", "status": "200"}
    before = await crew.metric("promptlane_requests_total", **count)
    assert await ask_anew(crew, PLENTY) == [200] * PLENTY
    await crew.at_rest()
    assert await crew.metric("promptlane_requests_total", **count) - before == PLENTY
    assert await crew.metric("promptlane_request_seconds_count", api="chat") >= PLENTY
    async with httpx2.AsyncClient(base_url=crew.admin_url, timeout=60.0, trust_env=False) as operator:
        text = (await operator.get("/metrics")).text
    names = Counter(line.split()[2] for line in text.splitlines() if line.startswith("# TYPE"))
    assert set(names.values()) == {1}
    await crew.kill(await crew.owner())
    await crew.all_serve()
    assert await crew.metric("promptlane_requests_total", **count) - before == PLENTY


async def test_a_reload_reaches_all_and_one_that_is_refused_reaches_nobody(crew: Crew) -> None:
    async def statuses(model: str) -> set[int]:
        return set(await ask_anew(crew, PLENTY, **{"model": model}))

    config = crew.configuration((0,))
    models = config["tenants"]["acme"]["models"]
    models["other"] = models[MODEL]
    reloads = await crew.metric("promptlane_config_reloads_total", result="ok")
    await crew.reload(config)
    assert await crew.metric("promptlane_config_reloads_total", result="ok") == reloads + 1
    assert await statuses("other") == {200}
    crew.config_file.write_text(json.dumps(config | {"tenants": {}, "nonsense": 1}))
    async with httpx2.AsyncClient(base_url=crew.admin_url, timeout=60.0, trust_env=False) as operator:
        answer = await operator.post("/admin/reload")
    assert answer.status_code == 400
    assert "nonsense" in answer.text
    assert await statuses("other") == {200}
    await crew.kill(await crew.owner())  # its successor has what the others have, not what the file says now
    await crew.all_serve()
    assert await statuses("other") == {200}
    crew.config_file.write_text(json.dumps(crew.configuration((0,))))
    crew.gateway.process.send_signal(signal.SIGHUP)

    async def gone() -> bool:
        return await statuses("other") == {404}

    await until("the model is gone everywhere", gone)
    await crew.at_rest()


async def test_orders_go_to_a_worker_that_can_carry_them_out(crew: Crew) -> None:
    async with httpx2.AsyncClient(base_url=crew.admin_url, trust_env=False, timeout=60.0) as operator:
        assert (await operator.get("/healthz")).status_code == (await operator.get("/readyz")).status_code == 200
        told = await operator.post("/admin/explain", params={"tenant": "acme"}, json=chat())
        assert (told.status_code, "choice     e0" in told.text) == (200, True)
        order = {"tenant": "acme", "dry_run": True}
        assert (await operator.post("/admin/drill", json=order)).json()["status"] == "planned"
        refused = await operator.post("/admin/drill", json={"tenant": "nobody"})
        assert (refused.status_code, "no tenant 'nobody'" in refused.text) == (400, True)
        keys = (await operator.get("/admin/keys", params={"tenant": "acme"})).json()["keys"]
        assert [key["id"] for key in keys] == ["app"]
        assert (await operator.post("/admin/keys/app/revoke")).json()["error"]["code"] == "keys_off"
        foreign = {"origin": "http://elsewhere.example"}
        assert (await operator.post("/admin/reload", headers=foreign)).json()["error"]["code"] == "cross_site"
        assert set((await operator.get("/admin/state", params={"pool": crew.pool})).json()["pools"]) == {crew.pool}
        assert (await operator.get("/admin/nothing")).status_code == 404


async def test_through_redis_workers_are_replicas_each_at_a_port_of_its_own() -> None:
    with redis_process() as redis:
        port = free_ports(2)
        shared = {"state": {"redis_url": redis.url}, "replicas": {"listen": f"tcp://127.0.0.1:{port}"}}
        with running_crew(2, sections=shared) as crew:
            await crew.serve((0,), **shared)
            await crew.owner()
            assert await ask_anew(crew, PLENTY) == [200] * PLENTY
            seen = [one["replicas"] for one in (await crew.whole())["workers"]]
            addresses = [other["address"] for one in seen for other in one["replicas"].values()]
            assert sorted(addresses) == [f"tcp://127.0.0.1:{port}", f"tcp://127.0.0.1:{port + 1}"]
            await crew.at_rest()


async def test_keys_made_at_run_time_hold_on_all_and_every_worker_keeps_records(tmp_path: Path) -> None:
    kept = {
        "state": {"ledger_url": f"sqlite:///{tmp_path / 'promptlane.db'}"},
        "ledger": {"spool_dir": str(tmp_path / "spool")},
    }
    with running_crew(2, sections=kept) as crew:
        await crew.serve((0,), **kept)
        await crew.owner()
        async with httpx2.AsyncClient(base_url=crew.admin_url, trust_env=False, timeout=60.0) as operator:
            made = await operator.post("/admin/keys", json={"tenant": "acme", "id": "later"})
        assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
        before = await crew.metric("promptlane_ledger_records_total", kind="request")

        async def statuses() -> Counter[int]:
            async def one() -> int:
                async with caller(crew) as client:
                    header = {"authorization": f"Bearer {made.json()['key']}"}
                    return (await client.post(CHAT, json=chat(), headers=header)).status_code

            return Counter(await asyncio.gather(*(one() for _ in range(PLENTY))))

        asked: Counter[int] = Counter()

        async def known_everywhere() -> bool:
            nonlocal asked
            found = await statuses()
            asked += found
            return set(found) == {200}

        await until("all workers know the key", known_everywhere)

        async def recorded() -> bool:
            records = await crew.metric("promptlane_ledger_records_total", kind="request") - before
            return asked[200] <= records <= asked.total()

        await until("there is a record of every request", recorded)
        assert len([one for one in (tmp_path / "spool").iterdir() if one.is_dir()]) == 2
        await crew.at_rest()


# -- the end


@pytest.fixture
def two() -> Iterator[Crew]:
    with running_crew(2, **SLOW) as running:
        yield running


async def test_told_to_end_all_finish_what_is_under_way_and_leave_nothing(two: Crew) -> None:
    await two.serve((0,))
    await two.owner()
    children, folder = two.descendants(), await two.folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    under_way = streams(two, 20)
    await two.until_in_flight(20)
    two.gateway.process.send_signal(signal.SIGTERM)
    assert await failed(two, under_way) == 0
    assert await asyncio.to_thread(two.gateway.process.wait, 90.0) == 0
    assert not [one for one in children if one.is_running()]
    assert not folder.exists()


@pytest.mark.parametrize("signalled", ["the supervisor", "all at once"])  # as by systemd, or a terminal
async def test_told_to_end_they_leave_nobody_in_their_queues(two: Crew, signalled: str) -> None:
    await two.serve((0,))
    await two.owner()
    body = json.dumps(chat(max_tokens=1)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\nauthorization: Bearer %s\r\ncontent-length: %d\r\n\r\n"
    asked = head % (key("acme").encode(), len(body)) + body
    outcomes: Counter[str] = Counter()

    async def connects() -> None:
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", two.ports[0])
            except OSError:
                outcomes["refused"] += 1
                return
            writer.write(asked)
            try:
                outcomes[(await reader.readline()).decode().strip()] += 1
            except ConnectionError as error:
                outcomes[type(error).__name__] += 1
            writer.close()

    clients = [asyncio.create_task(connects()) for _ in range(100)]

    async def begun() -> bool:
        return outcomes.total() > 200

    await until("all are at it", begun)
    processes = [two.gateway.process.pid] if signalled == "the supervisor" else [
        *(one.pid for one in two.descendants()), two.gateway.process.pid
    ]  # fmt: skip
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    await asyncio.gather(*clients)
    assert await asyncio.to_thread(two.gateway.process.wait, 90.0) == 0
    assert outcomes == {"HTTP/1.1 200 OK": outcomes["HTTP/1.1 200 OK"], "refused": 100}


async def test_without_their_supervisor_workers_finish_and_end(two: Crew) -> None:
    await two.serve((0,))
    await two.owner()
    children, folder = two.descendants(), await two.folder()
    assert len(children) == 2
    assert folder.stat().st_mode & 0o777 == 0o700
    under_way = streams(two, 20)
    await two.until_in_flight(20)
    two.gateway.process.kill()
    assert await failed(two, under_way) == 0
    assert (await asyncio.to_thread(psutil.wait_procs, children, 90.0))[1] == []
    assert not folder.exists()
