"""Clients that vanish in the middle of a stream, and how long their engine's slot stays taken.

All streams run at once; one client after the other goes, half by RST (a crashed process), half by FIN (a closed
socket). The time runs from just before the socket closes until the engine itself has said that it aborted the request,
so it holds one poll of the engine: the figure is an upper bound.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from benchmarks.engine.launch import Engine
from benchmarks.overhead_parts.answers import OK, BadAnswer
from benchmarks.overhead_parts.load import Target
from benchmarks.overhead_parts.traffic import Scenario
from benchmarks.soak_parts.stack import LONGEST_REPLY, Stack

GOAL_MS = 100.0
GIVE_UP_SECONDS = 5.0
"""A slot that is not free by then is not freed by its client's leaving."""
RST, FIN = "RST", "FIN"
_ENDPOINT = re.compile(rb"\r\nx-promptlane-endpoint: ([^\r]+)")
_TOKENS = LONGEST_REPLY // 2  # the stream must not end by itself
_EVENTS = 3  # seen before the client goes: the stream is well under way
_READ_SECONDS = 60.0
_PAUSE_SECONDS = 0.05  # at most, between two: so that kills meet every moment of the engine's step
_LINGER_NOTHING = struct.pack("ii", 1, 0)  # closing drops what is unsent, and says so by RST


@dataclass(frozen=True)
class Kill:
    """`freed_ms` is None when the slot was still taken after `GIVE_UP_SECONDS`; `poll_ms`: between two looks."""

    how: str
    endpoint: str
    freed_ms: float | None
    poll_ms: float


class Victim:
    """A blocking client in the middle of a stream."""

    def __init__(self, request: bytes, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), _READ_SECONDS)
        self._seen = b""
        self._socket.sendall(request)

    @property
    def endpoint(self) -> str:
        """Who answers it, by the gateway's routing header. Raises BadAnswer."""
        found = _ENDPOINT.search(self._seen)
        if found is None:
            raise BadAnswer(f"no routing header: {self._seen[:200]!r}")
        return found[1].decode()

    def wait_until_streaming(self) -> None:
        """Raises BadAnswer, or TimeoutError when nothing comes."""
        while self._seen.count(b"data: ") < _EVENTS:
            data = self._socket.recv(65536)
            self._seen += data
            if not data or not self._seen.startswith(OK[: len(self._seen)]):
                raise BadAnswer(f"no stream: {self._seen[:200]!r}")

    def vanish(self, how: str) -> float:
        """Closes the socket; returns the moment just before (monotonic seconds)."""
        if how == RST:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOTHING)
        else:
            self._read_what_is_there()  # a socket that is closed with unread bytes sends RST
        now = time.monotonic()
        self._socket.close()
        return now

    def _read_what_is_there(self) -> None:
        self._socket.setblocking(False)
        try:
            while self._socket.recv(65536):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._socket.close()


@contextmanager
def aborted_total(engine: Engine) -> Iterator[Callable[[], int]]:
    """Reads the engine's count of aborted requests over a connection that is already open."""
    host, port = engine.control_url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=GIVE_UP_SECONDS)

    def read() -> int:
        connection.request("GET", "/debug/state")
        with connection.getresponse() as answer:
            return int(json.loads(answer.read())["aborted_total"])

    try:
        read()
        yield read
    finally:
        connection.close()


def kill(victim: Victim, how: str, engine: Engine) -> Kill:
    """Ends one client and waits for its slot."""
    with aborted_total(engine) as aborted:
        before = aborted()
        at = victim.vanish(how)
        freed, polls = seconds_until(lambda: aborted() > before, at)
    elapsed = time.monotonic() - at
    return Kill(how, victim.endpoint, None if freed is None else freed * 1000, elapsed / polls * 1000)


def seconds_until(
    condition: Callable[[], bool], since: float, clock: Callable[[], float] = time.monotonic
) -> tuple[float | None, int]:
    """Seconds from `since` until the condition was seen to hold (None: not within `GIVE_UP_SECONDS`); the looks."""
    looks = 0
    while True:
        looks += 1
        holds, now = condition(), clock()
        if holds:
            return now - since, looks
        if now - since > GIVE_UP_SECONDS:
            return None, looks


def kill_all(stack: Stack, target: Target, count: int, rng: random.Random) -> list[Kill]:
    """Begins `count` streams and kills them one by one. Raises BadAnswer or OSError when one does not stream."""
    queue = target.requests(Scenario(connections=1, chunks=_TOKENS))
    with ExitStack() as clients:
        victims = []
        for _ in range(count):
            victims.append(Victim(next(queue), target.port))
            clients.callback(victims[-1].close)
        for victim in victims:
            victim.wait_until_streaming()
        kills = []
        for number, victim in enumerate(victims):
            time.sleep(rng.uniform(0, _PAUSE_SECONDS))
            kills.append(kill(victim, (RST, FIN)[number % 2], stack.engines[victim.endpoint]))
        return kills
