"""Every kind of store keeps the same promises: one lease a pool, terms that only grow, nothing released or lengthened
by who does not hold it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from router.coordination.local_store import LocalStore
from router.coordination.redis_store import RedisStore
from router.coordination.store import Store
from tests.router.coordination.servers import RedisProcess, cluster_of_one, with_sentinel
from tests.servers import REDIS_KINDS

POOL = "llama"
LONG = 30.0


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisProcess]:
    with cluster_of_one() as process:
        yield process


@pytest.fixture(scope="module")
def sentinel() -> Iterator[RedisProcess]:
    with with_sentinel() as (_, _, process):
        yield process


@pytest.fixture(params=[*REDIS_KINDS, "cluster", "sentinel", "local"])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Store, Store]]:
    """The same store as two replicas, `a` and `b`, see it; both are there."""
    pair = make_pair(request, tmp_path)
    await pair[0].announce("a", "tcp://a:1", LONG)
    await pair[1].announce("b", "tcp://b:1", LONG)
    yield pair
    for store in pair:
        await store.close()


def make_pair(request: pytest.FixtureRequest, folder: Path) -> tuple[Store, Store]:
    if request.param == "local":
        return LocalStore(folder / "workers"), LocalStore(folder / "workers")
    if request.param in REDIS_KINDS:
        url = request.getfixturevalue("redis_of")(request.param)
    elif request.param == "cluster":
        url = f"redis+cluster://127.0.0.1:{request.getfixturevalue('cluster').port}"
    else:
        port = request.getfixturevalue("sentinel").port
        url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/service"  # the first sentinel is dead
    prefix = f"test:{folder.name}:"
    return RedisStore(url, prefix=prefix, timeout=5.0), RedisStore(url, prefix=prefix, timeout=5.0)


async def test_a_pool_has_one_lease_which_everybody_sees(stores: tuple[Store, Store]) -> None:
    a, b = stores
    lease = await a.acquire(POOL, "a", "tcp://a:1", LONG)
    assert lease is not None
    assert lease[:2] == ("a", "tcp://a:1")
    assert await b.acquire(POOL, "b", "tcp://b:1", LONG) is None
    seen = await b.look([POOL, "other"])
    assert seen.leases == {POOL: lease}
    assert seen.replicas == {"a": "tcp://a:1", "b": "tcp://b:1"}


async def test_of_many_that_want_a_pool_at_once_one_gets_it(stores: tuple[Store, Store]) -> None:
    a, b = stores
    tries = [store.acquire(POOL, me, "tcp://x:1", LONG) for store, me in ((a, "a"), (b, "b")) for _ in range(10)]
    assert len([lease for lease in await asyncio.gather(*tries) if lease is not None]) == 1


async def test_terms_grow_with_every_owner_and_above_what_the_asker_knows(stores: tuple[Store, Store]) -> None:
    a, b = stores
    first = await a.acquire(POOL, "a", "tcp://a:1", LONG)
    assert first is not None
    await a.release(first, POOL)
    second = await b.acquire(POOL, "b", "tcp://b:1", LONG)
    assert second is not None
    assert second.term > first.term
    await b.release(second, POOL)
    third = await a.acquire(POOL, "a", "tcp://a:1", LONG, above=second.term + 10**12)
    assert third is not None
    assert third.term == second.term + 10**12 + 1


async def test_only_its_owner_can_lengthen_or_release_a_lease(stores: tuple[Store, Store]) -> None:
    a, b = stores
    old = await a.acquire(POOL, "a", "tcp://a:1", LONG)
    assert old is not None
    await a.release(old, POOL)
    new = await b.acquire(POOL, "b", "tcp://b:1", LONG)
    assert new is not None
    await a.release(old, POOL)
    assert not await a.renew(old, POOL, LONG)
    assert not await a.renew(new._replace(term=new.term - 1), POOL, LONG)
    assert (await a.look([POOL])).leases == {POOL: new}
    assert await b.renew(new, POOL, LONG)


async def test_a_lease_that_nobody_renews_ends(stores: tuple[Store, Store]) -> None:
    a, b = stores
    old = await a.acquire(POOL, "a", "tcp://a:1", 0.05)
    assert old is not None
    new = None
    async with asyncio.timeout(60):
        while new is None:
            new = await b.acquire(POOL, "b", "tcp://b:1", LONG)
    assert not await a.renew(old, POOL, LONG)
    assert (await a.look([POOL])).leases == {POOL: new}


async def test_a_released_lease_is_gone_and_its_renewal_does_not_bring_it_back(stores: tuple[Store, Store]) -> None:
    a, _ = stores
    lease = await a.acquire(POOL, "a", "tcp://a:1", LONG)
    assert lease is not None
    await a.release(lease, POOL)
    assert not await a.renew(lease, POOL, LONG)
    assert (await a.look([POOL])).leases == {}


async def test_who_says_that_it_goes_is_seen_no_more(stores: tuple[Store, Store]) -> None:
    a, b = stores
    await a.announce("a", "tcp://a:1", 0.0)
    assert (await b.look([])).replicas == {"b": "tcp://b:1"}


async def test_pools_have_leases_of_their_own(stores: tuple[Store, Store]) -> None:
    a, b = stores
    names = [f"pool-{number}" for number in range(20)]
    for number, name in enumerate(names):
        store, me = ((a, "a"), (b, "b"))[number % 2]
        assert await store.acquire(name, me, f"tcp://{me}:1", LONG) is not None
    seen = (await a.look(names)).leases
    assert [seen[name].replica for name in names] == ["a", "b"] * 10


@pytest.mark.parametrize("stores", [*REDIS_KINDS, "cluster", "sentinel"], indirect=True)
async def test_where_a_pool_is_at_home_is_seen_by_all_until_nobody_says_so_any_more(
    stores: tuple[Store, Store],
) -> None:
    a, b = stores
    assert (await b.look([POOL, "other"])).homes == {}
    await a.settle(POOL, "b", LONG)
    assert (await b.look([POOL, "other"])).homes == {POOL: "b"}
    await a.settle(POOL, "b", 0.05)
    async with asyncio.timeout(60):
        while (await b.look([POOL, "other"])).homes != {}:
            pass
