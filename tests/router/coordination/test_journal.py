"""The journal in a Redis stream and in a file: what is written is read back, by whoever owns the pool next."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from redis import Redis

from policies.coordination.journal import Journal
from policies.prefix_index import PrefixIndex
from router.coordination.journal import (
    TTL_SECONDS,
    FileJournal,
    JournalStore,
    JournalWriter,
    Outdated,
    StreamJournal,
    read_back,
)
from router.coordination.redis_store import RedisStore
from tests.router.coordination.servers import redis_process
from tests.servers import REDIS_KINDS

POOL = "llama"
FIRST, SECOND = (1, 2, 3), (1, 2, 9, 10)


class Clock:
    now = 10_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=[*REDIS_KINDS, "file"])
async def store(
    request: pytest.FixtureRequest, redis_of: Callable[[str], str], tmp_path: Path
) -> AsyncIterator[JournalStore]:
    if request.param == "file":
        yield FileJournal(tmp_path)
        return
    redis = RedisStore(redis_of(request.param), prefix=f"test:{tmp_path.name}:", timeout=5.0)
    yield StreamJournal(redis)
    await redis.close()


def writer(store: JournalStore, index: PrefixIndex, term: int = 1, **settings: int) -> JournalWriter:
    made = JournalWriter(store, POOL, Clock(), Journal(**settings))
    made.begin(term, {7: index})
    return made


async def test_what_an_owner_wrote_the_next_one_reads(store: JournalStore) -> None:
    index = PrefixIndex(100)
    index.touch((50, 51))  # before it owned the pool: nobody knows how these follow each other
    owner = writer(store, index)
    await owner.flush()
    index.touch(FIRST)
    index.touch(SECOND)
    await owner.flush()
    index.touch(FIRST)
    await owner.flush()
    rebuilt = await read_back(store, POOL)
    assert rebuilt.blocks(7) == [10, 9, 3, 2, 1]
    restored = PrefixIndex(100)
    assert rebuilt.restore({7: restored}) == 1
    assert restored.match(SECOND) == 4


async def test_new_snapshots_take_the_place_of_what_was_before(store: JournalStore) -> None:
    index = PrefixIndex(100)
    owner = writer(store, index, snapshot_blocks=10)
    for number in range(200):
        index.touch((1, 2, 100 + number))
        await owner.flush()
    kept = [batch async for batch in store.read(POOL)]
    assert len(kept) < 150
    assert (await read_back(store, POOL)).blocks(7) == index.blocks()


async def test_the_next_owner_goes_on_and_the_one_before_is_refused(store: JournalStore) -> None:
    old_index, new_index = PrefixIndex(100), PrefixIndex(100)
    old = writer(store, old_index, term=5)
    old_index.touch(FIRST)
    await old.flush()
    rebuilt = await read_back(store, POOL)
    rebuilt.restore({7: new_index})
    new = JournalWriter(store, POOL, Clock())
    new.begin(6, {7: new_index}, rebuilt)
    await new.flush()
    new_index.touch(SECOND)
    await new.flush()
    old_index.touch((70, 71))
    with pytest.raises(Outdated):
        await old.flush()
    await old.run()  # ends by itself
    assert old_index.scribe is None
    assert (await read_back(store, POOL)).blocks(7) == new_index.blocks() == [3, 10, 9, 2, 1]


async def test_a_journal_that_may_have_ended_meanwhile_is_begun_anew(store: JournalStore) -> None:
    index = PrefixIndex(100)
    clock = Clock()
    owner = JournalWriter(store, POOL, clock)
    owner.begin(1, {7: index})
    index.touch(FIRST)
    await owner.flush()
    clock.now += TTL_SECONDS
    index.touch(SECOND)
    await owner.flush()
    assert len([batch async for batch in store.read(POOL)]) == 2  # the snapshot, and what was noted before it
    assert (await read_back(store, POOL)).blocks(7) == index.blocks()


async def test_nothing_is_read_where_nothing_was_written_and_nonsense_is_passed_over(store: JournalStore) -> None:
    assert (await read_back(store, "nobody")).endpoints == frozenset()
    await store.append(POOL, 1, b"\xc1 nonsense")
    index = PrefixIndex(100)
    owner = writer(store, index)
    await owner.flush()
    index.touch(FIRST)
    await owner.flush()
    assert (await read_back(store, POOL)).blocks(7) == index.blocks()


async def test_a_redis_that_was_away_gets_all_of_it_again() -> None:
    with redis_process() as server:
        redis = RedisStore(server.url, timeout=2.0)
        store = StreamJournal(redis)
        index = PrefixIndex(100)
        owner = writer(store, index)
        index.touch(FIRST)
        await owner.flush()
        server.kill()
        index.touch(SECOND)
        await owner.flush()
        assert owner.failed == 1
        server.start()
        await owner.flush()
        assert (await read_back(store, POOL)).blocks(7) == index.blocks()
        await redis.close()


async def test_a_stream_ends_by_itself_and_has_a_bound(every_redis: str) -> None:
    redis = RedisStore(every_redis, prefix="bound:", timeout=5.0)
    await StreamJournal(redis, ttl=60.0).append(POOL, 1, b"x")
    with Redis.from_url(every_redis) as client:
        assert 0 < client.pttl("bound:{llama}:journal") <= 60_000
    await redis.close()
