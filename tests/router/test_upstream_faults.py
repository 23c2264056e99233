"""An exchange on real sockets, beside scripted engines: timeouts, broken answers, callers that leave, slow clients."""

from __future__ import annotations

import asyncio

import pytest

from policies.types import FailureCause
from router.errors import BadEngineResponse, ConnectTimeout, EngineClosed, EngineError, EngineTimeout
from router.upstream import Timeouts, Upstream
from tests.router.scripted_engine import LIMIT, Peer, Run, Script, ask, both_loops, engine, serve_always, until

STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def hang(peer: Peer) -> None:
    await peer.request()
    await peer.closed()


async def half_a_body(peer: Peer) -> None:
    await peer.answer(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc")
    await peer.closed()


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


@both_loops
def test_an_engine_that_takes_connections_and_does_not_greet_fails_by_the_connect_limit(run: Run) -> None:
    async def mute(peer: Peer) -> None:
        await peer.closed()

    async def scenario() -> None:
        limits = Timeouts(connect=0.05, first_byte=60, idle=60, total=60)
        async with engine(mute) as (plain, scripted):
            upstream = Upstream(f"https://localhost:{plain._port}", timeouts=limits)
            with pytest.raises(ConnectTimeout, match="connect") as failed:
                await ask(upstream)
            assert failed.value.cause is FailureCause.CONNECT, "it has got nothing of the request: no attempt is lost"
            await scripted.left.get()
            assert upstream.busy == upstream.idle == 0

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
