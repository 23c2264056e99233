"""Addresses of a name become endpoints, and stay while nobody can be asked."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from policies.types import Role
from router.discovery.dns import DnsRules, DnsSource
from tests.router.discovery.conftest import until


class Resolver:
    """`answer`: addresses, or what goes wrong. `hangs`: it does not come before `release`."""

    def __init__(self, *addresses: str) -> None:
        self.answer: tuple[str, ...] | OSError = addresses
        self.asked = 0
        self.release = asyncio.Event()
        self.release.set()

    async def __call__(self, name: str, port: int) -> list[Any]:
        self.asked += 1
        assert (name, port) == ("engines.test", 8000)
        await self.release.wait()
        if isinstance(self.answer, OSError):
            raise self.answer
        return [(0, 0, 0, "", (address, port)) for address in self.answer]


@asynccontextmanager
async def looking(
    resolver: Resolver | None, name: str = "engines.test", keep: float = 300.0
) -> AsyncIterator[DnsSource]:
    rules = DnsRules(name, 8000, 0.01, 0.05, "http", Role.WARM, 2.0, keep)
    source = DnsSource("p", rules, time.monotonic, Random(1), resolver)
    source.start()
    try:
        yield source
    finally:
        await source.stop()


def urls(source: DnsSource) -> list[str]:
    return [one.url for one in source.found or ()]


async def test_every_address_is_an_endpoint_once_and_leaves_with_its_record() -> None:
    resolver = Resolver("10.0.0.2", "10.0.0.1", "10.0.0.1", "fd00::1")
    async with looking(resolver) as source:
        await until("it was told", lambda: source.found is not None)
        assert urls(source) == ["http://10.0.0.1:8000", "http://10.0.0.2:8000", "http://[fd00::1]:8000"]
        assert source.found is not None
        assert [one.name for one in source.found] == ["p.10.0.0.1", "p.10.0.0.2", "p.fd00--1"]
        assert {(one.role, one.weight, one.ready) for one in source.found} == {(Role.WARM, 2.0, True)}
        resolver.answer = ("10.0.0.2",)
        await until("it left", lambda: urls(source) == ["http://10.0.0.2:8000"])


async def test_a_name_that_is_gone_for_a_while_empties_nothing() -> None:
    resolver = Resolver("10.0.0.1")
    async with looking(resolver) as source:
        await until("it was told", lambda: source.found is not None)
        resolver.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        await until("it noticed", lambda: source.failures["unresolved"] >= 2)
        assert (urls(source), source.problem) == (["http://10.0.0.1:8000"], "Name or service not known")
        resolver.answer = ("10.0.0.3",)
        await until("it is back", lambda: urls(source) == ["http://10.0.0.3:8000"])
        assert source.problem is None


async def test_a_name_that_stays_gone_is_believed_and_a_resolver_that_fails_is_not() -> None:
    resolver = Resolver("10.0.0.1")
    async with looking(resolver, keep=0.1) as source:
        await until("it was told", lambda: source.found is not None)
        resolver.answer = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        await until("it noticed", lambda: source.failures["unresolved"] >= 20)
        assert urls(source) == ["http://10.0.0.1:8000"]
        resolver.answer = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        await until("it believes it", lambda: source.found == ())
        assert source.problem is None


async def test_a_resolver_that_hangs_is_asked_once_and_heard_when_it_answers() -> None:
    resolver = Resolver("10.0.0.1")
    resolver.release.clear()
    async with looking(resolver) as source:
        await until("it was given up twice", lambda: source.failures["timeout"] >= 2)
        assert (resolver.asked, source.found) == (1, None)
        resolver.release.set()
        await until("it was told", lambda: urls(source) == ["http://10.0.0.1:8000"])


async def test_the_systems_own_resolver_is_asked() -> None:
    async with looking(None, "localhost") as source:
        await until("it was told", lambda: source.found is not None)
        assert set(urls(source)) <= {"http://127.0.0.1:8000", "http://[::1]:8000"}
        assert urls(source)
