"""Limits shared by a real Redis: exact across replicas, also when it or one of them dies, stops or comes back empty."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import pytest
import redis.asyncio

from policies.admission.calendar import MINUTE, MONTH
from policies.admission.leased import LeasedWindow
from policies.admission.leased_seats import SeatsAnswer, SeatsAsk
from policies.admission.leased_words import WindowAnswer, WindowAsk, slices_of
from policies.admission.limit import Use
from policies.admission.limits import LimitGrant, LimitRules, Short, TenantLimits
from policies.types import Alone, LimitSpec
from router import limits
from router.config import loads
from router.coordination.redis_client import RedisClient
from router.coordination.store import StoreLost
from router.errors import Overloaded, RateLimited
from router.limits import Limiter
from router.limits_builder import LimitsBuilder
from router.limits_lua import MONTH_OF, SCRIPT
from router.limits_redis import SharedBook, Store
from router.limits_sync import SharedLimits
from router.metrics import Metrics
from router.process import Process
from tests.policies.admission.shared_store import SharedStore
from tests.router.stack import COUNTER
from tests.servers import Server, start_redis, until_believed

_tenants = count()
WAIT_SECONDS = 50.0


@pytest.fixture
def tenant() -> str:
    return f"t{next(_tenants)}"


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """One that a test may stop and kill, and old enough to be believed that it has lost nothing."""
    server = start_redis()
    until_believed(server)
    yield server
    server.process.send_signal(signal.SIGCONT)
    server.stop()


class CountingStore:
    """A client that counts its calls."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self.timeout = client.timeout
        self.calls = 0

    async def call(self, *command: str | bytes | int) -> Any:
        self.calls += 1
        return await self._client.call(*command)

    async def close(self) -> None:
        await self._client.close()


class Replica:
    """One gateway process's part, as `router.assembly` puts it together. `skew`: what its wall clock is wrong by."""

    def __init__(self, url: str, tenant: str, rules: LimitRules, replicas: int = 1, skew: float = 0.0) -> None:
        self.metrics = Metrics()
        self.store = CountingStore(RedisClient(url))
        store: Store = self.store
        self.shared = SharedLimits(store, self.metrics)
        book = SharedBook(tenant, store, time.monotonic, lambda: time.time() + skew, self.metrics, replicas=replicas)
        self.book = book
        self.limiter = Limiter(tenant, TenantLimits(rules, book.make), book, self.metrics)
        self.shared.keep([book])

    async def admit(self, prompt: int = 1, key: str = "", model: str = "") -> LimitGrant | None:
        """None when it was refused."""
        try:
            return await self.limiter.admit(time.monotonic, Use(prompt), key, model)
        except RateLimited:
            return None

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not what():  # noqa: ASYNC110 - it depends on another process
                await asyncio.sleep(0.01)

    async def until_admitted(self, prompt: int = 1) -> LimitGrant:
        async with asyncio.timeout(WAIT_SECONDS):
            while (grant := await self.admit(prompt)) is None:  # noqa: ASYNC110 - as clients do
                await asyncio.sleep(0.05)
            return grant

    async def crash(self) -> None:
        """The process is gone without a word."""
        if self.shared._task is not None:
            self.shared._task.cancel()
            await asyncio.gather(self.shared._task, return_exceptions=True)
        await self.store.close()


@asynccontextmanager
async def running(*replicas: Replica) -> AsyncIterator[None]:
    for replica in replicas:
        await replica.book.exchange()
        replica.shared.start()
    for replica in replicas:
        await replica.book.exchange()  # all know of all
    try:
        yield
    finally:
        for replica in replicas:
            await replica.shared.stop()


def fleet(url: str, tenant: str, count: int, rules: LimitRules | None = None, **limits: Any) -> list[Replica]:
    return [Replica(url, tenant, rules or LimitRules(LimitSpec(**limits)), count) for _ in range(count)]


