"""Real processes that stop: the one that still runs knows it in a second, and takes the other back when it goes on."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from router.coordination.frames import Bound
from tests.router.coordination.peers import PATIENCE, Notes, ask, link, owner, until

ROOT = Path(__file__).parents[3]


@contextmanager
def process(role: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A replica in a process of its own."""
    command = [sys.executable, "-m", "tests.router.coordination.peers", role, address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as child:
        try:
            yield child
        finally:
            child.send_signal(signal.SIGCONT)
            child.kill()


async def ready(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    async with asyncio.timeout(2 * PATIENCE):
        assert await asyncio.to_thread(child.stdout.readline) == b"ready\n"


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/link.sock"


async def test_an_owner_that_stops_is_dropped_and_found_again_when_it_goes_on(address: str) -> None:
    notes = Notes()
    with process("owner", address) as child:
        await ready(child)
        async with link(address, asker=notes) as one:
            assert await one.up(PATIENCE)
            await ask(one)  # a seat: there will be something to say
            child.send_signal(signal.SIGSTOP)
            await until(lambda: bool(notes.reasons))
            assert notes.reasons == ["it has been silent for 1 s"]
            child.send_signal(signal.SIGCONT)
            await until(lambda: one.connected)
            assert isinstance((await ask(one))[1], Bound)


async def test_a_follower_that_stops_is_dropped_and_comes_back_by_itself(address: str) -> None:
    async with owner(address) as our:
        with process("follower", address) as child:
            await ready(child)
            child.send_signal(signal.SIGSTOP)
            assert await our.desks[0].end() == "it has been silent for 1 s"
            assert our.server.sessions == {}
            child.send_signal(signal.SIGCONT)
            again = await our.came(2)
            assert again.session.peer[:2] == our.desks[0].session.peer[:2]  # the same life: its seats are still its own
            assert again.session.peer.given == 1


async def test_a_process_that_dies_is_known_at_once(address: str) -> None:
    async with owner(address) as our:
        with process("follower", address) as child:
            await ready(child)
            child.kill()
            assert await our.desks[0].end() == "it closed the connection"
