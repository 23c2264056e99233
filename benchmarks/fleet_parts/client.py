"""The client: one connection a request, every request at its time, whatever became of those before it.

Floor: asyncio. It keeps to the times of its orders and not to the pace of the answers, so a slow fleet is not spared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from time import perf_counter
from typing import cast

from benchmarks.fleet_parts.answers import Answer, AnswerReader

CONNECT_SECONDS = 10.0
"""On the loopback; longer means that the gateway's accept queue is full and stays so."""
PATH = "/v1/chat/completions"


@dataclass(frozen=True)
class Order:
    """One request of a run. `at`: seconds after the run's beginning; `number`: its place in the trace."""

    number: int
    at: float
    body: bytes


@dataclass(frozen=True)
class Exchange:
    """An order and what became of it: times are seconds after the run's beginning.

    `due_at`: when it should have been sent, from which everything is measured; `sent_at`: when it was.
    """

    number: int
    due_at: float
    sent_at: float
    answer: Answer

    @property
    def ttft(self) -> float | None:
        """Seconds to the first text, None when none came or the answer is not whole."""
        first = self.answer.first_at
        return None if first is None or self.answer.failed else first - self.due_at

    @property
    def tpot(self) -> float | None:
        """Seconds per token after the first, None for an answer of one token or none."""
        answer = self.answer
        if answer.failed or answer.first_at is None or answer.output_tokens < 2:
            return None
        return (answer.last_at - answer.first_at) / (answer.output_tokens - 1)


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._reader = AnswerReader()
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses

    def data_received(self, data: bytes) -> None:
        try:
            if self._reader.feed(data, perf_counter() - self._began):
                self._end("")
        except ValueError as error:
            self._end(str(error))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection closed by the other side: {exc or 'end of file'}")

    def _end(self, failed: str) -> None:
        if not self._over.done():
            self._over.set_result(failed)

    async def ask(self, request: bytes, patience: float) -> Answer:
        """The answer, or why there is none after `patience` seconds."""
        self._transport.write(request)
        try:
            async with asyncio.timeout(patience):
                failed = await self._over
        except TimeoutError:
            failed = f"no whole answer within {patience:.0f} s"
        finally:
            self._transport.abort()
        return Answer(status=0, failed=failed) if failed else self._reader.answer()


class Client:
    """Sends to ports of the loopback, to each request's at random, in the same way each time. `patience`: seconds that
    an answer may take; `began`: the run's time 0."""

    def __init__(self, ports: Sequence[int], headers: Mapping[str, str], patience: float) -> None:
        self._ports = ports
        self._patience = patience
        self.began = perf_counter()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n{lines}"

    @property
    def now(self) -> float:
        return perf_counter() - self.began

    async def run(self, orders: Sequence[Order]) -> list[Exchange]:
        """All orders at their times. Returns them as they were given, when the last one is over."""
        self.began = perf_counter()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.send(order), name=f"request {order.number}") for order in orders]
        return [task.result() for task in tasks]

    async def send(self, order: Order) -> Exchange:
        """One order, at its time or now when that is past."""
        await asyncio.sleep(max(0.0, order.at - self.now))
        loop = asyncio.get_running_loop()
        port = Random(order.number).choice(self._ports)
        connecting = loop.create_connection(lambda: _Connection(self.began), "127.0.0.1", port)
        try:
            _, connection = await asyncio.wait_for(connecting, CONNECT_SECONDS)
        except OSError as error:  # a TimeoutError too
            failed = f"no connection: {type(error).__name__} {error}".strip()
            return Exchange(order.number, order.at, self.now, Answer(status=0, failed=failed))
        request = f"{self._head}content-length: {len(order.body)}\r\n\r\n".encode() + order.body
        sent_at = self.now
        return Exchange(order.number, order.at, sent_at, await connection.ask(request, self._patience))
