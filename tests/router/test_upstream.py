"""The connection pool on real sockets, beside scripted engines: reuse, retry, faults, slow clients, TLS, requests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

import pytest
import trustme
import uvloop

from router.errors import BadEngineResponse, ConnectFailed, EngineClosed, EngineError, EngineTimeout
from router.upstream import Timeouts, Upstream

PATIENT = Timeouts(connect=60, first_byte=60, idle=60, total=60)  # longer than a test may take: none may pass by them
LIMIT = 1 << 20
HI = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Peer:
    """The engine's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def request(self) -> bytes:
        """One whole request."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, data: bytes = HI) -> bytes:
        request = await self.request()
        self.send(data)
        return request

    async def closed(self) -> None:
        """Until the gateway has closed its end."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(65536):
                pass


Script = Callable[[Peer], Awaitable[object]]


class Engine:
    """Runs one script per connection, in order; the last one again for all that follow."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = scripts
        self.connections = 0
        self.left = asyncio.Queue[int]()  # the numbers of connections whose script is over
        self.tasks: list[asyncio.Task[object]] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        script = self.scripts[min(number, len(self.scripts) - 1)]
        self.tasks.append(asyncio.ensure_future(script(Peer(reader, writer))))
        try:
            await asyncio.wait([self.tasks[number]])
        finally:
            self.left.put_nowait(number)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def engine(
    *scripts: Script, timeouts: Timeouts = PATIENT, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[tuple[Upstream, Engine]]:
    """A scripted engine and the pool that talks to it. A script's own failure fails the test."""
    scripted = Engine(*scripts)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    scheme = "http" if tls is None else "https"
    upstream = Upstream(f"{scheme}://localhost:{port}", timeouts=timeouts, **options)
    try:
        async with asyncio.timeout(10):
            yield upstream, scripted
    finally:
        upstream.close()
        server.close()
        for task in scripted.tasks:
            task.cancel()
        results = await asyncio.gather(*scripted.tasks, return_exceptions=True)
    failures = [result for result in results if isinstance(result, Exception) and not is_goodbye(result)]
    assert failures == []


def is_goodbye(error: Exception) -> bool:
    return isinstance(error, (ConnectionError, asyncio.IncompleteReadError))


async def ask(upstream: Upstream, body: bytes = b"{}") -> bytes:
    response = await upstream.send(b"POST", b"/v1/chat/completions", [(b"accept", b"*/*")], body)
    return await response.read(LIMIT)


