"""Where answers lie: in memory and in every Redis that we work with; and a Redis that goes away."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from redis.asyncio import Redis

from policies.answer_shelf import ENTRY_BYTES, AnswerShelf
from router.coordination.redis_client import RedisClient
from router.metrics import Metrics
from router.response_cache.redis_store import Bounds, RedisStore, SharedAnswers
from router.response_cache.store import AnswerStore, MemoryStore, StoreAway
from tests.servers import Server, start_redis

ROOM = 3 * (ENTRY_BYTES + 116)  # of three answers of 100 bytes, sealed
A, B, C, D = (bytes([number]) * 32 for number in range(4))
PATIENT = 5.0
"""Seconds for a call on a machine that is busy."""


@dataclass
class Place:
    """A Redis that is empty, and stores in it as replicas have them."""

    url: str
    now: float = 1000.0
    metrics: Metrics = field(default_factory=Metrics)
    clients: list[RedisClient] = field(default_factory=list)

    def shared(self, timeout: float = PATIENT) -> SharedAnswers:
        self.clients.append(RedisClient(self.url, timeout=timeout))
        return SharedAnswers(self.clients[-1], lambda: self.now, self.metrics, "cache-test:")

    def store(self, tenant: str = "acme", secret: bytes = b"secret", **bounds: Any) -> RedisStore:
        made = Bounds(**{"max_bytes": ROOM, "max_entries": 10, "ttl": 60.0} | bounds)
        return RedisStore(tenant, self.shared(), made, secret)

    def count(self, result: str, tenant: str = "acme") -> float:
        return self.metrics.total("promptlane_cache_answers", tenant, result)

    def calls(self, result: str) -> float:
        return self.metrics.total("promptlane_cache_calls", result)


@pytest.fixture
async def raw(every_redis: str) -> AsyncIterator[Redis]:
    client = Redis.from_url(every_redis)
    await client.flushall()
    yield client
    await client.aclose()


@pytest.fixture
async def place(every_redis: str, raw: Redis) -> AsyncIterator[Place]:
    made = Place(every_redis)
    yield made
    for client in made.clients:
        await client.close()


async def put(store: AnswerStore, key: bytes, data: bytes = b"x" * 100) -> None:
    _, age = await store.get(key)
    assert age is not None
    await store.put(key, data, age)


async def found(store: AnswerStore, *keys: bytes) -> list[bytes]:
    return [key for key in keys if (await store.get(key))[0] is not None]


async def test_replicas_share_answers_and_tenants_do_not(place: Place, raw: Redis) -> None:
    first, second, other = place.store(), place.store(), place.store("globex")
    await put(first, A, b"one")
    assert (await second.get(A))[0] == b"one"
    assert (await other.get(A))[0] is None
    assert {key.split(b":")[1] for key in await raw.keys("*")} == {b"{acme}"}
    assert place.count("stored") == 1


async def test_an_answer_ends_in_the_server_and_so_does_what_is_said_of_it(place: Place, raw: Redis) -> None:
    await put(place.store(ttl=60.0), A)
    assert 50_000 < await raw.pttl("cache-test:{acme}:cache:" + A.hex()) <= 60_000
    assert all([await raw.pttl(key) > 0 for key in await raw.keys("*")]), "nothing is kept for ever"
    store = place.store(ttl=0.001)
    await put(store, B)
    while (await store.get(B))[0] is not None:
        pass
    await put(store, C)
    members = await raw.zrange("cache-test:{acme}:cache", 0, -1)
    assert B.hex().encode() not in members
    assert store.describe()["bytes"] == 2 * (ENTRY_BYTES + 116), "of the one that is over nothing is counted"


async def test_bounds_hold_and_the_oldest_goes_first(place: Place, raw: Redis) -> None:
    store = place.store()
    for key in (A, B, C, D):
        await put(store, key)
    assert await found(store, A, B, C, D) == [B, C, D]
    assert store.describe() == {"entries": 3, "bytes": ROOM, "away": False}
    assert (place.count("stored"), place.count("evicted")) == (4, 1)
    few = place.store(max_entries=1)
    await put(few, A)
    assert await found(few, A, B, C, D) == [A]
    await put(store, B, b"x" * ROOM)
    assert place.count("too_long") == 1
    assert await found(store, B) == []
    assert int(await raw.hget("cache-test:{acme}:cache-sizes", "") or 0) <= ROOM


async def test_the_same_answer_again_takes_no_more_room(place: Place) -> None:
    store = place.store()
    for length in (100, 50, 100):
        await put(store, A, b"x" * length)
    assert store.describe() == {"entries": 1, "bytes": ENTRY_BYTES + 116, "away": False}
    assert place.count("evicted") == 0


async def test_after_a_purge_there_is_nothing_and_nothing_from_before_it_comes_in(place: Place, raw: Redis) -> None:
    store, other = place.store(max_bytes=2**30, max_entries=5000), place.store("globex")
    await put(other, A)
    _, age = await store.get(D)
    assert age is not None
    for number in range(1200):
        await store.put(number.to_bytes(32, "big"), b"x", age)
    assert await store.purge() == 1200
    assert not await raw.keys("cache-test:{acme}:cache:*")
    assert await raw.keys("cache-test:{acme}:*") == [b"cache-test:{acme}:cache-age"]
    await store.put(D, b"an answer of before", age)
    assert await found(store, D) == []
    await put(store, D)
    assert await found(store, D) == [D]
    assert await found(other, A) == [A]
    assert await store.purge() == 1
    assert await store.purge() == 0


async def test_what_somebody_else_has_written_is_no_answer(place: Place, raw: Redis) -> None:
    store, name = place.store(), "cache-test:{acme}:cache:"
    await put(store, A, b"mine")
    value = await raw.get(name + A.hex())
    await raw.set(name + B.hex(), value)
    assert (await store.get(B))[0] is None, "another request's answer"
    await raw.set(name + A.hex(), value[:-4] + b"evil")
    assert (await store.get(A))[0] is None
    await raw.set(name + A.hex(), b"")
    assert (await store.get(A))[0] is None
    await raw.set(name + A.hex(), value)
    assert (await store.get(A))[0] == b"mine"
    assert (await place.store(secret=b"another").get(A))[0] is None


async def test_a_redis_that_forgot_everything_is_an_empty_cache(place: Place, raw: Redis) -> None:
    store = place.store()
    await put(store, A)
    await raw.flushall()
    assert await found(store, A) == []
    await put(store, A)
    assert await found(store, A) == [A]


@pytest.fixture
def own_redis() -> Any:
    server = start_redis()
    yield server
    server.stop()


@pytest.mark.parametrize("fault", ["stopped", "killed"])
async def test_a_redis_that_is_away_has_nothing_and_after_a_while_nobody_waits_for_it(
    own_redis: Server, fault: str
) -> None:
    place = Place(own_redis.url)
    shared = place.shared(timeout=0.05 if fault == "stopped" else PATIENT)
    store = RedisStore("acme", shared, Bounds(ROOM, 10, 60.0), b"secret")
    patient = RedisStore("acme", place.shared(), Bounds(ROOM, 10, 60.0), b"secret")
    await put(patient, A)
    own_redis.process.send_signal(signal.SIGSTOP if fault == "stopped" else signal.SIGKILL)
    for _ in range(5):
        assert await store.get(A) == (None, None)
        await store.put(A, b"x", b"")
    assert (place.calls("failed"), place.calls("skipped")) == (3, 7)
    assert store.describe()["away"]
    with pytest.raises(StoreAway):
        await store.purge()
    if fault == "stopped":
        own_redis.process.send_signal(signal.SIGCONT)
        while await found(store, A) == []:
            place.now += 60.0
        assert not store.describe()["away"]
    for client in place.clients:
        await client.close()


async def test_memory_does_the_same() -> None:
    metrics, now = Metrics(), [0.0]
    store = MemoryStore("acme", AnswerShelf(3 * (ENTRY_BYTES + 100), 10, 60.0), lambda: now[0], metrics)
    for key in (A, B, C, D):
        await put(store, key)
    assert await found(store, A, B, C, D) == [B, C, D]
    await put(store, A, b"x" * 9000)
    count = {one: metrics.total("promptlane_cache_answers", "acme", one) for one in ("stored", "evicted", "too_long")}
    assert count == {"stored": 4, "evicted": 1, "too_long": 1}
    _, age = await store.get(A)
    assert age is not None
    assert await store.purge() == 3
    await store.put(A, b"an answer of before", age)
    assert await found(store, A, B, C, D) == []
    await put(store, A)
    assert store.describe() == {"entries": 1, "bytes": ENTRY_BYTES + 100}
    now[0] = 60.0
    assert await found(store, A) == []
