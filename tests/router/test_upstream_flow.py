"""What an upstream knows of the answers under way, without any cost per piece."""

from __future__ import annotations

import pytest

from router import connection as connection_module
from router import upstream as upstream_module
from router.connection import Connection
from router.response import Response
from router.upstream import Flow, Timeouts, Upstream
from tests.router.test_upstream_framing import CHUNKED, MemoryTransport

LIMITS = Timeouts(1000.0, 1000.0, 1000.0, 1000.0)
PIECE = b"5\r\nhello\r\n"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    for module in (connection_module, upstream_module):
        monkeypatch.setattr(module, "monotonic", one)
    return one


def exchange(upstream: Upstream, clock: Clock) -> Connection:
    """A request that has been sent."""
    connection = Connection(upstream, LIMITS, 4096)
    connection.connection_made(MemoryTransport())
    upstream._busy.add(connection)
    connection.start(Response(connection), b"", bodiless=False, first_byte=1000.0, started=clock.now)
    return connection


async def test_only_answers_that_have_begun_flow_and_the_latest_piece_of_any_counts(clock: Clock) -> None:
    upstream = Upstream("http://127.0.0.1:9", timeouts=LIMITS)
    assert upstream.flow() == Flow(0, None)
    first, second = exchange(upstream, clock), exchange(upstream, clock)
    assert upstream.flow() == Flow(0, None), "no head yet"
    first.data_received(CHUNKED)
    assert upstream.flow() == Flow(0, None), "a head shows that the server answers, not that the engine computes"
    clock.now += 0.125
    first.data_received(PIECE)
    second.data_received(CHUNKED)
    clock.now += 2.0
    assert upstream.flow() == Flow(1, 2.0)
    second.data_received(PIECE)
    clock.now += 1.0
    assert upstream.flow() == Flow(2, 1.0)
    second.data_received(b"0\r\n\r\n")
    assert upstream.flow() == Flow(1, 3.0), "an answer that is over flows no more"
    upstream.close()


async def test_what_comes_right_after_the_head_may_be_a_greeting_and_is_no_sign_of_work(clock: Clock) -> None:
    upstream = Upstream("http://127.0.0.1:9", timeouts=LIMITS)
    connection = exchange(upstream, clock)
    connection.data_received(CHUNKED)
    clock.now += 0.0625
    connection.data_received(PIECE)
    assert upstream.flow() == Flow(1, None)


async def test_a_client_that_is_slow_is_why_nothing_comes(clock: Clock) -> None:
    upstream = Upstream("http://127.0.0.1:9", timeouts=LIMITS)
    connection = exchange(upstream, clock)
    connection.data_received(CHUNKED)
    clock.now += 1.0
    connection.data_received(PIECE)
    connection.pause()
    clock.now += 50.0
    assert upstream.flow() == Flow(0, None)
    connection.resume()
    assert upstream.flow() == Flow(1, 0.0), "from here on it may speak"
