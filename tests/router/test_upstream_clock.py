"""The timeouts of an exchange on a clock that the test drives: what each limits, and when it does not run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from router import connection as connection_module
from router import timeouts as timeouts_module
from router.connection import Connection
from router.errors import BadEngineResponse, EngineTimeout
from router.response import Response
from router.timeouts import LazyTimer, Timeouts
from tests.router.test_upstream_framing import CHUNKED, OK, MemoryTransport, Shelf

LIMITS = Timeouts(connect=1, first_byte=20, idle=10, total=100)


class Timer:
    def __init__(self, due: float, call: Callable[[], None]) -> None:
        self.due, self.call = due, call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock:
    """A loop's clock and timers; time passes only in `advance`."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[Timer] = []
        self.armed = 0

    def call_later(self, delay: float, call: Callable[[], None]) -> Timer:
        self.armed += 1
        self.timers.append(Timer(self.now + delay, call))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self.timers.remove(timer)
            self.now = max(self.now, timer.due)
            timer.call()
        self.now = end


class Timed:
    """An exchange on a memory transport and the test's clock."""

    def __init__(self, clock: Clock, owner: Shelf | None = None, first_byte: float = LIMITS.first_byte) -> None:
        self.clock = clock
        self.transport = MemoryTransport()
        self.first_byte = first_byte
        self.connection = Connection(owner or Shelf(), LIMITS, 4096)
        self.connection._timer = LazyTimer(clock)  # type: ignore[arg-type]
        self.connection.connection_made(self.transport)
        self.begin()

    def begin(self) -> None:
        self.response = Response(self.connection)
        self.connection.start(self.response, b"GET", bodiless=False, first_byte=self.first_byte, started=self.clock.now)

    async def fails_by(self, limit: str) -> None:
        assert self.transport.aborted
        with pytest.raises(EngineTimeout, match=limit):
            await self.response.read(1 << 20)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (connection_module, timeouts_module):
        monkeypatch.setattr(module, "monotonic", lambda: clock.now)
    return clock


async def test_no_head_within_first_byte_fails_the_exchange(clock: Clock) -> None:
    timed = Timed(clock)
    clock.advance(19)
    assert not timed.transport.aborted
    clock.advance(2)
    await timed.fails_by("first byte")


