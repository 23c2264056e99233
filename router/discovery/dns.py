"""Endpoints by the addresses of a DNS name, or by its SRV records, looked up again and again.

Floor: an adapter around the system's resolver, which keeps no time limit of its own and cannot be told to stop: one
look-up is under way at a time, and while it is, what is known stays. `router.discovery.srv` asks for SRV records.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

from policies.discovery import Found, serving
from policies.types import Role
from router.discovery.source import Source
from router.discovery.srv import NoRecords, NotTold, SrvLookup
from router.wire.kubernetes import endpoint_name

# What the system's resolver says of a name that has no address, and not of servers that do not answer.
_NO_SUCH_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)}


@dataclass(frozen=True, slots=True)
class DnsRules:
    """What to look up, and what the endpoints are. `port`: None for SRV records, which say it. Times are seconds;
    `keep`: for so long what is known stays though there is no such name."""

    name: str
    port: int | None
    every: float
    timeout: float
    scheme: str
    role: Role
    weight: float
    keep: float = 300.0
    server: str | None = None


class DnsSource(Source):
    """`resolve`: addresses of a name, as `loop.getaddrinfo` gives them; another one for tests."""

    def __init__(
        self,
        pool: str,
        rules: DnsRules,
        clock: Callable[[], float],
        random: Random,
        resolve: Callable[[str, int], Any] | None = None,
    ) -> None:
        what = f"addresses of {rules.name}, port {rules.port}" if rules.port else f"SRV records of {rules.name}"
        super().__init__(pool, what, clock, random)
        self._rules = rules
        self._resolve = resolve or _resolve
        self._asked: asyncio.Future[Any] | None = None
        self._srv = SrvLookup(rules.name, rules.server, rules.timeout) if rules.port is None else None
        self._began = clock()
        self._believed = False  # that there is no such name

    async def _look(self) -> None:
        try:
            found = [self._endpoint(*one) for one in await self._ask()]
        except TimeoutError:
            self._failed("timeout", "no answer in time")
        except NoRecords as no:
            self._nothing(str(no))
        except socket.gaierror as error:
            if error.errno in _NO_SUCH_NAME:
                self._nothing(error.strerror or "no such name")
            else:
                self._failed("unresolved", error.strerror or "not a name")
        except (NotTold, OSError, UnicodeError) as error:
            self._failed("unresolved", str(error) if isinstance(error, NotTold) else "not a name")
        else:
            self._believed = False
            self._told(found)
        await asyncio.sleep(self._rules.every * self._random.uniform(0.9, 1.1))

    def _nothing(self, text: str) -> None:
        """The servers say that there is nothing. That is believed after a while: until then it may be their mistake."""
        since = self._began if self.right_at is None else self.right_at
        self._believed = self._believed or self._clock() - since >= self._rules.keep
        if self._believed:
            self._told(())
        else:
            self._failed("unresolved", text)

    async def _ask(self) -> Iterable[tuple[str, int, float]]:
        """Address, port and weight of each."""
        if self._srv is not None:
            return [(*place, weight) for place, weight in serving(await self._srv.ask()).items()]
        answers = await self._addresses()
        return [(address, self._rules.port or 0, 1.0) for address in {answer[4][0] for answer in answers}]

    async def _addresses(self) -> Any:
        """One look-up, or the one that is still under way."""
        if self._asked is None:
            self._asked = asyncio.ensure_future(self._resolve(self._rules.name, self._rules.port or 0))
        async with asyncio.timeout(self._rules.timeout):
            try:
                return await asyncio.shield(self._asked)
            finally:
                if self._asked.done():
                    self._asked = None

    def _endpoint(self, address: str, port: int, weight: float) -> Found:
        """With SRV records, of which one address may have several, the port is a part of what it is."""
        rules = self._rules
        standard = {"http": 80, "https": 443}[rules.scheme]
        host = f"[{address}]" if ":" in address else address
        more = f"-{port}" if self._srv is not None else ""
        return Found(
            key=f"{address}{more}",
            name=endpoint_name(self.pool, address.replace(":", "-").replace("%", "-") + more),
            url=f"{rules.scheme}://{host}{'' if port == standard else f':{port}'}",
            role=rules.role,
            weight=rules.weight * weight,
        )

    async def stop(self) -> None:
        await super().stop()
        if self._asked is not None:
            self._asked.cancel()


async def _resolve(name: str, port: int) -> Any:
    loop = asyncio.get_running_loop()
    return await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
