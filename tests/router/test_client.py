"""The client's side of an exchange, driven by an ASGI server of futures: every wait is the test's to end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.client import Client, ClientGone
from router.errors import BadRequest, BodyTooLarge, SlowRequest

GONE = {"type": "http.disconnect"}


def piece(body: bytes, more: bool = False) -> dict[str, Any]:
    return {"type": "http.request", "body": body, "more_body": more}


class Server:
    """What uvicorn is to an app. `receive` waits while nothing was `put`; `send` waits while it is `slow`."""

    def __init__(self, *messages: dict[str, Any]) -> None:
        self.messages = deque(messages)
        self.sent: list[dict[str, Any]] = []
        self.slow = False
        self.cut_off = 0  # sends that were cancelled while they waited
        self.error: Exception | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None

    def put(self, *messages: dict[str, Any]) -> None:
        self.messages.extend(messages)
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def drain(self) -> None:
        """The client has caught up."""
        self.slow = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def receive(self) -> dict[str, Any]:
        while not self.messages:
            self._arrival = asyncio.get_running_loop().create_future()
            await self._arrival
        return self.messages.popleft()

    async def send(self, message: Any) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(dict(message))
        if self.slow:
            self._drained = asyncio.get_running_loop().create_future()
            try:
                await self._drained
            except asyncio.CancelledError:
                self.cut_off += 1
                raise

    @property
    def body(self) -> bytes:
        return b"".join(message["body"] for message in self.sent if message["type"] == "http.response.body")


def client_of(server: Server, headers: list[tuple[bytes, bytes]] | None = None) -> Client:
    return Client({"headers": headers or []}, server.receive, server.send)


class Jumping(asyncio.SelectorEventLoop):
    """A loop that does not wait for its timers: time jumps to the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0
        select = self._selector.select  # type: ignore[attr-defined]

        def jump(timeout: float | None = None) -> Any:
            self.skipped += timeout or 0.0
            return select(0)

        self._selector.select = jump  # type: ignore[attr-defined]

    def time(self) -> float:
        return super().time() + self.skipped


# -- the request's body


async def test_a_body_in_one_piece_is_there_without_waiting() -> None:
    assert await client_of(Server(piece(b"abc"))).body(3, 1.0) == b"abc"


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=6), st.booleans())
def test_a_body_in_many_pieces_is_joined_in_order(pieces: list[bytes], late: bool) -> None:
    async def scenario() -> bytes:
        messages = [piece(data, n < len(pieces) - 1) for n, data in enumerate(pieces)]
        server = Server() if late else Server(*messages)
        reading = asyncio.create_task(client_of(server).body(100, 5.0))
        if late:
            for message in messages:
                await asyncio.sleep(0)
                server.put(message)
        return await reading

    assert asyncio.run(scenario()) == b"".join(pieces)


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer() -> None:
    assert await client_of(Server(piece(b"ab", True), piece(b"cd"))).body(4, 1.0) == b"abcd"
    for messages in ([piece(b"abcde")], [piece(b"abc", True), piece(b"de")]):
        with pytest.raises(BodyTooLarge):
            await client_of(Server(*messages)).body(4, 1.0)


async def test_a_body_without_end_is_refused_at_the_limit_and_its_connection_closed() -> None:
    server = Server(*[piece(b"x" * 10, True) for _ in range(1000)])
    with pytest.raises(BodyTooLarge) as refused:
        await client_of(server).body(25, 1.0)
    assert (b"connection", b"close") in refused.value.headers
    assert len(server.messages) == 997


async def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_is_read() -> None:
    server = Server()
    with pytest.raises(BodyTooLarge):
        await client_of(server, [(b"content-length", b"5")]).body(4, 1.0)
    assert await client_of(Server(piece(b"abcd")), [(b"content-length", b"4")]).body(4, 1.0) == b"abcd"


@pytest.mark.parametrize("encoding", [b"gzip", b"br", b"GZIP", b"identity, gzip"])
async def test_a_compressed_body_is_refused(encoding: bytes) -> None:
    with pytest.raises(BadRequest) as refused:
        await client_of(Server(), [(b"content-encoding", encoding)]).body(4, 1.0)
    assert refused.value.code == "unsupported_content_encoding"
    assert await client_of(Server(piece(b"a")), [(b"content-encoding", b"Identity")]).body(4, 1.0) == b"a"