async def hammer(replicas: list[Replica], seconds: float, clients: int = 10) -> tuple[int, int]:
    """How many were admitted, and the most at once."""
    end, admitted, at_once, most = time.monotonic() + seconds, 0, 0, 0

    async def client(replica: Replica) -> None:
        nonlocal admitted, at_once, most
        while time.monotonic() < end:
            grant = await replica.admit(10)
            if grant is None:
                await asyncio.sleep(0.01)
                continue
            admitted, at_once = admitted + 1, at_once + 1
            most = max(most, at_once)
            await asyncio.sleep(random.uniform(0.0, 0.02))
            at_once -= 1
            grant.settle(time.monotonic(), Use(10))

    await asyncio.gather(*(client(replica) for replica in replicas for _ in range(clients)))
    return admitted, most


async def test_four_replicas_admit_a_minutes_requests_to_the_last_one_and_not_one_more(
    every_redis: str, tenant: str
) -> None:
    replicas = fleet(every_redis, tenant, 4, requests_per_minute=203)
    async with running(*replicas):
        assert (await hammer(replicas, 3.0))[0] == 203


async def test_tokens_are_shared_and_what_was_too_much_comes_back_to_all(redis_server: Server, tenant: str) -> None:
    first, second = fleet(redis_server.url, tenant, 2, tokens_per_minute=1000)
    async with running(first, second):
        grant = await first.until_admitted(900)  # a busy machine is late with what the other gives back
        assert await second.admit(200) is None
        grant.settle(time.monotonic(), Use(100))
        await first.book.exchange()
        await second.until_admitted(850)
        assert await first.admit(100) is None


async def test_requests_at_once_are_never_above_the_limit_and_reach_it(redis_server: Server, tenant: str) -> None:
    replicas = fleet(redis_server.url, tenant, 4, concurrency=9)
    async with running(*replicas):
        admitted, most = await hammer(replicas, 3.0)
    assert most == 9
    assert admitted > 100


async def test_a_request_with_room_here_asks_nobody(redis_server: Server, tenant: str) -> None:
    rules = LimitRules(
        LimitSpec(requests_per_minute=100_000, tokens_per_minute=10_000_000, concurrency=1000, tokens_per_day=10**9)
    )
    (replica,) = fleet(redis_server.url, tenant, 1, rules)
    await replica.book.exchange()
    grants = []
    for _ in range(200):
        grants.append(await replica.admit(10))
        await replica.book.exchange() if len(grants) % 20 == 0 else None
    await replica.book.exchange()
    before = replica.store.calls
    for grant in grants:
        assert grant is not None
        grant.settle(time.monotonic(), Use(10))
    for _ in range(50):
        found = replica.limiter.limits.admit(time.monotonic(), Use(10))
        assert isinstance(found, LimitGrant)
    assert replica.store.calls == before
    await replica.shared.stop()


