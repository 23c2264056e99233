"""Faults of a drill before an engine that is well: a request meets what a real fault would do, and the fault ends."""

from __future__ import annotations

import asyncio

import pytest

from policies.drill import DrillFault
from router.errors import ConnectFailed, EngineClosed, EngineHung, EngineTimeout
from router.injected import InjectedFault
from tests.router.scripted_engine import HI, Peer, Run, ask, both_loops, engine, serve_always

STREAM = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"


async def half_a_stream(peer: Peer) -> None:
    await peer.answer(STREAM)
    await peer.closed()


@pytest.mark.parametrize("kind", [DrillFault.KILL, DrillFault.REFUSE])
@both_loops
def test_nobody_can_connect_until_the_fault_is_lifted(run: Run, kind: DrillFault) -> None:
    async def scenario() -> None:
        async with engine(serve_always) as (upstream, scripted):
            upstream.strike(InjectedFault(kind))
            with pytest.raises(ConnectFailed):
                await ask(upstream)
            assert scripted.connections == 0
            upstream.lift()
            assert await ask(upstream) == b"hi"

    run(scenario())


async def test_a_kill_breaks_what_is_under_way_and_a_refusal_does_not() -> None:
    async with engine(half_a_stream) as (upstream, _):
        response = await upstream.send(b"POST", b"/", [], b"")
        upstream.strike(InjectedFault(DrillFault.REFUSE))
        assert upstream.busy == 1
        upstream.strike(InjectedFault(DrillFault.KILL))
        assert upstream.busy == 0
        with pytest.raises(EngineClosed):
            await response.relay(lambda piece: None)


async def test_what_hangs_goes_on_to_the_engine_when_the_fault_is_lifted() -> None:
    async with engine(serve_always) as (upstream, scripted):
        upstream.strike(InjectedFault(DrillFault.HANG))
        asked = asyncio.create_task(ask(upstream))
        done, _ = await asyncio.wait({asked}, timeout=0.05)
        assert (done, scripted.connections) == (set(), 0)
        upstream.lift()
        assert await asked == b"hi"


async def test_what_hangs_meets_its_first_byte_limit_as_with_a_real_engine() -> None:
    async with engine(serve_always) as (upstream, _):
        upstream.strike(InjectedFault(DrillFault.HANG))
        with pytest.raises(EngineTimeout, match="first byte"):
            await upstream.send(b"POST", b"/", [], b"", first_byte=0.02)


async def test_what_hangs_can_be_taken_away_from_the_engine() -> None:
    async with engine(serve_always) as (upstream, _):
        upstream.strike(InjectedFault(DrillFault.HANG))
        asked = asyncio.create_task(ask(upstream))
        await asyncio.sleep(0)
        upstream.abandon(EngineHung("The engine has stopped answering."))
        with pytest.raises(EngineHung):
            await asked


async def test_a_caller_that_leaves_while_it_hangs_leaves_nothing() -> None:
    async with engine(serve_always) as (upstream, _):
        fault = InjectedFault(DrillFault.HANG)
        upstream.strike(fault)
        asked = asyncio.create_task(ask(upstream))
        await asyncio.sleep(0)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert fault.waiting == 0


@both_loops
def test_a_stream_stands_still_while_its_engine_hangs(run: Run) -> None:
    async def scenario() -> None:
        more = asyncio.Event()

        async def two_pieces(peer: Peer) -> None:
            await peer.answer(STREAM)
            await more.wait()
            peer.send(b"1\r\nb\r\n0\r\n\r\n")
            await peer.closed()

        async with engine(two_pieces) as (upstream, _):
            response = await upstream.send(b"POST", b"/", [], b"")
            pieces: list[bytes] = []
            first = asyncio.Event()

            def write(piece: bytes) -> None:
                pieces.append(piece)
                first.set()

            relayed = asyncio.create_task(response.relay(write))
            await first.wait()
            upstream.strike(InjectedFault(DrillFault.HANG))
            more.set()
            done, _ = await asyncio.wait({relayed}, timeout=0.05)
            assert (done, pieces) == (set(), [b"a"])
            upstream.lift()
            await relayed
            assert b"".join(pieces) == b"ab"

    run(scenario())


async def test_a_slow_engine_answers_later() -> None:
    async with engine(serve_always) as (upstream, scripted):
        upstream.strike(InjectedFault(DrillFault.SLOW, slow_seconds=0.02))
        began = asyncio.get_running_loop().time()
        assert await ask(upstream) == HI[-2:]
        assert asyncio.get_running_loop().time() - began >= 0.02
        assert scripted.connections == 1


async def test_lifting_what_was_never_struck_does_nothing() -> None:
    async with engine(serve_always) as (upstream, _):
        upstream.lift()
        assert await ask(upstream) == b"hi"
