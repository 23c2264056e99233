"""The servers that tests start for themselves are real, recent enough and gone afterwards.

Floor: tests only.
"""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
import redis

from tests.servers import (
    BLOCK_PORTS,
    PortBlocks,
    PostgresServer,
    Server,
    ServerFailed,
    free_port,
    free_ports,
    launch,
    start_postgres,
    start_redis,
)

PORTS = range(22_000, 22_000 + 2 * BLOCK_PORTS)


def test_redis_keeps_a_value_and_is_at_least_6_2(redis_server: Server) -> None:
    with redis.Redis.from_url(redis_server.url) as client:
        client.set("promptlane:test", "kept")
        assert client.get("promptlane:test") == b"kept"
        version = client.info("server")["redis_version"]
    assert tuple(int(part) for part in version.split(".")[:2]) >= (6, 2)


def test_postgres_answers_its_own_client(postgres_server: PostgresServer) -> None:
    assert postgres_server.psql("select 1") == "1"
    assert int(postgres_server.psql("show server_version_num")) >= 130000


def test_postgres_of_the_wheel_serves_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.shutil.which", lambda name: None)
    server = start_postgres()
    try:
        assert server.psql("select 1") == "1"
    finally:
        server.stop()


def test_a_postgres_that_was_killed_comes_back_with_what_it_had() -> None:
    server = start_postgres()
    try:
        server.psql("create table kept as select 7 as number")
        server.kill()
        assert server.try_psql("select 1").returncode != 0
        server.start_again()
        assert server.psql("select number from kept") == "7"
    finally:
        server.stop()


def test_redis_of_the_wheel_serves_where_path_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.shutil.which", lambda name: None)
    server = start_redis()
    try:
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
    finally:
        server.stop()


def test_a_stopped_server_leaves_no_listener_and_no_files() -> None:
    server = start_redis()
    port = int(server.url.split(":")[2].split("/")[0])
    server.stop()
    server.stop()
    assert not server.log.parent.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1.0)


def test_a_server_that_ends_early_fails_with_its_log(tmp_path: Path) -> None:
    process, log = launch("broken", ["sh", "-c", "echo the reason; exit 3"], tmp_path)
    server = Server("broken", "", process, log)
    with pytest.raises(ServerFailed, match=r"broken ended with 3:\nthe reason"):
        server.start(lambda: False, 10.0)


def test_a_missing_server_is_a_failure_and_not_a_skip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.shutil.which", lambda name: None)
    monkeypatch.setattr("tests.servers.carried_by_wheel", lambda package, path: None)
    with pytest.raises(ServerFailed, match=r"no redis-system and no redis-6\.2"):
        start_redis()
    with pytest.raises(ServerFailed, match="no PostgreSQL"):
        start_postgres()


def test_a_free_port_can_be_bound_and_lies_below_the_ephemeral_range() -> None:
    port = free_port()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port))
    assert port < 32768


@pytest.fixture
def own_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So that other runs of tests have their blocks and these theirs."""
    free_port()  # this process has its block by then, by the locks of all
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.usefixtures("own_locks")
def test_ports_are_handed_out_once_and_never_by_two_processes() -> None:
    one, other = PortBlocks(PORTS), PortBlocks(PORTS)  # a lock is the open file's, so two in one process are as good
    drawn = [blocks.take(1) for _ in range(BLOCK_PORTS // 4) for blocks in (one, other)]
    assert len(set(drawn)) == len(drawn)
    assert set(drawn) <= set(PORTS)
    with pytest.raises(ServerFailed, match="every block"):
        PortBlocks(PORTS).take(1)


@pytest.mark.usefixtures("own_locks")
def test_a_port_that_is_taken_is_passed_over_and_those_in_a_row_lie_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.randrange", lambda ports: 0)
    ours = free_ports(6)  # so that no server of this run, nor of another, listens where we look
    blocks = PortBlocks(range(ours, ours + BLOCK_PORTS))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", ours + 1))
        assert blocks.take(1) == ours
        assert blocks.take(2) == ours + 2
        assert blocks.take(1) == ours + 4
