"""The harness can fail: seeds are schedules, lies are found out, a wire cuts, the rules say what must be."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, ClassVar, cast

import pytest

from tests.chaos.ask import Ask, Seen
from tests.chaos.faults import WIRED, Kind, draw_schedule
from tests.chaos.judge import Ending, Verdict, judge
from tests.chaos.rules import Features, Spell, must_succeed, nobody_there, savable
from tests.chaos.wire import Wire
from tests.chaos.world import HOSTS

ALL = Features(True, True, frozenset({"platinum"}), True, True, True)
BY_NAME = {host.name: host for host in HOSTS}


def ask(stream: bool = True, api: str = "chat", usage: bool = False) -> Ask:
    return Ask("acme", api, stream, usage, "hello there", 4, "chat", "tiny")


def chunk(delta: dict[str, Any], finish: str | None = None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {"id": "a", "created": 1, "model": "chat", "choices": [choice], **fields}


def events(one: Ask) -> list[dict[str, Any]]:
    """The right answer of four tokens."""
    words = [f" {word}" for word in one.expected.text.split()]
    assert len(words) == 4
    chunks = [chunk({"role": "assistant", "content": ""}), *(chunk({"content": word}) for word in words)]
    chunks[-1]["choices"][0]["finish_reason"] = "length"
    return chunks


def seen(one: Ask, stream: list[Any], *, status: int = 200, broken: str = "", at: tuple[float, float] = (0, 1)) -> Seen:
    body = "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n" for event in stream)
    return Seen(one, at[0], at[1], status, {}, body.encode(), broken=broken)


ERROR = {"error": {"message": "The engine failed.", "code": "engine_closed"}}


# -- schedules


def test_a_seed_is_a_schedule() -> None:
    assert draw_schedule(7, HOSTS) == draw_schedule(7, HOSTS)
    assert draw_schedule(7, HOSTS) != draw_schedule(22, HOSTS)


def test_schedules_hold_what_they_must() -> None:
    schedules = [draw_schedule(seed, HOSTS) for seed in range(200)]
    assert {fault.kind for one in schedules[1:21] for fault in one.faults} == set(Kind), "CI plays every kind"
    assert any(fault.host == "acme-warm" for one in schedules for fault in one.faults)
    assert any(len(one.pools) == 2 for one in schedules)
    assert all(len(one.pools) < 3 for one in schedules), "somebody is there who must notice nothing"
    for one in schedules:
        assert max(Counter(fault.host for fault in one.faults).values()) == 1, "no host breaks twice at once"
        assert all(BY_NAME[fault.host].wired for fault in one.faults if fault.kind in WIRED)
    during = [
        one
        for one in schedules
        for first, then in zip(one.faults, one.faults[1:], strict=False)
        if first.pool == then.pool and then.at < first.at + first.seconds
    ]
    assert len(during) > 60, "faults while a failover is under way"


# -- verdicts


def test_the_right_stream_is_complete() -> None:
    assert judge(seen(ask(), [*events(ask()), "[DONE]"])).ending is Ending.COMPLETE


def test_usage_must_be_the_true_one() -> None:
    one = ask(usage=True)
    right = {"prompt_tokens": one.expected.prompt_tokens, "completion_tokens": 4}
    last = {"id": "a", "created": 1, "model": "chat", "choices": [], "usage": right}
    assert judge(seen(one, [*events(one), last, "[DONE]"])).ending is Ending.COMPLETE
    wrong = {**last, "usage": {**right, "completion_tokens": 3}}
    assert judge(seen(one, [*events(one), wrong, "[DONE]"])).ending is Ending.LIE
    assert judge(seen(one, [*events(one), "[DONE]"])).ending is Ending.LIE


def test_an_error_event_after_a_true_beginning_is_honest() -> None:
    verdict = judge(seen(ask(), [*events(ask())[:3], ERROR]))
    assert (verdict.ending, verdict.content, verdict.began) == (Ending.ERROR, 2, True)


@pytest.mark.parametrize(
    "lie",
    [
        lambda chunks: [*chunks[:3], ERROR, "[DONE]"],
        lambda chunks: [*chunks[:3], "[DONE]"],
        lambda chunks: chunks,
        lambda chunks: [*chunks, "[DONE]", "[DONE]"],
        lambda chunks: [*chunks[:2], chunk({"content": " bogus"}), ERROR],
        lambda chunks: [*chunks[:3], chunks[0], *chunks[3:], "[DONE]"],
        lambda chunks: [*chunks[:2], *(one | {"id": "b"} for one in chunks[2:]), "[DONE]"],
        lambda chunks: [*chunks[:2], *(one | {"created": 2} for one in chunks[2:]), "[DONE]"],
        lambda chunks: [*chunks[:3], chunk({"content": ""}, "abort"), "[DONE]"],
        lambda chunks: [*chunks[:2], *chunks[3:], "[DONE]"],
        lambda chunks: [*chunks[:2], chunks[1], *chunks[2:], "[DONE]"],
        lambda chunks: [chunks[0], chunk({}, prompt_token_ids=[1]), *chunks[1:-1], "[DONE]"],
    ],
    ids=["done-after-error", "cut-short", "no-done", "done-twice", "other-text", "role-twice", "other-id", "other-time",
         "abort", "lost-token", "token-twice", "cut-off-with-done"],
)  # fmt: skip
def test_lies_in_streams_are_found_out(lie: Any) -> None:
    assert judge(seen(ask(), lie(events(ask())))).ending is Ending.LIE


def test_whole_answers_and_refusals_are_judged_too() -> None:
    one = ask(stream=False)
    usage = {"prompt_tokens": one.expected.prompt_tokens, "completion_tokens": 4}
    usage["total_tokens"] = sum(usage.values())
    choice = {"message": {"content": one.expected.text}, "finish_reason": "length"}
    body = {"model": "chat", "choices": [choice], "usage": usage}

    def judged(answer: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Ending:
        return judge(Seen(one, 0, 1, status, headers or {}, json.dumps(answer).encode())).ending

    assert judged(body) is Ending.COMPLETE
    assert judged({**body, "choices": [{**choice, "finish_reason": "abort"}]}) is Ending.LIE
    assert judged(ERROR, 502) is Ending.ERROR
    assert judged(ERROR, 400) is Ending.LIE, "there is nothing wrong with the request"
    assert judged({"error": {"message": "nobody", "code": "no_endpoint"}}, 503) is Ending.LIE, "when to come back?"
    assert judged({"error": {"message": "nobody", "code": "no_endpoint"}}, 503, {"retry-after": "2"}) is Ending.ERROR
    assert judge(Seen(one, 0, 1, broken="reset")).ending is Ending.LIE


# -- rules

HOSTS_OF_ACME = ["acme-0", "acme-1"]
WHOLE, SHOWN = Verdict(Ending.ERROR), Verdict(Ending.ERROR, content=3, began=True)


def spell(host: str, kind: Kind, began: float, ended: float = float("inf")) -> Spell:
    return Spell(host, "acme", kind, began, ended)


def test_a_request_is_savable_while_one_host_is_well_all_along() -> None:
    one = seen(ask(), [], at=(1, 2))
    assert savable(one, HOSTS_OF_ACME, [spell("acme-0", Kind.KILL, 0)])
    assert not savable(one, HOSTS_OF_ACME, [spell("acme-0", Kind.KILL, 0, 1.2), spell("acme-1", Kind.KILL, 1.8)])
    assert savable(one, HOSTS_OF_ACME, [spell("acme-0", Kind.KILL, 0, 0.9), spell("acme-1", Kind.KILL, 1.8)])


def test_only_while_every_host_is_ill_nobody_can_recover() -> None:
    down = [Spell("acme-0", "acme", Kind.KILL, 1.0, mended=4.0), Spell("acme-1", "acme", Kind.RESTART, 2.0, mended=6.0)]
    assert nobody_there(HOSTS_OF_ACME, down, 10.0) == 2.0
    assert nobody_there(HOSTS_OF_ACME, down, 3.0) == 1.0
    assert nobody_there(HOSTS_OF_ACME, down[:1], 10.0) == 0.0
    assert nobody_there([*HOSTS_OF_ACME, "acme-warm"], down, 10.0) == 0.0
    assert nobody_there(HOSTS_OF_ACME, [], 10.0) == 0.0


@pytest.mark.parametrize(
    ("verdict", "tier", "kind", "features", "must"),
    [
        (WHOLE, "silver", Kind.KILL, Features(), True),
        (SHOWN, "silver", Kind.KILL, ALL, False),
        (SHOWN, "platinum", Kind.KILL, ALL, True),
        (SHOWN, "platinum", Kind.KILL, Features(), False),
        (WHOLE, "silver", Kind.STOP, Features(), False),
        (WHOLE, "silver", Kind.STOP, ALL, True),
        (SHOWN, "platinum", Kind.SILENT, ALL, True),
        (WHOLE, "silver", Kind.ABORT, Features(), False),
        (WHOLE, "silver", Kind.ABORT, ALL, True),
        (Verdict(Ending.ERROR, began=True), "silver", Kind.DIE, Features(), False),
        (Verdict(Ending.ERROR, began=True), "silver", Kind.DIE, ALL, True),
    ],
)
def test_what_must_succeed(verdict: Verdict, tier: str, kind: Kind, features: Features, must: bool) -> None:
    one = seen(ask(), [], at=(1, 2))
    assert must_succeed(one, verdict, tier, HOSTS_OF_ACME, [spell("acme-0", kind, 0)], features) is must


def test_where_nothing_is_broken_nothing_may_fail() -> None:
    one = seen(ask(), [], at=(1, 2))
    assert must_succeed(one, SHOWN, "silver", HOSTS_OF_ACME, [spell("acme-0", Kind.KILL, 3)], Features())


# -- the wire


class Echo(asyncio.Protocol):
    """An engine that says what it hears. `open`: its connections."""

    open: ClassVar[set[asyncio.Transport]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.open.add(self.transport)

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.open.discard(self.transport)


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    one = Wire(("127.0.0.1", server.sockets[0].getsockname()[1]))
    await one.start()
    yield one
    await one.stop()
    server.close()
    for transport in Echo.open:
        transport.abort()
    while Echo.open:  # noqa: ASYNC110 - transports close in the loop's next turns
        await asyncio.sleep(0)


async def left(writer: asyncio.StreamWriter) -> None:
    """The client is gone."""
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def test_a_wire_passes_blocks_and_mends(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    wire.block()
    writer.write(b"two")
    got = asyncio.create_task(reader.readexactly(3))
    done, _ = await asyncio.wait({got}, timeout=0.2)
    assert not done, "nothing comes through"
    await wire.mend()
    assert await asyncio.wait_for(got, 60) == b"two"
    await left(writer)


async def test_a_cut_wire_resets_and_refuses_until_it_is_mended(wire: Wire) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
    writer.write(b"one")
    await reader.readexactly(3)
    wire.cut()
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 60)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", wire.port)
    await wire.mend()
    again, other = await asyncio.open_connection("127.0.0.1", wire.port)
    other.write(b"two")
    assert await again.readexactly(3) == b"two"
    await left(other)
    await left(writer)


async def test_an_engine_that_refuses_shows_through_a_wire() -> None:
    nobody = Wire(("127.0.0.1", 1))
    await nobody.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", nobody.port)
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(1), 60)
    await left(writer)
    await nobody.stop()
