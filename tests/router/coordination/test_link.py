"""Over real sockets: answers find who asked, connections come back, and what was not said is known not to be."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock, call

import pytest
import trustme

from policies.types import Outcome
from router.coordination.frames import (
    Answer,
    Aside,
    Bound,
    Cancel,
    Carry,
    Done,
    Ended,
    Fence,
    First,
    Held,
    NotMine,
    Refused,
)
from router.coordination.framing import MAX_FRAME_BYTES, Unsayable, encode
from router.coordination.link import Link, Unreachable
from router.coordination.pulse import Limits
from tests.router.coordination.builders import SECRET, make_asked, make_bound, make_seat
from tests.router.coordination.peers import FAST, LONG_SILENCE, PATIENCE, Notes, ask, link, owner, until
from tests.router.scripted_engine import Run, both_loops


@pytest.fixture
def unix(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/link.sock"


@both_loops
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_round_goes_over_tcp_and_over_a_local_socket(run: Run, kind: str, unix: str) -> None:
    async def play() -> None:
        ended = Ended.of(Outcome(200, started=True, completion_tokens=7))
        async with owner("tcp://127.0.0.1:0" if kind == "tcp" else unix) as our, link(our.server.address) as one:
            assert await one.up(PATIENCE)
            number, answer = await ask(one, "e7")
            assert answer == make_bound(number, "e7")
            one.first(number)
            one.done(number, ended)
            one.fence("p", 9)
            desk = await our.came()
            await until(lambda: len(desk.frames) == 4)
            assert desk.frames[1:] == [First(number), Done(number, ended), Fence("p", 9)]
            assert (one.peer, desk.session.peer.replica) == ("owner", "follower")

    run(play())


@both_loops
def test_ten_thousand_pipelined_requests_keep_their_numbers(run: Run, unix: str) -> None:
    async def play() -> None:
        got: dict[str, Answer | None] = {}
        all_there = asyncio.Event()

        def wait_for(id: str) -> int:
            def answered(answer: Answer | None) -> None:
                got[id] = answer
                if len(got) == 10_000:
                    all_there.set()

            return one.ask("p", make_asked(id), (), False, answered)

        async with owner(unix, limits=LONG_SILENCE) as our, link(unix, limits=LONG_SILENCE) as one:
            assert await one.up(PATIENCE)
            numbers = {f"e{count}": wait_for(f"e{count}") for count in range(10_000)}
            async with asyncio.timeout(2 * PATIENCE):
                await all_there.wait()
            assert got == {id: make_bound(number, id) for id, number in numbers.items()}
            assert len(our.desks) == 1

    run(play())


async def test_what_is_said_in_one_turn_of_the_loop_goes_out_in_one_write(
    unix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = Limits(beat=1000.0)
    async with owner(unix, limits=quiet) as our, link(unix, limits=quiet) as one:
        assert await one.up(PATIENCE)
        desk = await our.came()
        assert one._channel is not None
        transport = one._channel._transport
        assert transport is not None
        noting = Mock(wraps=transport)
        monkeypatch.setattr(one._channel, "_transport", noting)
        said = [First(one.adopt()) for _ in range(100)]
        one.carry("p", [make_seat(number) for number in range(1, 101)])
        for frame in said:
            one.first(frame.id)
        await until(lambda: len(desk.frames) == 101)
        assert noting.write.call_args_list == [call(b"".join(map(encode, desk.frames)))]
        assert desk.frames[1:] == said


async def test_a_request_may_be_held_refused_sent_aside_or_turned_to_another_owner(unix: str) -> None:
    async with owner(unix, answers=False) as our, link(unix) as one:
        assert await one.up(PATIENCE)
        desk, got = await our.came(), list[Answer | None]()
        numbers = [one.ask("p", make_asked(), ("e1", "e2"), True, got.append) for _ in range(4)]
        answers = [
            Held(numbers[0], 60.0),
            Refused(numbers[1], "no_endpoint", "No endpoint.", 2.0, 503, False),
            Aside(numbers[2]),
            NotMine(numbers[3], "p", 8),
            make_bound(numbers[0]),
        ]
        for answer in answers:
            desk.session.send(answer)
        await until(lambda: len(got) == 5)
        assert got == answers
        assert [(frame.excluded, frame.may_hold) for frame in desk.frames] == [(("e1", "e2"), True)] * 4  # type: ignore[union-attr]


async def test_nobody_is_told_of_the_answer_to_a_cancelled_request(unix: str) -> None:
    async with owner(unix, answers=False) as our, link(unix) as one:
        assert await one.up(PATIENCE)
        got: list[Answer | None] = []
        number = one.ask("p", make_asked(), (), False, got.append)
        one.cancel(number)
        desk = await our.came()
        await until(lambda: Cancel(number) in desk.frames)
        desk.session.send(make_bound(number))  # it was on its way
        desk.answers = True
        assert isinstance((await ask(one))[1], Bound)
        assert got == []


async def test_without_a_connection_asking_fails_at_once_and_says_where(unix: str) -> None:
    async with link(unix) as one:
        with pytest.raises(Unreachable, match=f"{unix}: no connection has been made yet"):
            one.ask("p", make_asked(), (), False, lambda _: None)


@pytest.mark.parametrize("id", ["r" * MAX_FRAME_BYTES, "half a character \ud800"], ids=["too long", "not text"])
async def test_a_request_that_no_frame_can_hold_is_not_asked(id: str, unix: str) -> None:
    long = make_asked(id)
    async with owner(unix), link(unix) as one:
        assert await one.up(PATIENCE)
        with pytest.raises(Unsayable):
            one.ask("p", long, (), False, lambda _: None)
        assert not one._asks.open
        assert isinstance((await ask(one))[1], Bound)


async def test_who_waits_is_told_when_the_owner_goes_and_the_seat_is_carried_to_its_successor(unix: str) -> None:
    notes = Notes()
    async with link(unix, asker=notes) as one:
        got: list[Answer | None] = []
        async with owner(unix) as first:
            assert await one.up(PATIENCE)
            number, _ = await ask(one)
            (await first.came()).answers = False
            one.ask("p", make_asked(), (), False, got.append)
        await until(lambda: bool(notes.reasons))
        assert got == [None]
        notes.at_once = lambda: one.carry("p", [make_seat(number)])
        async with owner(unix) as second:
            desk = await second.came()  # by itself: there is something to say
            await until(lambda: bool(desk.frames))
            assert desk.frames == [Carry("p", (make_seat(number),))]
            one.done(number, None)
            await until(lambda: len(desk.frames) == 2)
            assert desk.frames[1] == Done(number)
            assert notes.connections == 2


async def test_a_link_without_anything_to_say_does_not_come_back_by_itself(unix: str) -> None:
    notes = Notes()
    async with link(unix, asker=notes) as one:
        async with owner(unix):
            assert await one.up(PATIENCE)
            number, _ = await ask(one)
            one.done(number, None)
        await until(lambda: bool(notes.reasons))
        assert one._task is None
        async with owner(unix):
            with pytest.raises(Unreachable):
                await ask(one)  # now there is
            assert await one.up(PATIENCE)


async def test_an_owner_that_is_not_there_yet_is_tried_until_it_is(unix: str) -> None:
    async with link(unix) as one:
        waiting = asyncio.create_task(one.up(PATIENCE))
        seat = one.adopt()
        await until(lambda: "No such file" in one._reason)
        async with owner(unix):
            assert await waiting
            assert seat == 1


async def test_one_attempt_is_made_for_one_wish_and_no_more(unix: str, caplog: pytest.LogCaptureFixture) -> None:
    async with link(unix) as one:
        one.connect()
        one.connect()
        await until(lambda: one._task is None)
        assert not await one.up(0.0)
        await until(lambda: one._task is None)
    said = [record.message for record in caplog.records]
    assert said == [f"cannot connect to the replica at {unix}: No such file or directory"]  # once for all attempts


async def test_a_new_connection_of_one_life_replaces_the_one_before(unix: str) -> None:
    async with owner(unix) as our, link(unix) as one:
        assert await one.up(PATIENCE)
        twin = Link(unix, SECRET, me="follower", asker=Notes())
        twin._life = one._life
        assert await twin.up(PATIENCE)
        assert await our.desks[0].end() == "its replica has connected anew"
        assert list(our.server.sessions.values()) == [our.desks[1].session]
        await twin.close()


async def test_an_idle_link_stays_open_by_its_pings(unix: str) -> None:
    notes = Notes()
    async with owner(unix, limits=FAST), link(unix, limits=FAST, asker=notes) as one:
        assert await one.up(PATIENCE)
        await until(lambda: one._pongs >= 8 or bool(notes.reasons))  # twice as long as a silent peer would have
        assert (notes.connections, notes.reasons) == (1, [])


async def test_a_closed_link_stays_closed(unix: str) -> None:
    async with owner(unix) as our, link(unix) as one:
        assert await one.up(PATIENCE)
        one.fence("p", 2)
        await one.close()
        desk = await our.came()
        await desk.end()
        assert desk.frames == [Fence("p", 2)]  # what was said before still went out
        one.connect()
        assert one._task is None


@pytest.fixture(scope="module")
def authority() -> Iterator[trustme.CA]:
    return trustme.CA()


def contexts(server_ca: trustme.CA, client_ca: trustme.CA | None) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server that demands a certificate, and for a client that has one of `client_ca`, or none."""
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server_ca.issue_cert("127.0.0.1").configure_cert(server)
    server_ca.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    server_ca.configure_trust(client)
    if client_ca is not None:
        client_ca.issue_cert("follower").configure_cert(client)
    return server, client


@both_loops
def test_a_round_goes_over_mutual_tls(run: Run, authority: trustme.CA) -> None:
    server_tls, client_tls = contexts(authority, authority)

    async def play() -> None:
        async with (
            owner("tcp://127.0.0.1:0", tls=server_tls) as our,
            link(our.server.address, tls=client_tls) as one,
        ):
            assert await one.up(PATIENCE)
            number, answer = await ask(one, blocks=4096)  # more than one TLS record
            assert answer == make_bound(number, "r")

    run(play())


@both_loops
@pytest.mark.parametrize("certificate", ["none", "of another authority"])
def test_a_follower_without_a_certificate_of_ours_gets_no_session(
    run: Run, authority: trustme.CA, certificate: str
) -> None:
    server_tls, client_tls = contexts(authority, None if certificate == "none" else trustme.CA())

    async def play() -> None:
        async with (
            owner("tcp://127.0.0.1:0", tls=server_tls) as our,
            link(our.server.address, tls=client_tls) as one,
        ):
            one.connect()
            await until(lambda: one._task is None)
            assert not one.connected
            assert (our.desks, our.server.sessions) == ([], {})

    run(play())
