"""SRV records of a name, and the addresses of what they point at.

Floor: an adapter around dnspython, an optional dependency that is needed once somebody asks (`installed` tells before).
"""

from __future__ import annotations

import asyncio
import importlib.util
import ipaddress
from typing import TYPE_CHECKING

from policies.discovery import ServiceRecord

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.rdtypes.IN.SRV

_AT_ONCE = 16  # questions for addresses
_MOST_RECORDS = 1000  # a pool's endpoints are looked at one by one


class NoRecords(Exception):
    """The servers say that there are none."""


class NotTold(Exception):
    """They do not say. The text is for the log."""


def installed() -> bool:
    """Whether dnspython is there."""
    return importlib.util.find_spec("dns") is not None


class SrvLookup:
    """`server`: an address, with a port where that is not 53; None for the system's. `seconds`: that all may take."""

    def __init__(self, name: str, server: str | None, seconds: float) -> None:
        self._name = name
        self._server = server
        self._seconds = seconds

    async def ask(self) -> list[ServiceRecord]:
        """Every address of every record. Raises TimeoutError, NoRecords, NotTold."""
        import dns.exception
        import dns.resolver

        try:
            async with asyncio.timeout(self._seconds):
                return await self._ask(self._resolver())
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            raise NoRecords("no such name, or no SRV records of it") from None
        except dns.exception.Timeout:
            raise TimeoutError from None
        except dns.resolver.NoResolverConfiguration:
            raise NotTold("the system names no server to ask") from None
        except dns.resolver.NoNameservers:
            raise NotTold("the servers fail or refuse") from None
        except dns.exception.DNSException as error:
            raise NotTold(f"the answer cannot be read ({type(error).__name__})") from None

    async def _ask(self, resolver: dns.asyncresolver.Resolver) -> list[ServiceRecord]:
        answer = await resolver.resolve(self._name, "SRV", search=False)
        records = [one for one in answer if one.target.to_text() != "."][:_MOST_RECORDS]  # ".": decidedly none
        if not records:
            raise NoRecords("its SRV records say that there is no such service")
        free = asyncio.Semaphore(_AT_ONCE)
        asked = [asyncio.ensure_future(_addresses(resolver, one, free)) for one in records]
        try:
            found = [one for several in await asyncio.gather(*asked) for one in several]
        finally:
            for task in asked:
                task.cancel()
        if not found:
            raise NoRecords("what its SRV records point at has no address")
        return found

    def _resolver(self) -> dns.asyncresolver.Resolver:
        """Made anew, as the system's servers may have changed; reading their file takes some 0.1 ms."""
        import dns.asyncresolver

        resolver = dns.asyncresolver.Resolver(configure=self._server is None)
        if self._server is not None:
            host, port = _host_and_port(self._server)
            resolver.nameservers, resolver.port = [host], port
        resolver.lifetime = self._seconds
        return resolver


async def _addresses(
    resolver: dns.asyncresolver.Resolver, record: dns.rdtypes.IN.SRV.SRV, free: asyncio.Semaphore
) -> list[ServiceRecord]:
    """Of one record, whose weight its addresses share; none where its target is gone."""
    import dns.resolver

    async with free:
        try:
            answers = await resolver.resolve_name(record.target)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            return []
    addresses = sorted(set(answers.addresses()))
    share = record.weight / len(addresses) if addresses else 0.0
    return [ServiceRecord(address, record.port, record.priority, share) for address in addresses]


def _host_and_port(server: str) -> tuple[str, int]:
    try:
        return str(ipaddress.ip_address(server)), 53
    except ValueError:
        host, _, port = server.rpartition(":")
        return host.strip("[]"), int(port)
