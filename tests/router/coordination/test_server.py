"""Who may not come in, or does not keep to the protocol, is shown the door, with one line in the log and no memory."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import Struct

from router.coordination.channel import Channel
from router.coordination.frames import Ask, Cancel, Carry, Done, First, Ping
from router.coordination.framing import MAX_FRAME_BYTES, encode
from router.coordination.handshake import Handshake, Peer, link_key, new_life
from router.coordination.pulse import Limits
from router.coordination.server import _MAX_PENDING, Session, serve_links
from tests.router.coordination.builders import SECRET, make_asked, make_bound, make_seat
from tests.router.coordination.peers import LONG_SILENCE, PATIENCE, Bare, Notes, Owner, ask, bare, link, owner, until
from tests.router.scripted_engine import Run, both_loops


@pytest.fixture
async def our(tmp_path: Path) -> AsyncIterator[Owner]:
    async with owner(f"unix:{tmp_path}/link.sock") as one:
        yield one


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelname == "WARNING"]


def nothing_is_kept(our: Owner) -> bool:
    return not our.server.pending and not our.server.sessions


async def test_plain_http_is_refused_without_an_answer(our: Owner, caplog: pytest.LogCaptureFixture) -> None:
    async with bare(our.server) as peer:
        await peer.say(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
        assert await peer.ended() == b""
    assert warnings(caplog) == ["refused a peer at a local socket: it does not speak the protocol of replicas"]
    assert nothing_is_kept(our)
    assert our.desks == []


@both_loops
def test_who_was_refused_or_has_left_is_forgotten_without_a_garbage_collection(run: Run, tmp_path: Path) -> None:
    def kept() -> int:
        return sum(type(one) in (Session, Channel) for one in gc.get_objects())

    async def play() -> None:
        async with owner(f"unix:{tmp_path}/link.sock") as our:
            for _ in range(20):
                async with bare(our.server) as peer:
                    await peer.say(b"GET / HTTP/1.1\r\n\r\n")
                    await peer.ended()
                async with bare(our.server) as peer:
                    await peer.prove()
            await until(lambda: len(our.desks) == 20 and nothing_is_kept(our))
            our.desks.clear()
            await until(lambda: kept() == before)

    gc.collect()
    before = kept()
    gc.disable()
    try:
        run(play())
    finally:
        gc.enable()


async def test_another_secret_is_refused_on_both_sides(our: Owner, caplog: pytest.LogCaptureFixture) -> None:
    notes = Notes()
    async with link(our.server.address, secret=b"another", asker=notes) as one:
        one.connect()
        await until(lambda: one._task is None)
        assert (one.connected, notes.connections, notes.reasons) == (False, 0, [])
    assert any("it has another secret: PROMPTLANE_SECRET must be the same" in said for said in warnings(caplog))
    assert any("is PROMPTLANE_SECRET the same on both?" in said for said in warnings(caplog))
    assert nothing_is_kept(our)


async def test_an_impostor_of_an_owner_gets_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        impostor = Handshake(link_key(b"another"), Peer("owner", new_life(), 0), calls=False)
        writer.write(impostor.feed(await reader.read(1000)))
        writer.write(bytes(32) if await reader.read(1000) else b"")
        heard.append(await reader.read())
        writer.close()

    server = await asyncio.start_unix_server(answer, tmp_path / "link.sock")
    async with server, link(f"unix:{tmp_path}/link.sock") as one:
        one.connect()
        await until(lambda: one._task is None and bool(heard))
        assert (one.connected, heard) == (False, [b""])
    assert any("another secret" in said for said in warnings(caplog))


async def test_a_replayed_handshake_is_refused(our: Owner) -> None:
    follower = Handshake(link_key(SECRET), Peer("pod-a", new_life(), 0), calls=True)
    hello = follower.begin()
    async with bare(our.server) as peer:
        await peer.say(hello)
        proof = follower.feed(await peer.hear())
        await peer.say(proof)
        follower.feed(await peer.hear())
        assert follower.peer is not None
    async with bare(our.server) as again:
        await again.say(hello)
        await again.hear()
        await again.say(proof)
        assert await again.ended() == b""
    assert len(our.desks) == 1


@pytest.mark.parametrize("half", ["nothing", "half a hello", "no proof"])
async def test_half_a_handshake_is_given_up_in_time(
    half: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hello = Handshake(link_key(SECRET), Peer("pod-a", new_life(), 0), calls=True).begin()
    said = {"nothing": b"", "half a hello": hello[:20], "no proof": hello}[half]
    async with owner(f"unix:{tmp_path}/link.sock", limits=Limits(handshake=0.05)) as our, bare(our.server) as peer:
        await peer.say(said)
        await peer.ended()
        assert nothing_is_kept(our)
    assert warnings(caplog) == ["refused a peer at a local socket: it did not prove itself in time"]


async def test_an_owner_that_never_proves_itself_is_given_up_by_the_follower(tmp_path: Path) -> None:
    left = asyncio.Event()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()  # to the end of what the follower says
        writer.close()
        left.set()

    server = await asyncio.start_unix_server(listen, tmp_path / "link.sock")
    async with server, link(f"unix:{tmp_path}/link.sock", limits=Limits(handshake=0.05)) as one:
        one.connect()
        await until(lambda: one._task is None)
        assert one._reason == "it did not prove itself in time"
        await left.wait()


async def test_many_who_say_nothing_keep_no_replica_out(our: Owner) -> None:
    idle = [await Bare.connect(our.server) for _ in range(2 * _MAX_PENDING)]
    async with link(our.server.address) as one:
        assert await one.up(PATIENCE)
        assert our.server.pending <= _MAX_PENDING
        assert len(our.server.sessions) == 1
    assert await idle[0].ended() == b""  # the oldest went first
    for peer in idle:
        peer.close()


FAULTS: dict[str, tuple[bytes | Struct, str]] = {
    "a length that no frame has": ((MAX_FRAME_BYTES + 1).to_bytes(4, "big"), "bytes; 4194304 are allowed"),
    "no msgpack": (b"\0\0\0\1\xc1", "a frame that cannot be read (not msgpack"),
    "an unknown kind": (b"\0\0\0\3\x92\x63\x01", "a frame that cannot be read (of an unknown kind)"),
    "an owner's frame": (make_bound(1), "a frame that cannot be read (of an unknown kind)"),
    "an old number": (Ask(10, "p", make_asked()), "an Ask out of order"),
    "the first byte of what was never asked": (First(11), "a First of what was never asked"),
    "the end of what was never asked": (Done(11), "a Done of what was never asked"),
    "no wish for what was never asked": (Cancel(11), "a Cancel of what was never asked"),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_ends_the_connection_with_one_line(
    fault: str, our: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    data, reason = FAULTS[fault]
    async with bare(our.server) as peer:
        await peer.prove(given=10)
        await peer.say(encode(First(9)) + (encode(data) if isinstance(data, Struct) else data) + encode(First(8)))
        await peer.ended()
    desk = await our.came()
    assert reason in await desk.end()
    assert desk.frames == [First(9)]  # what came before is good, what comes after means nothing
    assert len(warnings(caplog)) == 1
    assert warnings(caplog)[0].startswith("dropped the connection with replica bare at a local socket: it sent ")
    assert nothing_is_kept(our)


async def test_pings_out_of_order_are_a_fault(our: Owner) -> None:
    async with bare(our.server) as peer:
        await peer.prove()
        await peer.say(Ping(2))
        await peer.say(Ping(2))
        assert await (await our.came()).end() == "it sent a Ping out of order"


async def test_numbers_of_carried_requests_count_as_given(our: Owner) -> None:
    async with bare(our.server) as peer:
        await peer.prove(given=3)
        for frame in (Carry("p", (make_seat(7), make_seat(2))), First(7), Done(2), Ask(8, "p", make_asked())):
            await peer.say(frame)
        desk = await our.came()
        await until(lambda: len(desk.frames) == 4)
        await peer.say(Ask(8, "p", make_asked()))
        assert await desk.end() == "it sent an Ask out of order"


@pytest.mark.parametrize("answer", ["never asked", "a second one"])
async def test_an_owner_s_fault_ends_the_connection_too(
    answer: str, our: Owner, caplog: pytest.LogCaptureFixture
) -> None:
    notes = Notes()
    async with link(our.server.address, asker=notes) as one:
        assert await one.up(PATIENCE)
        number, _ = await ask(one)
        (await our.came()).session.send(make_bound(number + 1 if answer == "never asked" else number))
        await until(lambda: bool(notes.reasons))
        one.done(number, None)
    assert "it sent a" in notes.reasons[0]
    assert len(warnings(caplog)) == 1


async def test_a_peer_that_speaks_but_reads_nothing_is_dropped(tmp_path: Path) -> None:
    limits = Limits(beat=0.02)
    async with owner(f"unix:{tmp_path}/link.sock", limits=limits) as our, bare(our.server) as peer:
        await peer.prove()
        desk = await our.came()
        pinging = asyncio.create_task(peer.ping_for_ever(0.005))
        desk.session.send(make_bound(1, "e" * 2**21))  # more than the kernel takes
        assert await desk.end() == "it has read nothing for 0.08 s"
        pinging.cancel()
        assert nothing_is_kept(our)


async def test_a_peer_that_reads_too_slowly_is_dropped_before_it_costs_more_than_is_allowed(tmp_path: Path) -> None:
    limits = Limits(beats=LONG_SILENCE.beats, unsent_bytes=2**20)
    async with owner(f"unix:{tmp_path}/link.sock", limits=limits) as our, bare(our.server) as peer:
        await peer.prove()
        desk, sent = await our.came(), 0
        while not desk.ended.done():
            desk.session.send(make_bound(1, "e" * 2**16))
            sent += 2**16
            await asyncio.sleep(0)
            assert sent < 2**23, "the kernel's buffers are far smaller"
        assert await desk.end() == "it is too slow for what it is to be told"
        assert sent > 2**20


async def test_two_lives_of_one_replica_are_two_sessions(our: Owner) -> None:
    async with bare(our.server) as one, bare(our.server) as other:
        await one.prove(me="pod-a")
        await other.prove(me="pod-a")
        await our.came(2)
        assert len(our.server.sessions) == 2


async def test_the_local_socket_is_for_its_user_alone_and_goes_with_its_server(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    async with owner(f"unix:{path}"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


async def test_a_server_that_ends_late_leaves_its_successor_s_socket_alone(tmp_path: Path) -> None:
    path = tmp_path / "link.sock"
    old, new = Owner(), Owner()
    first = await serve_links(f"unix:{path}", SECRET, old.desk, me="owner")
    os.rename(path, tmp_path / "aside")
    second = await serve_links(f"unix:{path}", SECRET, new.desk, me="owner")
    await first.close()
    async with link(f"unix:{path}") as one:
        assert await one.up(PATIENCE)
    await second.close()
