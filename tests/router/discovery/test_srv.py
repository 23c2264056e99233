"""SRV records become endpoints, asked for at a real server that changes, fails, and comes back."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random

import pytest

from policies.types import Role
from router.config import ConfigError, DiscoveryConfig, DnsDiscoveryConfig, KubernetesConfig
from router.discovery.dns import DnsRules, DnsSource
from tests.dns_server import DnsServer
from tests.router.discovery.conftest import until

NAME = "_http._tcp.engines.test"
A = {"A": ["10.0.0.1"]}
B = {"A": ["10.0.0.2"], "AAAA": ["fd00::2"]}
TWO = {
    NAME: {"SRV": ["0 10 8000 a.engines.test.", "0 10 8001 b.engines.test."]},
    "a.engines.test": A,
    "b.engines.test": B,
}
ONE = {NAME: {"SRV": ["0 10 8000 a.engines.test."]}, "a.engines.test": A}


@pytest.fixture
def server() -> Iterator[DnsServer]:
    with DnsServer() as running:
        yield running


@asynccontextmanager
async def looking(server: DnsServer, *, keep: float = 300.0, seconds: float = 5.0) -> AsyncIterator[DnsSource]:
    address = f"127.0.0.1:{server.port}"
    rules = DnsRules(NAME, None, 0.01, seconds, "http", Role.HOT, 2.0, keep, address)
    source = DnsSource("p", rules, time.monotonic, Random(1))
    source.start()
    try:
        yield source
    finally:
        await source.stop()


def found(source: DnsSource) -> dict[str, float] | None:
    """Weight by URL."""
    return None if source.found is None else {one.url: one.weight for one in source.found}


async def test_every_record_is_an_endpoint_with_its_port_and_leaves_with_it(server: DnsServer) -> None:
    server.tell(TWO)
    async with looking(server) as source:
        await until("it was told", lambda: source.found is not None)
        urls = ["http://10.0.0.1:8000", "http://10.0.0.2:8001", "http://[fd00::2]:8001"]
        assert sorted(found(source) or ()) == urls
        assert source.found is not None
        assert [one.name for one in source.found] == ["p.10.0.0.1-8000", "p.10.0.0.2-8001", "p.fd00--2-8001"]
        assert source.text == f"SRV records of {NAME}"
        server.tell(ONE)
        await until("two left", lambda: found(source) == {"http://10.0.0.1:8000": 2.0})
        server.tell(ONE | {NAME: {"SRV": ["0 10 9000 a.engines.test."]}})
        await until("its port is another", lambda: found(source) == {"http://10.0.0.1:9000": 2.0})


async def test_weights_are_shares_and_a_higher_priority_number_serves_nobody(server: DnsServer) -> None:
    records = ["1 30 1 a.engines.test.", "1 10 2 a.engines.test.", "2 99 3 a.engines.test."]
    server.tell({NAME: {"SRV": records}, "a.engines.test": A})
    async with looking(server) as source:
        await until("it was told", lambda: source.found is not None)
        assert found(source) == {"http://10.0.0.1:1": 3.0, "http://10.0.0.1:2": 1.0}, "2 on average, as the pool says"
        server.tell({NAME: {"SRV": records[2:]}, "a.engines.test": A})
        await until("the first ones are gone", lambda: found(source) == {"http://10.0.0.1:3": 2.0})


@pytest.mark.parametrize("fault", ["silent", "servfail", "refused"])
async def test_servers_that_do_not_say_empty_nothing_however_long(server: DnsServer, fault: str) -> None:
    server.tell(ONE)
    async with looking(server, keep=0.0, seconds=0.3) as source:
        await until("it was told", lambda: found(source) == {"http://10.0.0.1:8000": 2.0})
        server.fail(fault)
        cause = "timeout" if fault == "silent" else "unresolved"
        await until("it noticed", lambda: source.failures[cause] >= 3)
        assert found(source) == {"http://10.0.0.1:8000": 2.0}
        assert source.problem
        server.tell(TWO)
        await until("it is heard again", lambda: len(source.found or ()) == 3)
        assert source.problem is None


async def test_a_server_that_is_killed_empties_nothing(server: DnsServer) -> None:
    server.tell(ONE)
    async with looking(server, keep=0.0, seconds=0.3) as source:
        await until("it was told", lambda: found(source) == {"http://10.0.0.1:8000": 2.0})
        server.stop()
        await until("it noticed", lambda: source.failures.total() >= 2)
        assert found(source) == {"http://10.0.0.1:8000": 2.0}


GONE = {
    "no such name": {},
    "no such records": {NAME: {"A": ["10.0.0.9"]}},
    "decidedly none": {NAME: {"SRV": ["0 0 0 ."]}},
    "its target is gone": {NAME: ONE[NAME]},
    "its target has no address": {NAME: ONE[NAME], "a.engines.test": {"TXT": ["x"]}},
}


@pytest.mark.parametrize("what", GONE)
async def test_that_there_are_none_is_believed_after_a_while_alone(server: DnsServer, what: str) -> None:
    server.tell(ONE)
    async with looking(server, keep=300.0) as patient, looking(server, keep=0.2) as source:
        await until("they were told", lambda: found(source) == found(patient) == {"http://10.0.0.1:8000": 2.0})
        server.tell(GONE[what])
        await until("it noticed", lambda: source.failures["unresolved"] >= 1)
        await until("it believes it", lambda: source.found == ())
        assert source.problem is None, "that is how it is"
        await until("the other one asked often", lambda: patient.failures["unresolved"] >= 5)
        assert found(patient) == {"http://10.0.0.1:8000": 2.0}
        server.tell(ONE)
        await until("it is back", lambda: found(source) == {"http://10.0.0.1:8000": 2.0})
        server.tell(GONE[what])
        await until("it waits anew", lambda: source.problem is not None)


async def test_a_name_that_was_never_there_is_an_empty_pool_after_a_while(server: DnsServer) -> None:
    async with looking(server, keep=0.1) as source:
        await until("it was asked", lambda: source.failures["unresolved"] >= 1)
        await until("it is known to be empty", lambda: source.found == ())


async def test_what_does_not_fit_a_datagram_comes_by_tcp(server: DnsServer) -> None:
    server.tell(TWO, "truncated")
    async with looking(server) as source:
        await until("it was told", lambda: len(source.found or ()) == 3)


def test_without_dnspython_the_configuration_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    from router import discovery_builder

    monkeypatch.setattr(discovery_builder, "installed", lambda: False)
    said = DiscoveryConfig(dns=DnsDiscoveryConfig(srv=NAME))
    with pytest.raises(ConfigError, match=r"pools.p.discovery.dns.srv: needs dnspython.*promptlane\[dns\]"):
        discovery_builder._source("p", said, KubernetesConfig(), time.monotonic)
