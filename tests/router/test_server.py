"""The server's side of a client's connection, over real sockets: what an app writes by the short way of our own server,
and by ASGI's behind middleware, is the same HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.client import Client, ClientGone
from router.server import Listener, guarded_protocol, listener, open_socket

Handler = Callable[[Client], Awaitable[None]]
BOUND_SECONDS = 60.0
LONG = 8 * 1024 * 1024


class App:
    """Runs a handler for each request. `middleware`: something stands between, as CORS does."""

    def __init__(self, handler: Handler, *, middleware: bool) -> None:
        self._handler = handler
        self._middleware = middleware

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            await send(message)

        await self._handler(Client(scope, receive, sent if self._middleware else send))


class Connection:
    """A client, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answers(self, count: int, method: bytes = b"POST") -> list[tuple[int, dict[bytes, bytes], bytes]]:
        """Status, headers and body of as many answers; informational ones count."""
        found: list[tuple[int, dict[bytes, bytes], bytes]] = []
        parser = h11.Connection(h11.CLIENT)
        request = h11.Request(method=method, target="/", headers=[("host", "x")])
        parser.send(request)
        parser.send(h11.EndOfMessage())
        body = b""
        while len(found) < count:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                parser.receive_data(await asyncio.wait_for(self.reader.read(65536), BOUND_SECONDS))
            elif isinstance(event, h11.InformationalResponse):
                found.append((event.status_code, {}, b""))
            elif isinstance(event, h11.Response):
                status, headers = event.status_code, dict(event.headers)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                found.append((status, headers, body))
                body = b""
                if len(found) < count:
                    parser.start_next_cycle()
                    parser.send(request)
                    parser.send(h11.EndOfMessage())
            else:
                raise AssertionError(f"the connection ended: {event}")
        return found

    async def ended(self) -> bytes:
        """What comes before the server closes."""
        return await asyncio.wait_for(self.reader.read(), BOUND_SECONDS)


@asynccontextmanager
async def serving(handler: Handler, *, middleware: bool = False, **times: float) -> AsyncIterator[Callable[..., Any]]:
    """A server; the block gets what opens connections to it."""
    opened: list[Connection] = []
    listening = open_socket("127.0.0.1", 0)
    protocol = guarded_protocol(times.get("header", BOUND_SECONDS), 16 * 1024)
    server: Listener = listener(
        App(handler, middleware=middleware),
        http=protocol,
        timeout_keep_alive=times.get("keep_alive", BOUND_SECONDS),
        timeout_graceful_shutdown=1,
    )
    running = asyncio.create_task(server.serve([listening]))
    await server.listening.wait()

    async def connect() -> Connection:
        connection = Connection(*await asyncio.open_connection(*listening.getsockname()[:2]))
        opened.append(connection)
        return connection

    try:
        yield connect
    finally:
        for connection in opened:
            connection.writer.transport.abort()
        server.should_exit = True
        await running


def complete(answer: bytes) -> None:
    """Raises RemoteProtocolError where these bytes and the connection's end are no whole answer."""
    parser = h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="POST", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    parser.receive_data(answer)
    parser.receive_data(b"")
    while not isinstance(event := parser.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.ConnectionClosed):
            raise h11.RemoteProtocolError("nothing came")


def request(body: bytes = b"", *lines: str, method: str = "POST", target: str = "/x", version: str = "1.1") -> bytes:
    fields = "".join(f"{line}\r\n" for line in (f"content-length: {len(body)}", *lines))
    return f"{method} {target} HTTP/{version}\r\nhost: x\r\n{fields}\r\n".encode() + body


async def echo(client: Client) -> None:
    body = await client.body(LONG, BOUND_SECONDS)
    client.watch()
    await client.respond(200, [(b"x-path", client.scope["path"].encode())], body)


ways = pytest.mark.parametrize("middleware", [False, True], ids=["direct", "middleware"])


