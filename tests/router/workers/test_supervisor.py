"""How the supervisor keeps its workers: those that cannot start, those that end, and the sockets that outlive them.

Floor: tests only. Workers here are small programs that keep the contract (`router.workers.assignment`), no more.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.config import ServerConfig, loads
from router.surroundings import CannotServe
from router.workers.assignment import (
    VARIABLE,
    Assignment,
    Last,
    Order,
    Orders,
    Ready,
    Relieved,
    Stand,
    framed,
    note_of,
    take,
    tell,
)
from router.workers.place import Stage
from router.workers.sockets import TenantSockets
from router.workers.supervisor import Supervisor
from tests.e2e.front import until
from tests.servers import free_port

ROOT = Path(__file__).parents[3]
SERVES = """
import os, sys, time
from router.workers.assignment import Alive, Failed, Leaving, Ready, take, tell
end, assignment = take(os.environ)
"""
ENDS_SOON = SERVES + "tell(end, Ready()); sys.exit(3)"
STAYS = SERVES + "tell(end, Ready())\nwhile end.recv(4096): tell(end, Alive())"
LEAVES = SERVES + "tell(end, Ready()); tell(end, Leaving())\nwhile end.recv(4096): tell(end, Alive())"
SILENT = SERVES + "tell(end, Ready())\nwhile end.recv(4096): pass"
CANNOT = SERVES + "tell(end, Failed(['pools.p: no file', 'and more'])); sys.exit(1)"


def supervisor(tmp_path: Path, program: str, workers: int = 2) -> Supervisor:
    ports = f"port: {free_port()}, admin_port: {free_port()}, secret_file: {tmp_path / 'secret'}"
    data = f"server: {{workers: {workers}, shutdown_grace: 1, {ports}}}".encode()
    return Supervisor(tmp_path / "c.yaml", data, loads(data, {}), [sys.executable, "-c", program])


@asynccontextmanager
async def running(found: Supervisor) -> AsyncIterator[None]:
    task = asyncio.create_task(found.run())
    try:
        yield
    finally:
        found._told_to_end()
        await asyncio.wait_for(task, 60)


async def test_where_no_worker_can_start_it_says_why_once_and_ends(tmp_path: Path) -> None:
    with pytest.raises(CannotServe) as failed:
        await supervisor(tmp_path, CANNOT).run()
    lines = str(failed.value).splitlines()
    assert lines[0].startswith("worker ")
    assert lines[1:] == ["  pools.p: no file", "  and more"]


@pytest.mark.parametrize("program", ["import sys; sys.exit(3)", "import os; os.kill(os.getpid(), 9)"])
async def test_workers_that_end_before_they_serve_are_a_failed_start(tmp_path: Path, program: str) -> None:
    with pytest.raises(CannotServe, match="ended before it served"):
        await supervisor(tmp_path, program).run()


async def test_a_program_that_is_not_there_is_a_failed_start(tmp_path: Path) -> None:
    found = supervisor(tmp_path, "")
    for place in found._places:
        place._command = ["/nowhere/promptlane"]
    with pytest.raises(CannotServe, match="cannot be started"):
        await found.run()


async def test_workers_that_end_soon_again_and_again_are_started_ever_later(tmp_path: Path) -> None:
    found = supervisor(tmp_path, ENDS_SOON)
    async with running(found):

        async def paused() -> bool:
            return all(place.restarts.early >= 3 and place.stage is Stage.PAUSED for place in found._places)

        await until("both are paused", paused)
        assert set(found.metrics.restarts) == {"0", "1"}
        assert min(found.metrics.restarts.values()) >= 3
        assert not found.ready
        with socket.create_connection(("127.0.0.1", found.config.server.port), timeout=60.0):
            pass  # it waits for whoever is next


async def test_told_to_end_while_workers_start_it_leaves_none_behind(tmp_path: Path) -> None:
    found = supervisor(tmp_path, SERVES + "time.sleep(60)")
    async with running(found):

        async def both_there() -> bool:
            return all(place.pid is not None for place in found._places)

        await until("both have been started", both_there)
        pids = [place.pid for place in found._places]
    for pid in pids:
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_worker_that_says_it_serves_is_one_and_its_folder_is_private(tmp_path: Path) -> None:
    found = supervisor(tmp_path, STAYS)
    async with running(found):

        async def ready() -> bool:
            return found.ready

        await until("it is ready", ready)
        assert found._folder.stat().st_mode & 0o777 == 0o700
        assert [one["stage"] for one in found.describe().values()] == ["serving", "serving"]
        assert [one.index for one in found.voices()] == [0, 1]
    assert not found._folder.exists()


async def test_who_is_about_to_end_still_answers_operators_and_stands_no_more(tmp_path: Path) -> None:
    found = supervisor(tmp_path, LEAVES, workers=3)
    async with running(found):

        async def left() -> bool:
            return found.ready and all(place.leaving for place in found._places)

        await until("all are about to end", left)
        assert not [place for place in found._places if place.stands]
        assert len(found.voices()) == 3


async def test_a_worker_that_says_nothing_is_killed_and_counted_and_another_is_started(tmp_path: Path) -> None:
    found = supervisor(tmp_path, SILENT)
    found.config = found.config.model_copy(
        update={"server": found.config.server.model_copy(update={"worker_timeout": 0.5})}
    )
    async with running(found):

        async def replaced() -> bool:
            return min(found.metrics.hung.values(), default=0) >= 1 and min(place.lives for place in found._places) >= 2

        await until("both have been killed and started again", replaced)
        assert set(found.metrics.hung) == {"0", "1"}


def test_a_port_that_somebody_has_is_noticed_though_workers_share_theirs(tmp_path: Path) -> None:
    server = ServerConfig(port=free_port())
    first = TenantSockets(server, 3)
    with pytest.raises(CannotServe, match=r"server\.port: cannot listen"):
        TenantSockets(server, 3)
    first.close()
    TenantSockets(server, 3).close()


def test_all_listen_on_the_free_port_that_was_picked() -> None:
    sockets = TenantSockets(ServerConfig(port=0), 3)
    ports = []
    for descriptor in sockets.descriptors:
        with socket.socket(fileno=os.dup(descriptor)) as one:
            ports.append(one.getsockname()[1])
    assert (len(ports), len(set(ports))) == (3, 1)
    sockets.close()


# -- the contract


def assignment() -> Assignment:
    with socket.socket() as one:
        listening = os.dup(one.fileno()), os.dup(one.fileno())
    return Assignment(1, 4, listening, "/f", "/f/o", b"secret", b"a", b"b", "c.yaml")


async def test_what_is_handed_down_arrives_and_what_is_said_is_heard() -> None:
    ours, theirs = socket.socketpair()
    said = assignment()
    ours.sendall(framed(said))
    environ = {VARIABLE: str(theirs.detach()), "other": "x"}
    taken = take(environ)
    assert taken is not None
    end, found = taken
    assert (found, environ) == (said, {"other": "x"})
    assert not os.get_inheritable(end.fileno())
    tell(end, Ready())
    ours.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=ours)
    assert await note_of(reader) == Ready()
    end.close()
    assert await note_of(reader) is None
    writer.close()
    for descriptor in said.listening:
        os.close(descriptor)


def test_orders_are_read_however_they_come_in_pieces() -> None:
    said: list[Order] = [Stand((1, 3)), Relieved(), Last()]
    data = b"".join(framed(one) for one in said)
    orders = Orders()
    assert [order for at in range(len(data)) for order in orders.feed(data[at : at + 1])] == said
    assert orders.feed(data) == said


def test_a_process_that_no_supervisor_started_has_no_assignment() -> None:
    assert take({}) is None


def test_a_worker_whose_supervisor_has_gone_says_so() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    with pytest.raises(ConnectionError, match="supervisor has gone"):
        take({VARIABLE: str(theirs.detach())})


# -- the command


def test_what_every_worker_says_is_told_once_and_the_exit_status_is_1(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    tls = "tls: {cert_file: /nowhere/cert.pem, key_file: /nowhere/key.pem}"
    file.write_text(f"server: {{workers: 2, port: {free_port()}, admin_port: {free_port()}, {tls}}}")
    environ = {"PATH": os.environ["PATH"], "PROMPTLANE_SECRET": "s" * 32}
    done = subprocess.run(
        [sys.executable, "-m", "router.cli", "serve", "--config", str(file)],
        capture_output=True, text=True, cwd=ROOT, timeout=180, env=environ,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("server.tls: the certificate or its key cannot be used") == 1
    assert "Traceback" not in done.stderr
