"""A second copy of a late short stream: the first to answer is kept, the other ended, both settled once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from policies.hedge import LEAST_SAMPLES, HedgePolicy
from policies.waiting import Waiting
from router.calls import Call
from router.hedging import Race
from tests.router.builders import request
from tests.router.stack import RecordingEngine, Stack, chat, running, two_tenants
from tests.router.test_attempts import ASKS, GOOD, ROLE, acme, attempts
from tests.router.test_relay import CHAT, STREAM, Reply, broken, once, streamed


@pytest.fixture
def stack() -> Iterator[Stack]:
    config = two_tenants()
    config["pools"]["acme"]["hedging"] = {"enabled": True, "share": 0.5}
    with running(config) as one:
        learn(one, 0.02)
        yield one


def learn(stack: Stack, seconds: float) -> None:
    """From now on a first byte that takes longer than this is late."""
    policy = HedgePolicy(0.5)
    for _ in range(5 * LEAST_SAMPLES):
        policy.observe(seconds)

    async def replace() -> None:
        pool = stack.app.runtime.pools["acme"]
        object.__setattr__(pool.attempts, "hedge", policy)

    stack.run(replace())


def hedges(stack: Stack) -> dict[str, float]:
    """What came of the second copies, once the race is over: the client has its answer a moment before."""

    async def read() -> dict[str, float]:
        totals = stack.process.metrics._totals["promptlane_hedges"]
        async with asyncio.timeout(60):
            while not totals or await _in_flight(stack):  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)
        return {result: total for (_, result), (total,) in totals.items()}

    found: dict[str, float] = stack.run(read())
    return found


def silent_first(stack: Stack, then: Reply) -> asyncio.Event:
    """Whoever is asked first answers nothing but a head; the event is set when the gateway has let go of it."""
    left = asyncio.Event()

    async def silent(_: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(STREAM)
        engine = next(one for one in acme(stack) if writer in one._readers)
        if await engine._readers[writer].read(1) == b"":
            left.set()
        raise ConnectionResetError

    for engine in acme(stack):
        engine.reply = once(silent, acme(stack), then)
    return left


def copies() -> list[str]:
    """The names of copies under way on this loop."""
    return [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("copy ")]


async def _in_flight(stack: Stack) -> int:
    return sum(state.in_flight for state in stack.app.runtime.pools["acme"].states)


def test_the_second_copy_wins_where_the_first_says_nothing_and_the_first_is_ended(stack: Stack) -> None:
    second: list[str] = []

    async def answers(request: bytes, writer: asyncio.StreamWriter) -> None:
        second.extend(name for name, engine in stack.engines.items() if writer in engine._readers)
        await streamed(*GOOD)(request, writer)

    left = silent_first(stack, answers)
    status, headers, body = stack.post(CHAT, chat(**ASKS), key="acme-key")
    assert (status, body) == (200, b"".join(GOOD))
    stack.run(asyncio.wait_for(left.wait(), 60))
    assert [len(engine.received) for engine in acme(stack)] == [1, 1]
    assert headers["x-promptlane-endpoint"] == second[0], "the headers are those of the answer"
    assert hedges(stack) == {"won": 1}
    assert all(state.health.well for state in stack.app.runtime.pools["acme"].states), "being slow is no failure"


def test_the_first_copy_wins_where_it_answers_before_the_second(stack: Stack) -> None:
    asked = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        await asked.wait()  # until the second copy is there
        await streamed(*GOOD)(request, writer)

    async def second(_: bytes, writer: asyncio.StreamWriter) -> None:
        asked.set()
        engine = next(one for one in acme(stack) if writer in one._readers)
        await engine._readers[writer].read(1)
        raise ConnectionResetError

    for engine in acme(stack):
        engine.reply = once(late, acme(stack), second)
    assert stack.post(CHAT, chat(**ASKS), key="acme-key")[2] == b"".join(GOOD)
    assert hedges(stack) == {"lost": 1}


def test_the_first_copy_goes_on_alone_where_the_second_fails(stack: Stack) -> None:
    failed = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        await failed.wait()
        await streamed(*GOOD)(request, writer)

    async def breaks(request: bytes, writer: asyncio.StreamWriter) -> None:
        failed.set()
        await broken(request, writer)

    for engine in acme(stack):
        engine.reply = once(late, acme(stack), breaks)
    assert stack.post(CHAT, chat(**ASKS), key="acme-key")[2] == b"".join(GOOD)
    assert (hedges(stack), attempts(stack)) == ({"lost": 1}, 2)


def test_where_both_copies_fail_the_request_is_retried(stack: Stack) -> None:
    both = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        await both.wait()
        await broken(request, writer)

    async def third(request: bytes, writer: asyncio.StreamWriter) -> None:
        if attempts(stack) == 2:
            both.set()
            await broken(request, writer)
        await streamed(*GOOD)(request, writer)

    for engine in acme(stack):
        engine.reply = once(late, acme(stack), third)
    assert stack.post(CHAT, chat(**ASKS), key="acme-key")[2] == b"".join(GOOD)
    assert (hedges(stack), attempts(stack)) == ({"failed": 1}, 3)


def test_no_copy_goes_where_the_first_is_nor_where_nobody_is_free(stack: Stack) -> None:
    asked = asyncio.Event()

    async def late(request: bytes, writer: asyncio.StreamWriter) -> None:
        registry = stack.process.metrics.registry
        wanted = {"pool": "acme", "result": "nowhere"}
        while not registry.get_sample_value("promptlane_hedges_total", wanted):  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0.005)
        asked.set()
        await streamed(*GOOD)(request, writer)

    async def drain() -> None:
        stack.app.runtime.pools["acme"].states[1].draining = True

    stack.run(drain())
    acme(stack)[0].reply = late
    assert stack.post(CHAT, chat(**ASKS), key="acme-key")[2] == b"".join(GOOD)
    assert asked.is_set()
    assert attempts(stack) == 1


def test_a_copy_that_is_ended_before_its_first_step_gives_its_seat_back(stack: Stack) -> None:
    """The first copy's answer may come between the second's dispatch and the moment its task begins."""

    async def race() -> list[object]:
        pool = stack.app.runtime.pools["acme"]
        seats = [pool.take(Waiting(request())) for _ in range(2)]
        race = Race("late")
        copies = [cast("Call", SimpleNamespace(ticket=seat)) for seat in seats]

        async def answers() -> None:
            assert race.claim(copies[0])

        async def is_never_sent() -> None:
            pytest.fail("the other has answered")

        race.start(copies[0], answers())
        race.start(copies[1], is_never_sent())
        before = await _in_flight(stack)
        await race.over()
        await race.stop()
        return [before, await _in_flight(stack), race.winner is copies[0]]

    assert stack.run(race()) == [2, 0, True]


def test_a_client_that_leaves_ends_both_copies(stack: Stack) -> None:
    left = [asyncio.Event(), asyncio.Event()]

    def silent(engine: RecordingEngine, gone: asyncio.Event) -> Reply:
        async def reply(_: bytes, writer: asyncio.StreamWriter) -> None:
            writer.write(STREAM + b"%x\r\n%b\r\n" % (len(ROLE), ROLE))
            engine.began.set()
            if await engine._readers[writer].read(1) == b"":
                gone.set()
            raise ConnectionResetError

        return reply

    for engine, gone in zip(acme(stack), left, strict=True):
        engine.reply = silent(engine, gone)
    body = json.dumps(chat(**ASKS)).encode()

    async def both_gone() -> None:
        await asyncio.gather(*(event.wait() for event in left))

    with stack.connect() as sock:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer acme-key\r\n"
        sock.sendall(head + b"content-length: %d\r\n\r\n" % len(body) + body)
        for engine in acme(stack):
            stack.run(asyncio.wait_for(engine.began.wait(), 60))
    stack.run(asyncio.wait_for(both_gone(), 60))

    async def nothing_left() -> None:
        async with asyncio.timeout(60):
            while await _in_flight(stack) or copies():  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.005)

    stack.run(nothing_left())
    assert hedges(stack) == {"failed": 1}


def test_what_is_late_is_learned_from_the_pools_own_answers() -> None:
    config = two_tenants()
    config["pools"]["acme"]["hedging"] = {"enabled": True}
    with running(config) as stack:
        for engine in acme(stack):
            engine.reply = streamed(*GOOD)
        hedge = stack.app.runtime.pools["acme"].attempts.hedge
        assert hedge is not None
        for number in range(LEAST_SAMPLES // 20):
            stack.post(CHAT, chat(content=str(number), **ASKS), key="acme-key")
        assert hedge.first_byte.seen == LEAST_SAMPLES // 20