async def until(condition: Callable[[], bool]) -> None:
    """Turns of the loop until something is so that no event tells of."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not happen")


async def serve_always(peer: Peer) -> None:
    while True:
        await peer.answer()


both_loops = pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
Run = Callable[[Coroutine[Any, Any, None]], None]


@both_loops
def test_requests_one_after_another_share_a_connection(run: Run) -> None:
    async def scenario() -> None:
        async with engine(serve_always) as (upstream, scripted):
            for _ in range(3):
                assert await ask(upstream) == b"hi"
                assert (upstream.idle, upstream.busy) == (1, 0)
            assert scripted.connections == 1

    run(scenario())


async def test_the_connection_used_last_is_reused_first_and_no_more_than_max_idle_are_kept() -> None:
    async def numbered(peer: Peer) -> None:
        number = numbers.pop()
        while True:
            await peer.request()
            await release.wait()
            peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % number)

    numbers, release = [3, 2, 1], asyncio.Event()
    async with engine(numbered, max_idle=2) as (upstream, scripted):
        sends = [asyncio.create_task(ask(upstream)) for _ in range(3)]
        await until(lambda: not numbers)
        assert upstream.busy == 3
        release.set()
        assert sorted(await asyncio.gather(*sends)) == [b"1", b"2", b"3"]
        assert (upstream.idle, upstream.busy) == (2, 0)
        last = await ask(upstream)
        assert await ask(upstream) == last
        assert scripted.connections == 3


@both_loops
def test_a_kept_connection_that_the_engine_closed_is_replaced_once(run: Run) -> None:
    async def one_answer_then_drop_the_next(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async def scenario() -> None:
        async with engine(one_answer_then_drop_the_next, serve_always) as (upstream, scripted):
            assert await ask(upstream) == b"hi"
            assert await ask(upstream, b"x" * 200_000) == b"hi"
            assert scripted.connections == 2

    run(scenario())


async def test_a_fresh_connection_that_fails_is_not_retried() -> None:
    async def drop(peer: Peer) -> None:
        await peer.request()

    async with engine(drop) as (upstream, scripted):
        with pytest.raises(EngineClosed):
            await ask(upstream)
        assert scripted.connections == 1
        assert (upstream.idle, upstream.busy) == (0, 0)


async def test_the_replacement_of_a_stale_connection_is_not_replaced_again() -> None:
    async def one_answer(peer: Peer) -> None:
        await peer.answer()
        await peer.request()

    async def drop(peer: Peer) -> None:
        await peer.request()

    async with engine(one_answer, drop) as (upstream, scripted):
        await ask(upstream)
        with pytest.raises(EngineClosed):
            await ask(upstream)
        assert scripted.connections == 2


async def test_a_kept_connection_that_fails_after_its_first_byte_is_not_retried() -> None:
    async def one_answer_then_half(peer: Peer) -> None:
        await peer.answer()
        await peer.answer(b"HTTP/1.1 200")

    async with engine(one_answer_then_half) as (upstream, scripted):
        await ask(upstream)
        with pytest.raises(EngineClosed):
            await ask(upstream)
        assert scripted.connections == 1


@pytest.mark.parametrize("farewell", [b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n"], ids=["eof", "bytes"])
async def test_an_idle_connection_that_the_engine_ends_is_dropped_at_once(farewell: bytes) -> None:
    async def answer_once(peer: Peer) -> None:
        await peer.answer()
        await go.wait()
        peer.send(farewell)
        if farewell:
            await peer.closed()

    go = asyncio.Event()
    async with engine(answer_once) as (upstream, scripted):
        await ask(upstream)
        assert upstream.idle == 1
        go.set()
        await scripted.left.get()
        await until(lambda: not upstream.idle)


async def test_closing_ends_idle_connections_now_and_busy_ones_after_their_exchange() -> None:
    async def answer_when_told(peer: Peer) -> None:
        await peer.request()
        arrived.set()
        await go.wait()
        peer.send(HI)
        await peer.closed()

    arrived, go = asyncio.Event(), asyncio.Event()
    async with engine(serve_always, answer_when_told) as (upstream, scripted):
        async with asyncio.TaskGroup() as group:
            first = await upstream.send(b"POST", b"/", [], b"")
            await first.read(LIMIT)
            upstream_idle = upstream._idle.copy()
            upstream._idle.clear()  # so that the second request opens its own connection
            busy = group.create_task(ask(upstream))
            await arrived.wait()
            upstream._idle.update(upstream_idle)
            upstream.close()
            assert (upstream.idle, upstream.busy) == (0, 1)
            assert await scripted.left.get() == 0
            go.set()
        assert busy.result() == b"hi"
        assert await scripted.left.get() == 1
        assert (upstream.idle, upstream.busy) == (0, 0)


# -- faults -----------------------------------------------------------------------------------------------------------


async def hang(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


async def half_a_body(peer: Peer) -> None:
    await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc")
    await peer.closed()


async def test_a_refused_connection_says_so_without_naming_the_endpoint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    upstream = Upstream(f"http://127.0.0.1:{port}/secret", timeouts=PATIENT)
    with pytest.raises(ConnectFailed) as caught:
        await ask(upstream)
    assert not any(word in str(caught.value) for word in ("127", "secret", str(port)))
    assert (upstream.idle, upstream.busy) == (0, 0)


async def test_an_unknown_host_is_a_failed_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(ConnectFailed):
        await ask(Upstream("http://engine.invalid", timeouts=PATIENT))


async def test_a_handshake_that_does_not_come_fails_by_connect() -> None:
    limits = Timeouts(connect=0.05, first_byte=60, idle=60, total=60)
    async with engine(Peer.closed, timeouts=limits) as (plain, scripted):
        upstream = Upstream(f"https://localhost:{plain._port}", timeouts=limits)
        with pytest.raises(EngineTimeout, match="connect"):
            await ask(upstream)
        await scripted.left.get()


@pytest.mark.parametrize(
    ("script", "limits", "named"),
    [
        (hang, Timeouts(connect=60, first_byte=0.05, idle=60, total=60), "first byte"),
        (half_a_body, Timeouts(connect=60, first_byte=60, idle=0.05, total=60), "idle"),
        (half_a_body, Timeouts(connect=60, first_byte=60, idle=60, total=0.05), "total"),
    ],
    ids=["first-byte", "idle", "total"],
)
@both_loops
def test_each_timeout_fails_the_exchange_and_closes_the_connection(
    run: Run, script: Script, limits: Timeouts, named: str
) -> None:
    async def scenario() -> None:
        async with engine(script, timeouts=limits) as (upstream, scripted):
            with pytest.raises(EngineTimeout, match=named):
                await ask(upstream)
            await scripted.left.get()  # the engine saw the end
            assert upstream.busy == 0

    run(scenario())


async def test_a_request_may_bring_its_own_first_byte_limit() -> None:
    async with engine(hang) as (upstream, scripted):
        with pytest.raises(EngineTimeout, match="first byte"):
            await upstream.send(b"POST", b"/", [], b"", first_byte=0.05)
        await scripted.left.get()


@pytest.mark.parametrize("stage", ["send", "read", "relay"])
@both_loops
def test_cancelling_the_caller_closes_the_engines_connection(run: Run, stage: str) -> None:
    async def caller(upstream: Upstream, reached: asyncio.Event) -> None:
        if stage == "send":
            reached.set()
        response = await upstream.send(b"POST", b"/", [], b"")
        reached.set()
        await (response.read(LIMIT) if stage == "read" else response.relay(lambda piece: None))

    async def scenario() -> None:
        async with engine(hang if stage == "send" else half_a_body) as (upstream, scripted):
            reached = asyncio.Event()
            task = asyncio.create_task(caller(upstream, reached))
            await reached.wait()
            await until(lambda: upstream.busy == 1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await scripted.left.get()
            assert (upstream.idle, upstream.busy) == (0, 0)

    run(scenario())


@both_loops
def test_abort_closes_the_engines_connection_and_wakes_whoever_reads(run: Run) -> None:
    async def scenario() -> None:
        async with engine(half_a_body) as (upstream, scripted):
            response = await upstream.send(b"POST", b"/", [], b"")
            read = asyncio.create_task(response.read(LIMIT))
            await asyncio.sleep(0)
            response.abort()
            response.abort()
            with pytest.raises(EngineClosed):
                await read
            await scripted.left.get()

    run(scenario())


async def test_abort_after_a_clean_end_leaves_the_connection_to_others() -> None:
    async with engine(serve_always) as (upstream, scripted):
        response = await upstream.send(b"POST", b"/", [], b"")
        assert await response.read(LIMIT) == b"hi"
        second = await upstream.send(b"POST", b"/", [], b"")
        response.abort()
        assert await second.read(LIMIT) == b"hi"
        assert scripted.connections == 1


async def test_what_write_raises_comes_out_of_relay_and_closes_the_connection() -> None:
    async def two_pieces(peer: Peer) -> None:
        await peer.answer(STREAM + b"1\r\na\r\n")
        await go.wait()
        peer.send(b"1\r\nb\r\n")
        await peer.closed()

    def write(piece: bytes) -> None:
        if piece == b"b":
            raise ZeroDivisionError
        go.set()

    go = asyncio.Event()
    async with engine(two_pieces) as (upstream, scripted):
        response = await upstream.send(b"POST", b"/", [], b"")
        with pytest.raises(ZeroDivisionError):
            await response.relay(write)
        await scripted.left.get()


@both_loops
def test_an_engine_that_dies_mid_stream_is_reported_after_all_it_sent(run: Run) -> None:
    async def die(peer: Peer) -> None:
        await peer.answer(STREAM + b"3\r\nabc\r\n")
        await peer.writer.drain()

    async def scenario() -> None:
        async with engine(die) as (upstream, _):
            pieces: list[bytes] = []
            response = await upstream.send(b"POST", b"/", [], b"")
            with pytest.raises(EngineError):
                await response.relay(pieces.append)
            assert b"".join(pieces) == b"abc"

    run(scenario())


@both_loops
def test_a_body_until_end_of_file_is_complete_at_a_clean_end(run: Run) -> None:
    async def until_eof(peer: Peer) -> None:
        await peer.answer(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        peer.writer.write_eof()
        await peer.closed()

    async def scenario() -> None:
        async with engine(until_eof) as (upstream, _):
            assert await ask(upstream) == b"all of it"
            assert upstream.idle == 0

    run(scenario())


async def test_an_answer_that_is_not_http_closes_the_connection() -> None:
    async def ssh(peer: Peer) -> None:
        await peer.answer(b"SSH-2.0-OpenSSH_9.2\r\n")
        await peer.closed()

    async with engine(ssh) as (upstream, scripted):
        with pytest.raises(BadEngineResponse):
            await ask(upstream)
        await scripted.left.get()


@both_loops
def test_a_slow_client_makes_the_engine_wait_and_loses_nothing(run: Run) -> None:
    total, piece = 48 << 20, b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16))

    async def scenario() -> None:
        async def pour(peer: Peer) -> None:
            nonlocal sent
            await peer.answer(STREAM)
            while sent < total:
                peer.send(piece)
                await peer.writer.drain()
                sent += 1 << 16
            peer.send(b"0\r\n\r\n")
            await peer.closed()

        def write(data: bytes) -> asyncio.Future[None] | None:
            nonlocal received
            received += len(data)
            return None if drained.done() else drained

        sent = received = 0
        drained = asyncio.get_running_loop().create_future()
        async with engine(pour) as (upstream, _):
            response = await upstream.send(b"POST", b"/", [], b"")
            relay = asyncio.create_task(response.relay(write))
            for _ in range(1500):  # turns of the loop, more than the whole body needs when nobody waits
                await asyncio.sleep(0)
            assert received < 1 << 20
            assert sent < total / 2  # what the kernel's buffers hold
            drained.set_result(None)
            await relay
            assert received == total

    run(scenario())


# -- what goes out ----------------------------------------------------------------------------------------------------


async def sent_by(upstream: Upstream, *args: Any) -> bytes:
    """The bytes of one request of an upstream whose port is taken over by a fresh engine."""
    received: list[bytes] = []

    async def record(peer: Peer) -> None:
        received.append(await peer.answer())
        await peer.closed()

    async with engine(record) as (target, _):
        upstream._port = target._port
        await (await upstream.send(*args)).read(LIMIT)
        upstream.close()
    return received[0]


async def test_a_request_is_written_with_our_framing_the_base_path_and_the_engines_own_headers() -> None:
    upstream = Upstream(
        "http://LocalHost:8000/engine/a/", timeouts=PATIENT, headers=[(b"Authorization", b"Bearer engine")]
    )
    headers = [
        (b"content-type", b"application/json"),
        (b"authorization", b"Bearer client"),
        (b"Content-Length", b"999"),
        (b"transfer-encoding", b"chunked"),
        (b"host", b"elsewhere"),
        (b"x-empty", b""),
    ]
    assert await sent_by(upstream, b"POST", b"/v1/models?a=b", headers, b"{}") == (
        b"POST /engine/a/v1/models?a=b HTTP/1.1\r\nhost: localhost:8000\r\nAuthorization: Bearer engine\r\n"
        b"content-length: 2\r\ncontent-type: application/json\r\nx-empty: \r\n\r\n{}"
    )


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("http://engine.test", b"host: engine.test\r\n"),
        ("http://engine.test:80", b"host: engine.test\r\n"),
        ("http://engine.test:8000", b"host: engine.test:8000\r\n"),
        ("https://engine.test:443/x", b"host: engine.test\r\n"),
        ("https://engine.test:80", b"host: engine.test:80\r\n"),
        ("http://[::1]:8000", b"host: [::1]:8000\r\n"),
        ("http://[::1]", b"host: [::1]\r\n"),
    ],
)
async def test_the_host_header_comes_from_the_url(url: str, host: bytes) -> None:
    upstream = Upstream(url, timeouts=PATIENT)
    assert host in upstream._request(b"GET", b"/", [], b"")


@pytest.mark.parametrize(
    "url",
    ["engine:8000", "ftp://engine", "http://", "http://user:pw@engine", "http://engine/?a", "http://engine/#a",
     "http://engine/a b", "http://engine/a\r\nx: y", "http://engine:99999", "http://exa mple"],
)  # fmt: skip
def test_a_url_that_is_not_a_plain_base_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each url has its own words
        Upstream(url, timeouts=PATIENT)


@pytest.mark.parametrize(
    ("method", "target", "header"),
    [
        (b"POST", b"/", (b"x", b"a\r\nb: c")),
        (b"POST", b"/", (b"x", b"a\nb: c")),
        (b"POST", b"/", (b"x", b"a\rb")),
        (b"POST", b"/", (b"x", b"a\0")),
        (b"POST", b"/", (b"x\r\ny", b"a")),
        (b"POST", b"/", (b"x: y", b"a")),
        (b"POST", b"/", (b"", b"a")),
        (b"POST", b"/ HTTP/1.1\r\nx: y", (b"x", b"a")),
        (b"POST", b"/a b", (b"x", b"a")),
        (b"POST", b"http://elsewhere/", (b"x", b"a")),
        (b"POST /x", b"/", (b"x", b"a")),
    ],
)
async def test_a_request_that_would_say_more_than_it_should_is_refused_before_a_byte_is_sent(
    method: bytes, target: bytes, header: tuple[bytes, bytes]
) -> None:
    async with engine(serve_always) as (upstream, scripted):
        with pytest.raises(ValueError, match=r"not a|line break"):
            await upstream.send(method, target, [header], b"")
        assert scripted.connections == 0


def test_an_engines_own_header_cannot_break_the_head() -> None:
    with pytest.raises(ValueError, match="line break"):
        Upstream("http://engine", timeouts=PATIENT, headers=[(b"authorization", b"Bearer x\n")])


async def test_names_and_targets_without_end_do_not_fill_the_memory() -> None:
    upstream = Upstream("http://engine", timeouts=PATIENT)
    for number in range(2000):
        upstream._request(b"GET", b"/?%d" % number, [(b"x-%d" % number, b"")], b"")
    assert len(upstream._lines) <= 512
    assert len(upstream._names) <= 512


async def test_connections_send_small_requests_without_delay() -> None:
    async with engine(serve_always) as (upstream, _):
        await ask(upstream)
        (connection,) = upstream._idle
        assert connection._transport is not None
        sock = connection._transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- TLS --------------------------------------------------------------------------------------------------------------


@both_loops
def test_an_engine_behind_tls_is_verified_and_its_connection_reused(run: Run) -> None:
    async def scenario() -> None:
        authority = trustme.CA()
        server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(server)
        names: list[str | None] = []
        server.sni_callback = lambda sock, name, context: names.append(name)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        async with engine(serve_always, tls=server, ssl_context=client) as (upstream, scripted):
            assert await ask(upstream, b"x" * 300_000) == b"hi"
            assert await ask(upstream) == b"hi"
            assert (scripted.connections, names) == (1, ["localhost"])
        async with engine(serve_always, tls=server) as (stranger, _):
            with pytest.raises(ConnectFailed):
                await ask(stranger)

    run(scenario())