@pytest.mark.parametrize("before", [[], [piece(b"a", True)]], ids=["before a byte", "in the middle"])
async def test_a_client_that_leaves_while_it_sends_is_gone(before: list[dict[str, Any]]) -> None:
    server = Server(*before)
    reading = asyncio.create_task(client_of(server).body(100, 5.0))
    await asyncio.sleep(0)
    server.put(GONE)
    with pytest.raises(ClientGone):
        await reading


@pytest.mark.parametrize("before", [[], [piece(b"a", True)]], ids=["before a byte", "in the middle"])
def test_a_body_that_does_not_come_is_408_and_its_connection_closed(before: list[dict[str, Any]]) -> None:
    async def scenario() -> None:
        with pytest.raises(SlowRequest) as refused:
            await client_of(Server(*before)).body(100, 30.0)
        assert (b"connection", b"close") in refused.value.headers

    with asyncio.Runner(loop_factory=Jumping) as runner:
        runner.run(scenario())


def test_the_time_for_a_body_is_for_the_whole_of_it() -> None:
    async def scenario() -> float:
        loop, server = asyncio.get_running_loop(), Server()
        start = loop.time()
        loop.call_later(29.0, server.put, piece(b"a", True))
        with pytest.raises(SlowRequest):
            await client_of(server).body(100, 30.0)
        return loop.time() - start

    with asyncio.Runner(loop_factory=Jumping) as runner:
        assert runner.run(scenario()) < 35.0


async def test_a_cancelled_reader_leaves_nothing_behind() -> None:
    server = Server(piece(b"a", True))
    reading = asyncio.create_task(client_of(server).body(100, 5.0))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_of_several_headers_of_one_name_the_last_counts() -> None:
    client = client_of(Server(), [(b"a", b"1"), (b"a", b"2")])
    assert (client.header(b"a"), client.header(b"b")) == (b"2", None)


# -- watching


async def watching(server: Server, client: Client) -> None:
    client.watch()
    await asyncio.Event().wait()


async def test_a_client_that_leaves_cancels_the_task_that_watches() -> None:
    server = Server()
    client = client_of(server)
    task = asyncio.create_task(watching(server, client))
    await asyncio.sleep(0)
    assert not client.gone
    server.put(GONE)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.gone


async def test_a_client_that_has_left_before_is_noticed_at_once() -> None:
    server = Server(GONE)
    client = client_of(server)
    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(watching(server, client))
    assert client.gone


async def test_what_else_arrives_while_watching_changes_nothing() -> None:
    server = Server()
    client = client_of(server)
    task = asyncio.create_task(watching(server, client))
    for _ in range(3):
        await asyncio.sleep(0)
        server.put(piece(b"more"), piece(b"and more"))
    await asyncio.sleep(0)
    assert not client.gone
    server.put(GONE)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.gone


@pytest.mark.parametrize("when", ["before", "in the same moment", "never watched"])
async def test_after_unwatch_a_client_that_leaves_cancels_nobody(when: str) -> None:
    server = Server()
    client = client_of(server)

    async def work() -> str:
        if when != "never watched":
            client.watch()
        if when == "in the same moment":
            server.put(GONE)  # the arrival is told, and `unwatch` comes before anybody looks
        client.unwatch()
        client.unwatch()
        server.put(GONE)
        for _ in range(3):
            await asyncio.sleep(0)
        return "done"

    assert await asyncio.create_task(work()) == "done"
    assert not client.gone


async def test_an_answer_that_is_complete_ends_the_watching() -> None:
    server = Server()
    client = client_of(server)

    async def work() -> None:
        client.watch()
        await client.respond(200, [], b"ok")
        server.put(GONE)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    await asyncio.create_task(work())
    assert not client.gone


# -- the answer


