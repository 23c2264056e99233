"""Options and servers that every test may ask for, and which form of the product is tested.

Floor: tests only. Servers live as long as the session and are stopped even when the run is told to end.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings

from tests import compiled
from tests.servers import (
    REDIS_KINDS,
    PostgresServer,
    Server,
    find_redis,
    start_postgres,
    start_redis,
    until_believed,
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--engine",
        choices=("sim", "vllm"),
        default=os.environ.get("E2E_ENGINE", "sim"),
        help="what tests/e2e runs on: simulated engines, or real vLLM servers on the CPU (default: $E2E_ENGINE or sim)",
    )


def pytest_report_header() -> str:
    return f"tested: {compiled.FORM}"


# A machine that others use makes an example slow, and so is making one. `seeded`: the same examples in each run, so
# that a change lands or does not for what it is; `drawn`: others each time, to find what these miss (properties-long).
_UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("seeded", _UNHURRIED, derandomize=True)
settings.register_profile("drawn", _UNHURRIED)


def pytest_configure() -> None:
    settings.load_profile(os.environ.get("PROPERTIES", "seeded"))
    if compiled.FOLDER and not compiled.FORM.endswith(".so"):
        raise pytest.UsageError(f"COMPILED={compiled.FOLDER}: {compiled.FORM} is not compiled; make compiled")
    # A runner that is told to end (a CI time limit) must unwind its fixtures, or it leaves servers behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if compiled.FOLDER and (mark := item.get_closest_marker("interpreted")) is not None:
            item.add_marker(pytest.mark.skip(reason=f"interpreted only: {mark.args[0]}"))


@pytest.fixture(autouse=True, scope="module")
def loggers_stay_as_they_were() -> Iterator[None]:
    """Engines and gateways that run in this process silence their server's logger, which tests of others read."""
    loggers = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.error")]
    before = [(one.level, one.propagate, one.disabled) for one in loggers]
    yield
    for one, (level, propagate, disabled) in zip(loggers, before, strict=True):
        one.setLevel(level)
        one.propagate, one.disabled = propagate, disabled


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    server = start_redis()
    until_believed(server)
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
            until_believed(servers[kind])
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
