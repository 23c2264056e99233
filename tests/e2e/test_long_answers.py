"""An answer of 200 MB goes through a gateway whose memory does not grow, however slowly its client reads.

Floor: tests only. The real command; engines on sockets of this process, which pour as fast as somebody takes it.
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.router.gateway_process import STREAM, WAIT_SECONDS, Engines, Gateway, configuration, request

TOTAL = 200 * 1024 * 1024
EVENT = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}],"model":"tiny"}\n\n' % (b"x" * 65_000)
EVENTS = TOTAL // len(EVENT) + 1
MOST_GROWN = 16 * 1024 * 1024
"""Of the gateway's peak. It holds 256 KiB of an answer at most; the rest is what a busy process takes once."""


class Pouring:
    """`sent`: bytes of events that the loop's transport, and behind it the kernel, have taken."""

    def __init__(self) -> None:
        self.sent = 0

    async def pour(self, _: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        for _number in range(EVENTS):
            writer.write(b"%x\r\n%b\r\n" % (len(EVENT), EVENT))
            await writer.drain()
            self.sent += len(EVENT)
        writer.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")

    def until_it_waits(self) -> int:
        """What it had sent when nobody took any more."""
        end, before = time.monotonic() + WAIT_SECONDS, -1
        while self.sent != before:
            assert time.monotonic() < end
            before = self.sent
            time.sleep(0.5)
        return before


@pytest.fixture
def engines() -> Iterator[Engines]:
    running = Engines("a")
    yield running
    running.stop()


@pytest.fixture
def gateway(tmp_path: Path, engines: Engines) -> Iterator[Gateway]:
    running = Gateway(tmp_path, configuration({"a": engines.url("a")}))
    try:
        running.wait_ready().wait_healthy("a")
        yield running
    finally:
        running.stop()


def peak(gateway: Gateway) -> int:
    """The most resident memory that it has had, bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{gateway.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def read_all(sock: socket.socket, begun: bytes) -> tuple[int, int]:
    """Bytes and events up to the end of the body. Keeps none of it."""
    size, events, tail = len(begun), begun.count(b"data: "), begun[-16:]
    while not tail.endswith(b"0\r\n\r\n"):
        piece = sock.recv(1 << 20)
        assert piece, tail
        joined = tail[-5:] + piece  # an event's beginning may be cut
        size, events, tail = size + len(piece), events + joined.count(b"data: "), joined[-16:]
    return size, events


@pytest.mark.parametrize("waits", [False, True], ids=["a client that keeps up", "one that stops to read"])
def test_a_stream_of_200_mb_passes_and_memory_stays_flat(gateway: Gateway, engines: Engines, waits: bool) -> None:
    pouring = Pouring()
    assert gateway.post({"model": "qwen", "messages": []})[0] == 200  # what a first request makes is made
    before = peak(gateway)
    engines["a"].reply = pouring.pour
    with gateway.connect() as sock:
        sock.sendall(request({"model": "qwen", "messages": [], "stream": True}))
        begun = sock.recv(65536)
        if waits:
            assert pouring.until_it_waits() < TOTAL / 4  # the rest is still the engine's
        size, events = read_all(sock, begun)
    assert events == EVENTS + 1
    assert size > TOTAL
    assert peak(gateway) - before < MOST_GROWN