async def test_status_and_headers_wait_for_the_first_piece() -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [(b"a", b"b")])
    assert (server.sent, client.started) == ([], False)
    assert client.write(b"one") is None
    assert client.started
    assert client.write(b"two") is None
    await client.finish(b"three")
    assert [message["type"].rpartition(".")[2] for message in server.sent] == ["start", "body", "body", "body"]
    assert [message.get("more_body") for message in server.sent] == [None, True, True, False]
    assert server.sent[0] == {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
    assert server.body == b"onetwothree"


async def test_until_the_first_piece_another_answer_may_take_the_place() -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [(b"content-type", b"text/event-stream")])
    await client.respond(502, [(b"x", b"y")], b"error")
    assert [message["type"].rpartition(".")[2] for message in server.sent] == ["start", "body"]
    assert server.sent[0]["status"] == 502
    assert server.sent[0]["headers"] == [(b"x", b"y"), (b"content-length", b"5")]


async def test_an_answer_without_a_body_still_has_a_head() -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [])
    await client.finish()
    assert [message["type"].rpartition(".")[2] for message in server.sent] == ["start", "body"]


@pytest.mark.parametrize("slow_at", ["head", "first piece", "later piece"])
async def test_a_slow_client_makes_write_wait_and_keeps_the_order(slow_at: str) -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [])
    if slow_at == "later piece":
        assert client.write(b"zero") is None
    server.slow = True
    waiting = client.write(b"one")
    assert waiting is not None
    task = asyncio.ensure_future(_wait(waiting))
    await asyncio.sleep(0)
    assert not task.done()
    if slow_at == "first piece":  # the head has gone, the piece has to wait again
        assert server._drained is not None
        server._drained.set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()
    server.drain()
    await asyncio.wait_for(task, 60)
    assert client.write(b"two") is None
    assert server.body == (b"zero" if slow_at == "later piece" else b"") + b"onetwo"
    assert server.sent[0]["type"] == "http.response.start"


async def _wait(waiting: Any) -> None:
    await waiting


async def test_a_client_that_catches_up_before_anybody_waits_is_waited_for_no_longer() -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [])
    client.write(b"zero")
    server.slow = True
    waiting = client.write(b"one")
    server.drain()
    assert waiting is not None
    await asyncio.wait_for(_wait(waiting), 60)
    assert server.body == b"zeroone"


@pytest.mark.parametrize("slow_at", ["head", "piece"])
async def test_cancelling_a_slow_write_reaches_the_servers_send(slow_at: str) -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [])
    if slow_at == "piece":
        client.write(b"zero")
    server.slow = True
    waiting = client.write(b"one")
    assert waiting is not None
    task = asyncio.ensure_future(_wait(waiting))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.cut_off == 1
    assert b"one" not in (server.body if slow_at == "head" else b"")


async def test_a_watched_client_that_leaves_in_a_slow_write_ends_it() -> None:
    server = Server()
    client = client_of(server)

    async def work() -> None:
        client.watch()
        client.head(200, [])
        server.slow = True
        waiting = client.write(b"one")
        assert waiting is not None
        await waiting

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    server.put(GONE)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (client.gone, server.cut_off) == (True, 1)


async def test_a_send_that_fails_fails_the_write() -> None:
    server = Server()
    client = client_of(server)
    client.head(200, [])
    server.error = RuntimeError("the server is broken")
    with pytest.raises(RuntimeError, match="broken"):
        client.write(b"one")


async def test_a_send_that_only_yields_is_finished() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    client = Client({"headers": []}, Server().receive, send)
    client.head(200, [])
    for data in (b"one", b"two"):
        waiting = client.write(data)
        assert waiting is not None
        await waiting
    await client.finish()
    assert [message.get("body") for message in sent] == [None, b"one", b"two", b""]


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=4), st.booleans()), min_size=1, max_size=12))
def test_bytes_in_are_bytes_out_however_slow_the_client_is(pieces: list[tuple[bytes, bool]]) -> None:
    async def scenario() -> Server:
        server = Server()
        client = client_of(server)
        client.head(200, [])
        for data, slow in pieces:
            server.slow = slow
            waiting = client.write(data)
            assert (waiting is not None) == slow
            if waiting is not None:
                asyncio.get_running_loop().call_soon(server.drain)
                await waiting
        server.slow = False
        await client.finish()
        return server

    server = asyncio.run(scenario())
    assert server.body == b"".join(data for data, _ in pieces)
    assert [message["type"] for message in server.sent].count("http.response.start") == 1
