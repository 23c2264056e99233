"""A Redis that dies, stops, forgets, refuses or moves: told as a lost store in time, and used again as soon as it is
back. All of it on real servers."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from policies.admission.limit import Use
from policies.admission.limits import LimitRules, TenantLimits
from policies.coordination.ownership import Ownership
from policies.types import LimitSpec
from router.coordination.journal import StreamJournal
from router.coordination.leases import Leases
from router.coordination.local_store import LocalStore
from router.coordination.redis_client import RedisClient
from router.coordination.redis_store import RedisStore
from router.coordination.store import BadStoreUrl, Store, StoreLost
from router.limits import Limiter
from router.limits_redis import SharedBook
from router.metrics import Metrics
from tests.router.coordination.servers import RedisProcess, before_tls, knows_tls, redis_process, with_sentinel

POOL = "llama"
PATIENCE = 60.0  # seconds that a busy machine may take; nothing waits for them to pass


@pytest.fixture
def server() -> Iterator[RedisProcess]:
    with redis_process() as process:
        yield process


async def takes_again(store: Store, me: str = "a") -> int:
    """The term of the first lease that can be had."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                lease = await store.acquire(POOL, me, f"tcp://{me}:1", 0.5)
            except StoreLost:
                lease = None
            if lease is not None:
                return lease.term
            await asyncio.sleep(0.02)


async def test_a_killed_redis_is_a_lost_store_and_one_that_comes_back_empty_gives_out_higher_terms(
    server: RedisProcess,
) -> None:
    store = RedisStore(server.url)
    before = await takes_again(store)
    server.kill()
    with pytest.raises(StoreLost):
        await store.look([POOL])
    server.start()
    assert await takes_again(store) > before
    await store.close()


async def test_a_redis_that_is_stopped_is_lost_within_the_timeout_and_used_again_when_it_goes_on(
    server: RedisProcess,
) -> None:
    store = RedisStore(server.url, timeout=0.3)
    before = await takes_again(store)
    server.pause()
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(StoreLost, match=r"no answer within 0\.3 s|[Tt]imeout"):
            await store.look([POOL])
    server.go_on()
    assert await takes_again(store, "b") > before
    await store.close()


async def test_nobody_at_the_address_is_a_lost_store() -> None:
    store = RedisStore("redis://127.0.0.1:1")
    with pytest.raises(StoreLost, match=r"127\.0\.0\.1:1"):
        await store.announce("a", "tcp://a:1", 1.0)
    await store.close()


async def test_a_user_with_just_the_rights_that_are_documented_can_do_all(tmp_path: Path) -> None:
    rights = "~promptlane:* +eval +time +get +mget +set +del +pexpire +hset +hdel +hgetall"
    rights += " +xadd +xrange +xrevrange +xtrim +hget +hincrby"
    file = tmp_path / "users.acl"
    file.write_text(f"user default off\nuser lane on >p%40ss:word {rights}\n".replace("%40", "@"))
    with redis_process("--aclfile", str(file)) as server:
        url = f"redis://lane:p%40ss%3Aword@127.0.0.1:{server.port}/0"
        store = RedisStore(url, timeout=5.0)
        await store.announce("a", "tcp://a:1", 30.0)
        lease = await store.acquire(POOL, "a", "tcp://a:1", 30.0)
        assert lease is not None
        assert await store.renew(lease, POOL, 30.0)
        await store.settle(POOL, "a", 30.0)
        seen = await store.look([POOL])
        assert (seen.leases, seen.replicas) == ({POOL: lease}, {"a": "tcp://a:1"})
        await store.release(lease, POOL)
        journal = StreamJournal(store)
        await journal.append(POOL, 1, b"before")
        await journal.rewrite(POOL, 1, [b"snapshot"])
        assert [batch async for batch in journal.read(POOL)] == [b"snapshot"]
        book = SharedBook("acme", store.client, time.monotonic, time.time, Metrics())
        limits = TenantLimits(LimitRules(LimitSpec(requests_per_minute=10, concurrency=2)), book.make)
        grant = await Limiter("acme", limits, book, Metrics()).admit(time.monotonic, Use(1), "", "")
        grant.settle(time.monotonic(), None)
        await book.exchange()
        assert not book.lost
        await store.close()


async def test_a_user_without_the_rights_is_told_so_and_no_password_is_repeated(tmp_path: Path) -> None:
    file = tmp_path / "users.acl"
    file.write_text("user default off\nuser lane on >hidden ~other:* +get +eval +hgetall\n")
    with redis_process("--aclfile", str(file)) as server:
        for password, reason in (
            ("hidden", "(?i)no.?perm|no permissions|can't access"),
            ("wrong", "(?i)invalid|wrong"),
        ):
            store = RedisStore(f"redis://lane:{password}@127.0.0.1:{server.port}/0", timeout=5.0)
            with pytest.raises(StoreLost, match=reason) as caught:
                await store.look([POOL])
            assert password not in str(caught.value).replace("wrong user", "") or password == "wrong"
            await store.close()


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority, tmp_path / "ca.pem"