async def test_part_of_a_head_does_not_stop_the_first_byte_clock(clock: Clock) -> None:
    timed = Timed(clock)
    clock.advance(19)
    timed.connection.data_received(b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200")
    clock.advance(2)
    await timed.fails_by("first byte")


async def test_the_first_byte_clock_starts_when_the_engine_has_taken_the_request(clock: Clock) -> None:
    timed = Timed(clock)
    timed.transport.unsent = 300_000
    timed.connection.pause_writing()
    for left in (200_000, 100_000, 50_000):  # slow, but it takes some in every period
        timed.transport.unsent = left
        clock.advance(20)
        assert not timed.transport.aborted
    timed.transport.unsent = 0
    timed.connection.resume_writing()
    clock.advance(19)
    assert not timed.transport.aborted
    clock.advance(2)
    await timed.fails_by("first byte")


async def test_the_head_of_a_stream_is_no_first_byte(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED)
    clock.advance(19)
    assert not timed.transport.aborted, "longer than the idle limit, which holds between pieces"
    clock.advance(2)
    await timed.fails_by("first byte")


async def test_the_idle_limit_holds_from_the_first_piece_on_though_it_is_shorter(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED)
    clock.advance(1)
    timed.connection.data_received(b"1\r\nx\r\n")
    clock.advance(11)
    await timed.fails_by("idle")


async def test_a_shorter_limit_to_the_first_byte_is_for_an_engine_that_answers_nobody(clock: Clock) -> None:
    owner = Shelf()
    busy, other = Timed(clock, owner, first_byte=4), Timed(clock, owner)
    other.connection.data_received(CHUNKED)
    for _ in range(4):
        clock.advance(3)
        other.connection.data_received(b"1\r\nx\r\n")
    assert not busy.transport.aborted
    clock.advance(5)
    await busy.fails_by("first byte")


async def test_an_engine_that_answers_others_has_the_pools_own_limit(clock: Clock) -> None:
    owner = Shelf()
    lost, other = Timed(clock, owner, first_byte=4), Timed(clock, owner)
    other.connection.data_received(CHUNKED)
    for _ in range(7):
        assert not lost.transport.aborted
        clock.advance(3)
        other.connection.data_received(b"1\r\nx\r\n")
    await lost.fails_by("first byte")


async def test_an_engine_that_takes_nothing_of_a_request_fails_by_first_byte(clock: Clock) -> None:
    timed = Timed(clock)
    timed.transport.unsent = 300_000
    timed.connection.pause_writing()
    clock.advance(21)
    await timed.fails_by("first byte")


async def test_silence_between_pieces_fails_by_idle_and_every_piece_restarts_it(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED)
    for _ in range(5):
        clock.advance(9)
        timed.connection.data_received(b"1\r\nx\r\n")
    assert not timed.transport.aborted
    clock.advance(11)
    await timed.fails_by("idle")


async def test_a_stream_that_never_ends_fails_by_total(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED)
    for _ in range(20):
        if not timed.transport.aborted:
            timed.connection.data_received(b"1\r\nx\r\n")
            clock.advance(5.5)
    assert clock.now >= 1100
    await timed.fails_by("total")


async def test_the_idle_clock_stands_while_a_slow_client_keeps_us_from_reading(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED)
    drained = asyncio.get_running_loop().create_future()
    relay = asyncio.create_task(timed.response.relay(lambda piece: drained))
    await asyncio.sleep(0)
    timed.connection.data_received(b"1\r\nx\r\n")
    await asyncio.sleep(0)
    assert timed.transport.paused
    clock.advance(50)
    assert not timed.transport.aborted
    drained.set_result(None)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not timed.transport.paused
    clock.advance(9)
    assert not timed.transport.aborted
    clock.advance(2)
    with pytest.raises(EngineTimeout, match="idle"):
        await relay


async def test_the_total_limit_also_ends_the_wait_for_a_client_that_never_reads(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED + b"1\r\nx\r\n")
    never = asyncio.get_running_loop().create_future()
    relay = asyncio.create_task(timed.response.relay(lambda piece: never))
    await asyncio.sleep(0)
    clock.advance(101)
    with pytest.raises(EngineTimeout, match="total"):
        await relay
    assert timed.transport.aborted
    assert not relay.cancelling()


async def test_a_cancelled_wait_for_a_slow_client_stays_cancelled_and_closes_the_engine(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED + b"1\r\nx\r\n")
    never = asyncio.get_running_loop().create_future()
    relay = asyncio.create_task(timed.response.relay(lambda piece: never))
    await asyncio.sleep(0)
    relay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relay
    assert timed.transport.aborted


async def test_a_cancelled_wait_stays_cancelled_even_if_the_engine_failed_meanwhile(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED + b"1\r\nx\r\n")
    never = asyncio.get_running_loop().create_future()
    relay = asyncio.create_task(timed.response.relay(lambda piece: never))
    await asyncio.sleep(0)
    timed.connection.connection_lost(ConnectionResetError())
    relay.cancel()
    with pytest.raises(asyncio.CancelledError):
        await relay


async def test_timers_are_not_armed_per_piece_nor_per_exchange(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(CHUNKED)
    for _ in range(1000):
        timed.connection.data_received(b"1\r\nx\r\n")
    timed.connection.data_received(b"0\r\n\r\n")
    assert clock.armed <= 2
    for _ in range(100):
        timed.begin()
        timed.connection.data_received(OK + b"content-length: 0\r\n\r\n")
    assert clock.armed <= 2
    clock.advance(1000)
    assert not timed.transport.aborted
    assert all(timer.cancelled for timer in clock.timers)


async def test_a_timer_left_from_an_earlier_exchange_does_not_fail_the_next_one(clock: Clock) -> None:
    timed = Timed(clock)
    timed.connection.data_received(OK + b"content-length: 0\r\n\r\n")
    clock.advance(9)
    timed.begin()
    clock.advance(19)
    assert not timed.transport.aborted
    clock.advance(2)
    await timed.fails_by("first byte")


async def test_a_body_longer_than_the_reader_wants_is_refused_as_soon_as_that_is_known(clock: Clock) -> None:
    declared, grown = Timed(clock), Timed(clock)
    declared.connection.data_received(OK + b"content-length: 11\r\n\r\n")
    with pytest.raises(BadEngineResponse, match="larger"):
        await declared.response.read(10)
    grown.connection.data_received(CHUNKED)
    read = asyncio.create_task(grown.response.read(10))
    await asyncio.sleep(0)
    grown.connection.data_received(b"6\r\nabcdef\r\n")
    assert not grown.transport.aborted
    grown.connection.data_received(b"5\r\nghijk\r\n")
    with pytest.raises(BadEngineResponse, match="larger"):
        await read
    assert declared.transport.aborted
    assert grown.transport.aborted
