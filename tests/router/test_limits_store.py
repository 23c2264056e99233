"""The limits of workers without Redis: the store in memory answers as a real Redis does, call for call."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis.asyncio

from policies.admission.calendar import DAY, MINUTE, MONTH
from policies.admission.leased_seats import LEASE_SECONDS
from router.coordination.store import StoreLost
from router.limits_line import LineStore, StoreServer
from router.limits_lua import LATE, OK, OTHER_EPOCH, SCRIPT
from router.limits_store import LuaStore
from tests.servers import Server

STORES_OWN_TIME = "local t = call('TIME')"
STORES_OWN_AGE = "redis.pcall('INFO', 'server')"
TIMED = SCRIPT.replace(STORES_OWN_TIME, "local t = {ARGV[2], ARGV[3]}").replace(STORES_OWN_AGE, "ARGV[4]")
"""The script at a time and an age that the test says, for both: Redis' own cannot be set."""
NOW = 1_772_323_170.0  # a month ends half a minute later
CALLS = 250


class Both:
    """A real Redis and the store in memory, asked the same."""

    def __init__(self, client: redis.asyncio.Redis, seed: int) -> None:
        self.now = NOW
        self.client = client
        self.mine = LuaStore(lambda: self.now, TIMED)
        self.tenant = f"diff{seed}"

    async def call(self, keys: list[str], packed: bytes) -> list[Any]:
        micro = round(self.now * 1_000_000)
        age = b"uptime_in_seconds:%d\r\n" % (self.now - NOW)
        words = [packed, b"%d" % (micro // 1_000_000), b"%d" % (micro % 1_000_000), age]
        real = msgspec.msgpack.decode(await self.client.eval(TIMED, len(keys), *keys, *words))
        ours = msgspec.msgpack.decode(self.mine.run([key.encode() for key in keys], words))
        assert _sorted(ours) == _sorted(real)
        return list(ours)

    async def same_content(self) -> int:
        """Compares all that is kept, and for how long; returns how many hashes there are."""
        found = {key: await self.client.hgetall(key) for key in await self.client.keys(f"*{{{self.tenant}}}*")}
        content = self.mine.hashes.content()
        assert {key: fields for key, (fields, _) in content.items()} == found
        for key, (_, end) in content.items():
            # Redis counts down by its own clock from the last call of this key, and the test's stands still meanwhile.
            kept = float(await self.client.pttl(key)) / 1000
            assert 0 < kept <= end - NOW
        return len(found)


def _sorted(answer: list[Any]) -> list[Any]:
    """The order of a hash's fields is nobody's business."""
    *head, found = answer
    return [*head, [[*one[:-1], sorted(one[-1].split(";"))] if isinstance(one[-1], str) else one for one in found]]


class Asker:
    """A replica that says whatever comes to its mind, within what the protocol allows."""

    def __init__(self, name: str, draw: random.Random) -> None:
        self.name = name
        self.draw = draw
        self.calls = 0
        self.epoch = ""
        self.figures: dict[tuple[str, int], int] = {}
        self.held = 0

    def words(self, now: float, tenant: str, spec: list[tuple[str, Any, int]]) -> tuple[list[str], bytes]:
        draw, asks = self.draw, []
        keys = [f"promptlane:{{{tenant}}}:limits"]
        for kind, calendar, limit in spec:
            key = f"promptlane:{{{tenant}}}:limit:{kind}"
            if calendar is None:
                keys.append(key)
                taken = draw.randint(0, self.held)
                asks.append((1, limit, self.held, taken, draw.randint(0, limit), draw.randint(0, 3)))
                continue
            keys += [key, f"{key}:{self.name}"]
            slice_ = calendar.stamp(now)[0] if draw.random() < 0.9 else draw.randint(0, 5)
            known = [(at, figure) for (one, at), figure in self.figures.items() if one == kind]
            said = [word for at, figure in known for word in (at, max(0, figure - draw.randint(0, 3)))]
            least = draw.randint(0, 8)
            asks.append((0, limit, calendar.monthly, calendar.seconds, calendar.slice_seconds, slice_, said,
                         least, draw.randint(0, least), draw.randint(0, 20), draw.randint(0, 5),
                         draw.choice([-1, 0, 3]), self.totals(known)))  # fmt: skip
        self.calls += 1 if draw.random() < 0.97 else 0
        leaving, returning = draw.random() < 0.03, draw.random() < 0.05
        sent = now + (draw.choice([-5, 5]) if draw.random() < 0.03 else draw.uniform(-0.5, 0.5))
        packed = msgspec.msgpack.encode((self.name, self.calls, sent, self.epoch, returning, 2, leaving, asks))
        return keys, packed

    def totals(self, known: list[tuple[int, int]]) -> list[int]:
        """What it remembers of everybody, where it has heard that the store lost its memory."""
        if self.draw.random() < 0.8:
            return []
        return [word for at, figure in known for word in (at, figure + self.draw.randint(0, 9))]

    def hear(self, answer: list[Any], now: float, spec: list[tuple[str, Any, int]]) -> None:
        status, _, self.epoch, _, _, found = answer
        if status != OK:
            return
        for (kind, calendar, _), words in zip(spec, found, strict=True):
            if calendar is None:
                self.held = words[0]
            elif words[0]:
                at = (kind, calendar.stamp(now)[0])
                self.figures[at] = self.figures.get(at, 0) + words[0]


SPEC = [("rpm", MINUTE, 50), ("day", DAY, 2000), ("money", MONTH, 10**12), ("seats", None, 7)]


@pytest.fixture
async def client(redis_server: Server) -> AsyncIterator[redis.asyncio.Redis]:
    found = redis.asyncio.Redis.from_url(redis_server.url)
    yield found
    await found.aclose()


def test_the_script_under_test_is_the_real_one_but_for_where_it_takes_the_time_from() -> None:
    assert SCRIPT.count(STORES_OWN_TIME) == SCRIPT.count(STORES_OWN_AGE) == 1


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_replicas_say_both_stores_answer_the_same_and_keep_the_same(
    client: redis.asyncio.Redis, seed: int
) -> None:
    draw = random.Random(seed)
    both = Both(client, seed)
    askers = [Asker(f"{number:016x}", draw) for number in range(3)]
    seen = set()
    for number in range(CALLS):
        both.now += draw.choice([0.0, 0.001, 0.25, 1.0, LEASE_SECONDS / 2])
        asker = draw.choice(askers)
        spec = SPEC if draw.random() < 0.5 else draw.sample(SPEC, draw.randint(1, 3))
        keys, packed = asker.words(both.now, both.tenant, spec)
        answer = await both.call(keys, packed)
        seen.add(answer[0])
        asker.hear(answer, both.now, spec)
        if number % 50 == 49:
            assert await both.same_content() > 3
    assert seen == {OK, OTHER_EPOCH, LATE}


def test_what_nobody_asks_for_any_more_takes_no_memory() -> None:
    now = [NOW]
    store, asker = LuaStore(lambda: now[0]), Asker("a", random.Random(1))
    for _ in range(3):
        keys, packed = asker.words(now[0], "t", SPEC)
        asker.hear(msgspec.msgpack.decode(store.run([key.encode() for key in keys], [packed])), now[0], SPEC)
    assert len(store.hashes) > 3
    now[0] += 40 * 86400.0
    keys, packed = Asker("b", random.Random(1)).words(now[0], "other", SPEC)
    store.run([key.encode() for key in keys], [packed])
    assert len(store.hashes) == 1  # the other tenant's, which has begun an epoch and nothing more


# -- the way there


async def test_workers_reach_it_by_a_socket_and_a_broken_call_is_a_store_that_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "limits"
    store = LuaStore()
    server = StoreServer(store.run)
    line = LineStore(path, timeout=5.0)
    with pytest.raises(StoreLost, match="cannot be reached"):
        await line.call("EVAL", SCRIPT, 1, "k", b"")
    await server.start(path)
    asker = Asker("a", random.Random(1))
    keys, packed = asker.words(NOW, "t", SPEC)
    answer = msgspec.msgpack.decode(await line.call("EVAL", SCRIPT, len(keys), *keys, packed))
    assert answer[0] == OTHER_EPOCH
    with pytest.raises(StoreLost, match="failed there"):
        await line.call("EVAL", SCRIPT, 1, "k", b"\xc1")
    assert await line.call("EVAL", SCRIPT, len(keys), *keys, packed)
    with pytest.raises(ValueError, match="only the script"):
        await line.call("EVAL", "return 1", 0)
    await server.stop()
    with pytest.raises(StoreLost):
        await line.call("EVAL", SCRIPT, len(keys), *keys, packed)
    await line.close()


async def test_a_store_that_does_not_answer_in_time_is_lost(tmp_path: Path) -> None:

    ended = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        ended.set()

    server = await asyncio.start_unix_server(silent, tmp_path / "limits")
    line = LineStore(tmp_path / "limits", timeout=0.05)
    with pytest.raises(StoreLost, match="no answer within"):
        await line.call("EVAL", SCRIPT, 1, "k", b"x")
    await line.close()
    await ended.wait()
    server.close()