@ways
async def test_requests_sent_in_one_piece_are_answered_in_order(middleware: bool) -> None:
    async with serving(echo, middleware=middleware) as connect:
        connection = await connect()
        connection.send(b"".join(request(f"number {number}".encode()) for number in range(20)))
        answers = await connection.answers(20)
    assert [body for _, _, body in answers] == [f"number {number}".encode() for number in range(20)]


@pytest.mark.parametrize(
    ("middleware", "behind"),  # by ASGI's way a server tells of the last request alone
    [(False, 0), (True, 0), (False, 1)],
    ids=["direct", "middleware", "direct, with another behind it"],
)
async def test_a_client_that_leaves_ends_the_request_that_is_served(middleware: bool, behind: int) -> None:
    served, left = asyncio.Event(), asyncio.Event()

    async def wait(client: Client) -> None:
        await client.body(LONG, BOUND_SECONDS)
        client.watch()
        served.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert client.gone
            left.set()

    async with serving(wait, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request(b"a" * 200_000) + request(b"b") * behind)
        await asyncio.wait_for(served.wait(), BOUND_SECONDS)
        connection.writer.transport.abort()
        await asyncio.wait_for(left.wait(), BOUND_SECONDS)


@ways
async def test_a_connection_that_was_closed_before_the_body_was_read_is_a_client_that_left(middleware: bool) -> None:
    told = asyncio.Event()
    begun = asyncio.Event()

    async def read(client: Client) -> None:
        begun.set()
        try:
            await client.body(LONG, BOUND_SECONDS)
        except ClientGone:
            told.set()

    async with serving(read, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request(b"a" * 1000)[:-1])
        await asyncio.wait_for(begun.wait(), BOUND_SECONDS)
        connection.writer.transport.abort()
        await asyncio.wait_for(told.wait(), BOUND_SECONDS)


async def test_a_kept_connection_is_closed_when_it_was_idle_for_long_and_not_while_it_is_served() -> None:
    async def slow(client: Client) -> None:
        await asyncio.sleep(1.2)
        await echo(client)

    async with serving(slow, keep_alive=1.0) as connect:
        connection = await connect()
        connection.send(request(b"one"))
        assert (await connection.answers(1))[0][2] == b"one"
        connection.send(request(b"two"))
        assert (await connection.answers(1))[0][2] == b"two"
        assert await connection.ended() == b""


@pytest.mark.parametrize("before", [b"", request(b"one")], ids=["first", "after another"])
async def test_a_head_that_does_not_end_is_408(before: bytes) -> None:
    async with serving(echo, header=0.5) as connect:
        connection = await connect()
        if before:
            connection.send(before)
            await connection.answers(1)
        connection.send(b"POST /x HTTP/1.1\r\nhost: x\r\n")
        answer = await connection.ended()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"did not arrive within 0.5 seconds" in answer


async def test_a_silent_connection_is_ended() -> None:
    async with serving(echo, header=0.1) as connect:
        assert (await (await connect()).ended()).startswith(b"HTTP/1.1 408 ")


async def test_a_body_may_take_longer_than_a_head() -> None:
    async with serving(echo, header=0.5) as connect:
        connection = await connect()
        connection.send(request(b"late")[:-4])
        await asyncio.sleep(0.8)
        connection.send(b"late")
        assert (await connection.answers(1))[0][2] == b"late"


@ways
async def test_http_1_0_gets_its_answer_and_the_end(middleware: bool) -> None:
    async with serving(echo, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request(b"old", "connection: keep-alive", version="1.0"))
        answer = await connection.ended()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer
    assert answer.endswith(b"\r\n\r\nold")


@ways
async def test_a_client_that_asks_for_the_end_gets_it(middleware: bool) -> None:
    async with serving(echo, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request(b"last", "Connection: close"))
        assert (await connection.ended()).endswith(b"\r\n\r\nlast")


