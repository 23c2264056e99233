"""Real ZeroMQ sockets: what an engine tells arrives once and in order, and what is missed is never taken for known."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from policies.exact_index import ExactIndex
from policies.kv_tree import AllBlocksCleared, BlockRemoved, BlockStored
from router.kv_events import Feed, KvEventListener
from tests.router.kv_publisher import Publisher

CHAIN = tuple(range(1, 11))


@pytest.fixture
async def engine() -> AsyncIterator[Publisher]:
    publisher = Publisher()
    await publisher.open()
    yield publisher
    await publisher.close()


class Listening:
    """An index and who listens for it."""

    def __init__(self, engine: Publisher, *, replay: bool = True) -> None:
        self.index = ExactIndex(1000, "s")
        self.counts: Counter[str] = Counter()
        replay_url = engine.replay_url if replay else None
        feed = Feed("e0", self.index, engine.url, replay_url, lambda what, amount: self.counts.update({what: amount}))
        self.listener = KvEventListener("p", lambda: [feed])

    async def __aenter__(self) -> Listening:
        self.listener.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.listener.stop()

    def stored(self, first: int, count: int = 10, parent: int | None = None) -> BlockStored:
        """Blocks of a request of ours, 4 tokens each as our own blocks are."""
        session = self.index.expect(CHAIN, 40, 4.0)
        self.sessions = [*getattr(self, "sessions", []), session]
        return BlockStored(tuple(range(first, first + count)), parent, 4, session)

    def settle(self) -> None:
        for session in self.sessions:
            self.index.settle(session, 40, 0)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110  # what is waited for is in another process or library
            await asyncio.sleep(0.005)


async def test_events_reach_the_index(engine: Publisher) -> None:
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.in_sync)
        our.settle()
        assert our.index.match(CHAIN) == 10
        await engine.publish(BlockRemoved((109, 108)))
        await until(lambda: our.index.match(CHAIN) == 8)
        await engine.publish(AllBlocksCleared())
        await until(lambda: our.index.match(CHAIN) == 0)
        assert our.counts["events"] == 3
    assert (our.index.in_sync, our.index.followed) == (False, False)


async def test_history_is_read_from_its_beginning(engine: Publisher) -> None:
    our = Listening(engine)
    await engine.publish(our.stored(100, 5))
    await engine.publish(our.stored(105, 5, parent=104))
    async with our:
        await until(lambda: our.index.in_sync)
        our.settle()
        assert our.index.match(CHAIN) == 10
        assert our.counts["gaps"] == 0


async def test_what_was_lost_on_the_way_is_asked_for(engine: Publisher) -> None:
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100, 4))
        await until(lambda: our.index.engine_blocks == 4)
        await engine.publish(our.stored(104, 3, parent=103), lost=True)
        await engine.publish(our.stored(107, 3, parent=106))
        await until(lambda: our.index.engine_blocks == 10)
        our.settle()
        assert (our.index.in_sync, our.index.match(CHAIN)) == (True, 10)
        assert our.counts["gaps"] == 1
        assert our.counts["replays"] >= 1


async def test_a_message_lost_before_the_engine_fell_idle_is_found(
    engine: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.kv_feed._IDLE_SECONDS", 0.05)
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.engine_blocks == 10)
        await engine.publish(BlockRemoved((100,)), lost=True)
        await until(lambda: our.index.engine_blocks == 9)
        assert our.index.in_sync
        await until(lambda: our.counts["replays"] >= 1)


async def test_a_replay_with_holes_is_asked_for_again(engine: Publisher) -> None:
    our = Listening(engine)
    for number in range(10):
        await engine.publish(our.stored(100 + number, 1, parent=99 + number if number else None))
    engine.drops = {3, 7}
    async with our:
        await until(lambda: our.index.engine_blocks == 10)
        assert engine.replays[:2] == [0, 2]


async def test_a_gap_that_no_replay_fills_falls_back_to_the_estimate() -> None:
    engine = Publisher(remembers=2)
    await engine.open()
    try:
        async with Listening(engine) as our:
            our.index.touch(CHAIN[:3])
            await engine.subscribed()
            await engine.publish(our.stored(100))
            await until(lambda: our.index.in_sync)
            for number in range(5):
                await engine.publish(our.stored(200 + number, 1, parent=999), lost=True)
            await engine.publish(our.stored(300, 1, parent=999))
            await until(lambda: not our.index.in_sync)
            assert our.index.match(CHAIN) == 3
            await until(lambda: our.index.engine_blocks == 2)
            await engine.publish(AllBlocksCleared())
            await until(lambda: our.index.in_sync)
    finally:
        await engine.close()


async def test_without_a_replay_socket_a_gap_falls_back_to_the_estimate(engine: Publisher) -> None:
    async with Listening(engine, replay=False) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.in_sync)
        await engine.publish(BlockRemoved((100,)), lost=True)
        await engine.publish(our.stored(300, 1, parent=999))
        await until(lambda: not our.index.in_sync)
        assert our.counts["gaps"] == 1


async def test_a_restarted_engine_is_noticed_even_where_its_numbers_go_on(engine: Publisher) -> None:
    """The new process has told more messages than the old one had before we hear it again."""
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.engine_blocks == 10)
        ports = engine.port, engine.replay_port
        await engine.close()
        await until(lambda: not our.index.in_sync)
        other = Publisher(stamp=1.0)
        for number in range(3):
            other.buffer.append((number, _payload(other, 500 + number, 499 + number if number else None)))
        other.sequence = 3
        await other.open(*ports)
        try:
            await until(lambda: our.index.engine_blocks == 3)
            assert not our.index.in_sync  # no session of ours has come back from the new process
        finally:
            await other.close()


async def test_numbers_that_begin_again_are_another_process(engine: Publisher) -> None:
    async with Listening(engine, replay=False) as our:
        await engine.subscribed()
        for first in (100, 200, 300):
            await engine.publish(our.stored(first))
        await until(lambda: our.index.engine_blocks == 30)
        engine.sequence = 0
        await engine.publish(our.stored(400))
        await until(lambda: our.index.engine_blocks == 10)
        assert our.counts["gaps"] == 0
        assert our.index.engine_blocks == 10, "what the process before it held is gone"


async def test_a_disconnect_is_noticed_and_healed(engine: Publisher) -> None:
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.in_sync)
        engine.pub.unbind(engine.url)
        engine.pub.close(linger=0)
        await until(lambda: not our.index.in_sync)
        import zmq

        engine.pub = engine.context.socket(zmq.XPUB)
        engine.pub.bind(engine.url)
        await until(lambda: our.index.in_sync)
        our.settle()
        assert our.index.match(CHAIN) == 10


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x00\x00\x00", b"\x91" * 3000])
async def test_garbage_is_a_gap_and_no_more(engine: Publisher, payload: bytes) -> None:
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.in_sync)
        await engine.publish(payload=payload)
        await until(lambda: not our.index.in_sync)
        await engine.publish(our.stored(300))
        await until(lambda: our.index.engine_blocks == 10)
        assert our.counts["malformed"] == 1


async def test_a_burst_leaves_the_loop_to_others(engine: Publisher) -> None:
    our = Listening(engine)
    for number in range(1000):
        await engine.publish(BlockStored(tuple(range(number * 100, number * 100 + 100)), None, 4, None))
    turns = 0
    async with our:

        async def other() -> None:
            nonlocal turns
            while our.index.engine_blocks < 40_000:
                turns += 1
                await asyncio.sleep(0)

        await asyncio.wait_for(other(), 60)
    assert turns >= 40


async def test_cleared_by_a_probe_it_reads_the_history_again(
    engine: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.kv_feed._IDLE_SECONDS", 0.05)
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.in_sync)
        our.index.clear()
        assert our.index.engine_blocks == 0
        await until(lambda: our.index.engine_blocks == 10)


async def test_a_listener_takes_over_from_the_one_before_a_reload(engine: Publisher) -> None:
    async with Listening(engine) as our:
        await engine.subscribed()
        await engine.publish(our.stored(100))
        await until(lambda: our.index.in_sync)
        (feed,) = our.listener._feeds()
        successor = KvEventListener("p", lambda: [feed], our.listener)
        successor.start()
        await our.listener.stop()
        await until(lambda: len(engine.replays) == 2 and our.index.engine_blocks == 10)
        assert our.index.followed
        await engine.publish(BlockRemoved((100,)))
        await until(lambda: our.index.engine_blocks == 9)
        await successor.stop()


async def test_an_engine_that_is_not_there_costs_nothing() -> None:
    engine = Publisher()
    await engine.open()
    await engine.close()
    async with Listening(engine) as our:
        await asyncio.sleep(0)
        assert not our.index.in_sync


def _payload(engine: Publisher, block: int, parent: int | None) -> bytes:
    from tests.router.kv_publisher import encode

    return encode([BlockStored((block,), parent, 4, None)], engine.stamp)
