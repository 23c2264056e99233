"""Options and servers that every test may ask for.

Floor: tests only. Servers live as long as the session and are stopped even when the run is told to end.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.servers import REDIS_KINDS, PostgresServer, Server, find_redis, start_postgres, start_redis


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=("sim", "vllm"),
        default=os.environ.get("E2E_ENGINE", "sim"),
        help="what tests/e2e runs on: simulated engines, or real vLLM servers on the CPU (default: $E2E_ENGINE or sim)",
    )


def pytest_configure() -> None:
    # A runner that is told to end (a CI time limit) must unwind its fixtures, or it leaves servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    server = start_redis()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_of() -> Iterator[Callable[[str], str]]:
    """The URL of a server of this kind, one of REDIS_KINDS, started when it is first asked for."""
    servers: dict[str, Server] = {}

    def url(kind: str) -> str:
        if find_redis(kind) is None:
            pytest.skip(f"this machine has no {kind}")
        if kind not in servers:
            servers[kind] = start_redis(kind=kind)
        return servers[kind].url

    yield url
    for server in servers.values():
        server.stop()


@pytest.fixture(params=REDIS_KINDS)
def every_redis(request: pytest.FixtureRequest, redis_of: Callable[[str], str]) -> str:
    """The URL of each that this machine has of the versions that the product works with."""
    return redis_of(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    server = start_postgres()
    yield server
    server.stop()
