"""The connection pool on real sockets, beside scripted engines: reuse, retry, connecting, what goes out, TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Any

import pytest
import trustme

from router.errors import ConnectFailed, EngineClosed, EngineTimeout
from router.upstream import Timeouts, Upstream
from tests.router.scripted_engine import HI, LIMIT, PATIENT, Peer, Run, ask, both_loops, engine, serve_always, until


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


# -- connecting -------------------------------------------------------------------------------------------------------


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