async def test_who_waits_while_the_process_stands_still_and_others_take_what_came_is_not_refused(
    redis_server: Server, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (replica,) = fleet(redis_server.url, tenant, 1, requests_per_minute=1_000_000)
    fetch, taken = replica.book.fetch, 0
    monkeypatch.setattr(limits, "_PATIENCE_SECONDS", 0.0)  # over as soon as the first question is answered

    async def fetch_and_lose(short: Short) -> None:
        nonlocal taken
        await fetch(short)
        if not taken:
            taken = take_all(replica)

    async with running(replica):
        monkeypatch.setattr(replica.book, "fetch", fetch_and_lose)
        take_all(replica)
        assert await replica.admit() is not None
        assert 0 < taken < 500_000


async def test_who_waited_for_a_young_redis_is_not_refused_when_it_begins_to_grant_and_others_take_the_first_of_it(
    tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_server = await asyncio.to_thread(start_redis)
    (replica,) = fleet(redis_server.url, tenant, 1, requests_per_minute=1_000_000)
    fetch, recovered, taken = replica.book.fetch, 0, 0
    monkeypatch.setattr(limits, "_PATIENCE_SECONDS", 0.0)

    async def fetch_and_lose(short: Short) -> None:
        nonlocal recovered, taken
        await fetch(short)
        recovered += replica.book.recovering
        if not replica.book.recovering and not taken:
            taken = take_all(replica)

    try:
        monkeypatch.setattr(replica.book, "fetch", fetch_and_lose)
        assert await replica.admit() is not None
        assert recovered > limits._LEAST_QUESTIONS  # more than enough of them, if they counted
        assert 0 < taken < 500_000
    finally:
        await replica.shared.stop()
        redis_server.stop()


def take_all(replica: Replica) -> int:
    """What can be had without a question; how much it was."""
    taken = 0
    while isinstance(replica.limiter.limits.admit(time.monotonic(), Use(1)), LimitGrant):
        taken += 1
    return taken


async def test_clients_that_hammer_a_spent_limit_cost_few_questions(redis_server: Server, tenant: str) -> None:
    (replica,) = fleet(redis_server.url, tenant, 1, requests_per_minute=5)
    async with running(replica):
        for _ in range(5):
            await replica.until_admitted()
        await replica.until(lambda: replica.limiter.snapshot(time.monotonic(), "", "").remaining_requests == 0)
        before, began = replica.store.calls, time.monotonic()
        asked, passed = 0, 0.0
        while asked < 3000 and passed < 20.0:  # in less than the minute after which there is room again
            assert await replica.admit() is None
            asked, passed = asked + 1, time.monotonic() - began
        assert replica.store.calls - before <= 12 * passed + 8


async def test_a_refusal_tells_truly_when_to_come_back_and_which_limit_it_was(
    redis_server: Server, tenant: str
) -> None:
    rules = LimitRules(LimitSpec(), {"ci": LimitSpec(requests_per_minute=1)})
    (replica,) = fleet(redis_server.url, tenant, 1, rules)
    async with running(replica):
        began = time.monotonic()
        assert await replica.admit(key="ci") is not None
        with pytest.raises(RateLimited) as refused:
            await replica.limiter.admit(time.monotonic, Use(1), "ci", "")
        passed = time.monotonic() - began
        assert 59.9 - passed <= refused.value.retry_after <= 61.1
        assert (b"x-promptlane-limit", b"key requests_per_minute") in refused.value.headers
        assert await replica.admit(key="other") is not None


async def test_a_replica_whose_clock_is_wrong_is_put_right_by_the_stores(redis_server: Server, tenant: str) -> None:
    rules = LimitRules(LimitSpec(requests_per_minute=40))
    replicas = [Replica(redis_server.url, tenant, rules, 2, skew) for skew in (-3600.0, 7200.0)]
    async with running(*replicas):
        assert (await hammer(replicas, 2.0))[0] == 40


async def test_seats_of_a_dead_process_come_back_and_its_requests_stay_counted(
    redis_server: Server, tenant: str
) -> None:
    dying, living = fleet(redis_server.url, tenant, 2, concurrency=4, requests_per_minute=10)
    async with running(living):
        await dying.book.exchange()
        dying.shared.start()
        for _ in range(4):
            await dying.until_admitted()
        assert await living.admit() is None
        await dying.crash()
        await living.until_admitted()
        admitted = 5
        while (grant := await living.admit()) is not None:
            grant.settle(time.monotonic(), None)
            admitted += 1
        assert admitted <= 10


async def test_a_process_that_ends_gives_back_what_it_did_not_spend(redis_server: Server, tenant: str) -> None:
    leaving, staying = fleet(redis_server.url, tenant, 2, requests_per_minute=1000, concurrency=100)
    async with running(staying):
        await leaving.book.exchange()
        for _ in range(30):
            grant = await leaving.until_admitted()
            grant.settle(time.monotonic(), None)
        await leaving.shared.stop()
        await staying.book.exchange()
        assert staying.book._replicas == 2, "as many as configured"
        left = 0
        while await staying.admit() is not None:
            left += 1
            if left == 100:
                break
        assert left == 100
        assert staying.limiter.snapshot(time.monotonic(), "", "").remaining_requests == 1000 - 130


@pytest.mark.parametrize("way", ["killed", "stopped"])
async def test_without_redis_each_replica_goes_on_with_its_share_and_nothing_is_exceeded(
    own_redis: Server, tenant: str, way: str
) -> None:
    replicas = fleet(own_redis.url, tenant, 2, requests_per_minute=400, concurrency=50)
    async with running(*replicas):
        before = (await hammer(replicas, 0.05, clients=2))[0]
        os.kill(own_redis.process.pid, signal.SIGKILL if way == "killed" else signal.SIGSTOP)
        meanwhile, most = await hammer(replicas, 3.5)
        assert meanwhile > 0
        assert before + meanwhile <= 400
        assert most <= 50
        assert all(replica.book.lost for replica in replicas)
        if way == "stopped":
            os.kill(own_redis.process.pid, signal.SIGCONT)
        else:
            own_redis.process.wait()
            again = start_redis(int(own_redis.url.split(":")[2].split("/")[0]))
        try:
            for replica in replicas:
                await replica.until(lambda replica=replica: not replica.book.lost and not replica.book.recovering)
            after, most = await hammer(replicas, 3.0)
            assert before + meanwhile + after == 400
            assert most <= 50
        finally:
            if way == "killed":
                again.stop()


async def restarted(server: Server) -> Server:
    """Another one in its place, which knows nothing."""
    server.process.kill()
    server.process.wait()
    return await asyncio.to_thread(start_redis, int(server.url.split(":")[2].split("/")[0]))


async def test_what_a_dead_replica_had_spent_stays_counted_when_redis_loses_its_memory(
    own_redis: Server, tenant: str
) -> None:
    dying, living = fleet(own_redis.url, tenant, 2, tokens_per_minute=1000)
    async with running(living):
        await dying.book.exchange()
        for _ in range(6):
            (await dying.until_admitted(100)).settle(time.monotonic(), None)
        await dying.crash()
        crashed, window = time.monotonic(), living.book._named[0].counter
        await living.until(lambda: window._heard_at > crashed)
        left = window.standing(time.monotonic()).remaining
        assert left <= 400
        again = await restarted(own_redis)
        try:
            young = Replica(own_redis.url, tenant, LimitRules(LimitSpec(tokens_per_minute=1000)))
            async with running(young):
                assert await admitted_by_all([young, living], 100) == left // 100
        finally:
            again.stop()


async def test_a_new_replica_is_granted_nothing_before_the_others_have_told_a_redis_that_lost_its_memory(
    own_redis: Server, tenant: str
) -> None:
    (old,) = fleet(own_redis.url, tenant, 1, tokens_per_minute=1000)
    await old.book.exchange()
    for _ in range(9):
        (await old.until_admitted(100)).settle(time.monotonic(), None)
    again = await restarted(own_redis)
    try:
        young = Replica(own_redis.url, tenant, LimitRules(LimitSpec(tokens_per_minute=1000)))
        first = asyncio.create_task(young.admit(200))  # waits, and is not refused, while nobody knows
        await young.until(lambda: young.store.calls >= 3)
        assert not first.done()
        async with running(old):
            assert await first is None
            assert await young.until_admitted(100) is not None
            assert await young.admit(1) is None
        await young.crash()
    finally:
        again.stop()


async def test_the_first_request_after_redis_began_waits_for_it_to_be_believed_and_is_not_refused(tenant: str) -> None:
    server = await asyncio.to_thread(start_redis)
    try:
        (replica,) = fleet(server.url, tenant, 1, requests_per_minute=10, concurrency=3)
        async with running(replica):
            assert await replica.admit() is not None
    finally:
        server.stop()


async def admitted_by_all(replicas: list[Replica], prompt: int) -> int:
    """How many requests they let through until each of them has refused some."""
    admitted, refused = 0, [0] * len(replicas)
    while min(refused) < 5:
        for number, replica in enumerate(replicas):
            grant = await replica.admit(prompt)
            admitted += grant is not None
            refused[number] += grant is None
    return admitted


@pytest.mark.parametrize("rule", [Alone.ALLOW, Alone.REFUSE])
async def test_what_a_limit_does_without_redis_is_as_configured(own_redis: Server, tenant: str, rule: Alone) -> None:
    rules = LimitRules(LimitSpec(requests_per_minute=2, without_redis=rule))
    (replica,) = fleet(own_redis.url, tenant, 1, rules)
    async with running(replica):
        own_redis.process.kill()
        own_redis.process.wait()
        if rule is Alone.ALLOW:
            assert [await replica.admit() is not None for _ in range(5)] == [True] * 5
            assert replica.metrics.total("promptlane_limit_alone", tenant) == 5
            return
        with pytest.raises(Overloaded) as refused:
            await replica.limiter.admit(time.monotonic, Use(1), "", "")
        assert refused.value.code == "limits_unavailable"


async def test_a_shadow_lets_all_pass_and_counts_what_it_would_have_refused(redis_server: Server, tenant: str) -> None:
    rules = LimitRules(LimitSpec(requests_per_minute=3, shadow=True))
    (replica,) = fleet(redis_server.url, tenant, 1, rules)
    async with running(replica):
        assert all([await replica.admit() is not None for _ in range(8)])
        count = replica.metrics.total("promptlane_limit_refusals", tenant, "tenant", "requests_per_minute", "shadow")
        assert count == 5


async def test_a_client_that_leaves_while_its_request_waits_takes_nothing(redis_server: Server, tenant: str) -> None:
    (replica,) = fleet(redis_server.url, tenant, 1, concurrency=1)
    async with running(replica):
        waiting = asyncio.create_task(replica.admit())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert replica.limiter.in_flight == 0
        assert await replica.until_admitted() is not None


async def test_a_reload_with_another_limit_forgets_nothing_that_was_used(redis_server: Server, tenant: str) -> None:
    (before,) = fleet(redis_server.url, tenant, 1, requests_per_minute=10, concurrency=5)
    async with running(before):
        grants = [await before.until_admitted() for _ in range(3)]
        rules = LimitRules(LimitSpec(requests_per_minute=12, concurrency=4))
        after = SharedBook(tenant, before.store, time.monotonic, time.time, before.metrics)
        limiter = Limiter(tenant, TenantLimits(rules, after.make), after, before.metrics)
        before.shared.keep([after])
        before.limiter, old = limiter, before.limiter
        await before.until(lambda: limiter.snapshot(time.monotonic(), "", "").remaining_requests == 9)
        assert await before.admit() is not None
        assert await before.admit() is None, "three of the four seats are in use by what came before"
        for grant in grants:
            grant.settle(time.monotonic(), None)
        await before.until(lambda: not before.shared._leaving)
        assert old.in_flight == 0
        assert await before.until_admitted() is not None


async def test_deployments_with_prefixes_of_their_own_share_a_redis_and_no_limits(
    redis_server: Server, tenant: str
) -> None:
    for prefix in ("blue:", "green:"):
        file = {
            "state": {"redis_url": redis_server.url},
            "replicas": {"prefix": prefix},
            "tenants": {tenant: {"anonymous": True, "hosts": [f"{tenant}.test"], "limits": {"concurrency": 1}}},
        }
        config = loads(json.dumps(file).encode(), {"PROMPTLANE_SECRET": "s" * 32})
        builder = LimitsBuilder(config, Process(b"secret", COUNTER, Metrics()), None)
        limiter = builder.limiter(tenant)
        assert limiter is not None
        assert builder.shared is not None
        assert await limiter.admit(time.monotonic, Use(1), "", ""), "the only seat of the other deployment is taken"
        await builder.shared.stop()
    async with redis.asyncio.Redis.from_url(redis_server.url, decode_responses=True) as client:
        keys = await client.keys(f"*{{{tenant}}}*")
    assert {key.partition(":")[0] for key in keys} == {"blue", "green"}


async def test_every_key_is_of_its_tenants_slot_and_ends_by_itself(redis_server: Server, tenant: str) -> None:
    rules = LimitRules(LimitSpec(requests_per_minute=10, concurrency=5, tokens_per_day=10, money_per_month=10**6))
    (replica,) = fleet(redis_server.url, tenant, 1, rules)
    async with running(replica):
        await replica.until_admitted()
        async with redis.asyncio.Redis.from_url(redis_server.url) as client:
            keys = [key async for key in client.scan_iter(match=f"promptlane:{{{tenant}}}:*")]
            ends = [await client.pttl(key) for key in keys]
    assert len(keys) >= 6
    assert all(end > 0 for end in ends)


async def test_an_unreachable_redis_is_told_within_the_timeout() -> None:
    client = RedisClient("redis://127.0.0.1:1/0")
    with pytest.raises(StoreLost):
        await client.call("PING")
    await client.close()


async def test_the_script_counts_months_as_the_calendar_does(every_redis: str) -> None:
    client = RedisClient(every_redis)
    script = "local floor = math.floor\n" + MONTH_OF + "\nreturn month(tonumber(ARGV[1]))"
    day = datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC)
    for _ in range(500):
        day += timedelta(days=23, seconds=1)
        at = day.timestamp()
        assert await client.call("EVAL", script, 0, f"{at:.6f}") == MONTH.first(at)
    await client.close()


async def test_the_script_does_what_the_model_of_it_does_that_policies_are_tested_with(
    every_redis: str, tenant: str
) -> None:
    """The same asks to both, by four replicas, at the times that Redis tells."""
    draw = random.Random(7)
    client, names = RedisClient(every_redis), [f"r{number}" for number in range(4)]
    window_store, seat_store = SharedStore(500), SharedStore(40)
    window = LeasedWindow(500, MINUTE, Alone.SHARE, 0.0)
    held = dict.fromkeys(names, 0)
    keys = [f"promptlane:{{{tenant}}}:{name}" for name in ("limits", "w", "s")]

    async def call(me: str, number: int, sent: float, epoch: str, asks: list[Any]) -> list[Any]:
        packed = msgspec.msgpack.encode((me, number, sent, epoch, False, 4, False, asks))
        every = [keys[0], keys[1], f"{keys[1]}:{me}", keys[2]] if asks else keys[:1]
        answer: list[Any] = msgspec.msgpack.decode(await client.call("EVAL", SCRIPT, len(every), *every, packed))
        return answer

    _, told, epoch, *_ = await call("r0", 0, 0.0, "", [])
    offset = float(told) - time.monotonic()
    for number in range(1, 300):
        me = draw.choice(names)
        slice_number, _ = MINUTE.stamp(time.monotonic() + offset)
        mine = dict(window_store.counts.mine.get(me, {}))
        changed = {one: draw.randint(0, amount) for one, amount in mine.items() if draw.random() < 0.3}
        least = draw.choice([0, 0, 1, 5, 60])
        kept = draw.choice([-1, 0, draw.randint(0, window_store.counts.reserves.get(me, 0))])
        told_before = {slice_number - back: draw.randint(0, 30) for back in (0, 3, 9)} if draw.random() < 0.1 else {}
        ask = WindowAsk(
            changed, slice_number, 0.0, least, max(1, least // 2), draw.choice([0, 10, 80]), draw.randint(0, 3), kept,
            (), told_before,
        )  # fmt: skip
        taken = draw.randint(0, held[me])
        seats = SeatsAsk(draw.randint(taken, held[me]), taken, taken + draw.randint(0, 12), draw.randint(0, 5))
        figures = [figure for pair in ask.mine.items() for figure in pair]
        totals = [figure for pair in ask.everybodys.items() for figure in pair]
        words = (0, 500, False, 60.0, 0.5, slice_number, figures, least, ask.smallest, ask.more, ask.free, kept, totals)
        more = (1, 40, seats.held, seats.taken, seats.needed, seats.spare)
        status, told, _, replicas, recovering, found = await call(
            me, number, time.monotonic() + offset, epoch, [words, more]
        )
        assert (status, recovering) == (0, False)
        window_store.now = seat_store.now = float(told)
        assert window_store.begin(me, False, 4) == seat_store.begin(me, False, 4) == (replicas, False)
        answer, expected = WindowAnswer(*found[0]), window_store.window(me, window, ask, False)
        assert by_slice(answer) == by_slice(expected)
        for name in ("granted", "used", "reserve", "reserves", "idle", "hungry", "last"):
            assert getattr(answer, name) == getattr(expected, name), name
        seated = SeatsAnswer(*found[1])
        assert seated == seat_store.take_seats(me, seats, False)
        held[me] = seated.seats
    await client.close()


def by_slice(answer: WindowAnswer) -> dict[int, int]:
    """The script tells what it has just granted on its own."""
    sums: dict[int, int] = {}
    for number, amount in slices_of(answer.slices):
        sums[number] = sums.get(number, 0) + amount
    return sums