async def test_tls_is_spoken_and_a_certificate_of_somebody_else_is_refused(
    server: RedisProcess, authority: tuple[trustme.CA, Path]
) -> None:
    """Before a plain server stands what speaks TLS, as the one that tests start may be built without."""
    ca, file = authority
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    async with before_tls(server.port, context) as port:
        store = RedisStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={file}", timeout=5.0)
        assert await takes_again(store) > 0
        await store.close()
        stranger = RedisStore(f"rediss://127.0.0.1:{port}/0", timeout=5.0)
        with pytest.raises(StoreLost, match=r"(?i)certificate"):
            await stranger.look([POOL])
        await stranger.close()


async def test_tls_of_redis_itself_is_spoken(tmp_path: Path, authority: tuple[trustme.CA, Path]) -> None:
    if not knows_tls():
        pytest.skip("this redis-server is built without TLS")
    ca, file = authority
    leaf = ca.issue_cert("127.0.0.1")
    leaf.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    leaf.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    from tests.servers import free_port

    port = free_port()
    settings = ["--tls-port", str(port), "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-auth-clients", "no"]
    settings += ["--tls-key-file", str(tmp_path / "key.pem"), "--tls-ca-cert-file", str(file)]
    with redis_process(*settings):
        store = RedisStore(f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={file}", timeout=5.0)
        assert await takes_again(store) > 0
        await store.close()


async def test_when_a_sentinels_master_dies_its_replica_gives_out_higher_terms() -> None:
    with with_sentinel() as (master, _, sentinel):
        store = RedisStore(f"redis+sentinel://127.0.0.1:{sentinel.port}/service")
        before = await takes_again(store)
        master.kill()
        assert await takes_again(store) > before
        await store.close()


async def test_what_one_turn_asks_for_travels_together(server: RedisProcess) -> None:
    client = RedisClient(server.url, timeout=5.0)
    await client.call("PING")
    with server.client() as other:
        read_before = other.info("clients")["connected_clients"]
        await asyncio.gather(*(client.call("SET", f"k{number}", number) for number in range(100)))
        assert other.info("clients")["connected_clients"] == read_before
    answers = await asyncio.gather(*(client.call("GET", f"k{number}") for number in range(100)))
    assert answers == [str(number).encode() for number in range(100)]
    await client.close()


async def test_one_refused_call_does_not_spoil_its_neighbours(server: RedisProcess) -> None:
    client = RedisClient(server.url, timeout=5.0)
    good, bad = await asyncio.gather(client.call("SET", "x", 1), client.call("HGETALL"), return_exceptions=True)
    assert good in (True, b"OK")
    assert isinstance(bad, StoreLost)
    await client.close()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://:hidden@redis", "redis://"),
        ("redis://:hidden@redis:port/0", "cannot be read"),
        ("redis+sentinel://:hidden@redis:26379", "service's name"),
        ("redis+sentinel://:hidden@/service", "names no host"),
        ("redis+cluster://:hidden@redis:x", "host:port"),
        ("redis+cluster://:hidden@redis?db=3", "0 for a cluster"),
        ("redis+cluster://:hidden@redis?speed=high", "says speed"),
    ],
)
def test_a_url_that_cannot_be_read_is_refused_with_the_reason_and_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(BadStoreUrl, match=reason) as caught:
        RedisClient(url)
    assert "hidden" not in str(caught.value)


async def test_three_replicas_on_a_real_redis_that_restarts_empty_keep_one_owner_and_hand_over_at_the_end(
    server: RedisProcess,
) -> None:
    crew = [Member(f"r{number}", RedisStore(server.url, timeout=2.0)) for number in range(3)]
    async with asyncio.timeout(PATIENCE):
        await until(crew, lambda: len(leaders(crew)) == 1)
        first = leaders(crew)[0]
        term = first.ownership.term
        server.kill()
        for member in crew:
            await member.leases.turn()
        assert leaders(crew) == [first], "an owner that cannot reach the store goes on"
        server.start()
        await until(crew, lambda: first.ownership.term > term and leaders(crew) == [first])
        await first.leases.stop()
        assert leaders(crew) == []
        crew.remove(first)
        await until(crew, lambda: len(leaders(crew)) == 1)
    assert leaders(crew)[0].ownership.term > first.ownership.term
    for member in [*crew, first]:
        await member.store.close()


async def test_workers_of_one_machine_choose_one_owner_and_another_when_it_is_gone(tmp_path: Path) -> None:
    crew = [Member(f"w{number}", LocalStore(tmp_path)) for number in range(3)]
    async with asyncio.timeout(PATIENCE):
        await until(crew, lambda: len(leaders(crew)) == 1)
        first = leaders(crew)[0]
        await first.store.close()  # as the kernel does for a dead process
        crew.remove(first)
        await until(crew, lambda: len(leaders(crew)) == 1)
    assert leaders(crew)[0].ownership.term > first.ownership.term
    for member in crew:
        await member.store.close()


class Member:
    """One replica with one pool."""

    def __init__(self, name: str, store: Store) -> None:
        self.store = store
        self.ownership = Ownership(POOL, name)
        self.leases = Leases(store, name, f"tcp://{name}:1", {POOL: self.ownership}, time.monotonic)


def leaders(crew: list[Member]) -> list[Member]:
    return [member for member in crew if member.ownership.leads(time.monotonic())]


async def until(crew: list[Member], reached: object) -> None:
    assert callable(reached)
    while not reached():
        await asyncio.gather(*(member.leases.turn() for member in crew))
        await asyncio.sleep(0.05)