@ways
async def test_head_gets_the_length_and_no_body(middleware: bool) -> None:
    async with serving(echo, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request(b"body", method="HEAD") + request(b"next"))
        (_, headers, body), *_ = await connection.answers(1, b"HEAD")
        assert (headers[b"content-length"], body) == (b"4", b"")


@ways
async def test_a_client_that_waits_for_a_sign_gets_it(middleware: bool) -> None:
    async with serving(echo, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request(b"body", "Expect: 100-continue")[:-4])
        assert (await connection.answers(1))[0][0] == 100
        connection.send(b"body")
        assert (await connection.answers(1))[0][2] == b"body"


@pytest.mark.parametrize(
    ("target", "path"),
    [("/a?b=c", "/a"), ("http://x/a/b?c", "/a/b"), ("/a%20b", "/a b"), ("/a#b", "/a"), ("/", "/")],
)
async def test_targets_in_all_forms(target: str, path: str) -> None:
    async with serving(echo) as connect:
        connection = await connect()
        connection.send(request(b"", target=target))
        assert (await connection.answers(1))[0][1][b"x-path"] == path.encode()


@ways
async def test_a_client_that_reads_slowly_holds_up_the_writer_and_gets_every_byte(middleware: bool) -> None:
    piece, written = b"0123456789abcdef" * 4096, 0
    held_up = asyncio.Event()

    async def pour(client: Client) -> None:
        nonlocal written
        await client.body(LONG, BOUND_SECONDS)
        client.head(200, [])
        while not held_up.is_set():
            written += 1
            if (rest := client.write(piece)) is not None:
                held_up.set()
                await rest
        await client.finish(b"end")

    async with serving(pour, middleware=middleware) as connect:
        connection = await connect()
        connection.send(request())
        await asyncio.wait_for(held_up.wait(), BOUND_SECONDS)
        answer = (await connection.answers(1))[0][2]
    assert answer == piece * written + b"end"


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=50), max_size=8), last=st.binary(max_size=50), sized=st.booleans())
def test_both_ways_write_the_same_answer(pieces: list[bytes], last: bytes, sized: bool) -> None:
    whole = b"".join(pieces) + last

    async def pour(client: Client) -> None:
        await client.body(LONG, BOUND_SECONDS)
        client.head(207, [(b"x-a", b"b"), *([(b"content-length", b"%d" % len(whole))] if sized else [])])
        for piece in pieces:
            if (rest := client.write(piece)) is not None:
                await rest
        await client.finish(last)

    async def ask(middleware: bool) -> Any:
        async with serving(pour, middleware=middleware) as connect:
            connection = await connect()
            connection.send(request())
            return (await connection.answers(1))[0]

    direct = asyncio.run(ask(False))
    assert direct == asyncio.run(ask(True))
    assert (direct[0], direct[2]) == (207, whole)


@ways
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([(b"x-a", b"b\r\nx-c: d")], b""),
        ([(b"x-a", b"b\nx-c: d")], b""),
        ([(b"content-length", b"4")], b"short"),
        ([(b"content-length", b"9")], b"short"),
    ],
)
async def test_an_answer_that_is_no_http_is_broken_off(
    middleware: bool, headers: list[Any], body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def write(client: Client) -> None:
        await client.body(LONG, BOUND_SECONDS)
        client.head(200, headers)
        await client.finish(body)

    log = logging.getLogger("uvicorn.error")
    # A gateway or an engine that a test before this one ran in this process may have cut it off, or silenced it.
    log.addHandler(caplog.handler)
    caplog.set_level(logging.ERROR, log.name)
    try:
        async with serving(write, middleware=middleware) as connect:
            connection = await connect()
            connection.send(request())
            answer = await connection.ended()
    finally:
        log.removeHandler(caplog.handler)
    assert "RuntimeError" in caplog.text
    assert b"x-c" not in answer
    if not answer.startswith(b"HTTP/1.1 500 "):  # where nothing was out yet
        with pytest.raises(h11.RemoteProtocolError):
            complete(answer)
