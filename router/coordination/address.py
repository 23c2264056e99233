"""Where a replica listens to others: `tcp://host:port` or `unix:/path`.

Floor: an adapter: it opens sockets and knows nothing of what is said over them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import urlsplit

from router.coordination.pulse import Limits


class BadAddress(ValueError):
    """Not an address of a replica; the message says what one looks like."""


class Address(NamedTuple):
    """`path` for a Unix socket, else host and port."""

    host: str
    port: int
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises BadAddress."""
        if text.startswith("unix:") and len(text) > len("unix:"):
            return cls("", 0, text.removeprefix("unix:"))
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if host is None or port is None or parts.scheme != "tcp" or parts.path:
            raise BadAddress(f"'{text}' is no address of a replica: tcp://HOST:PORT or unix:/PATH")
        return cls(host, port)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"tcp://[{self.host}]:{self.port}" if ":" in self.host else f"tcp://{self.host}:{self.port}"


async def connect(
    address: Address, make: Callable[[], asyncio.Protocol], limits: Limits, tls: ssl.SSLContext | None
) -> None:
    """Raises OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(limits.connect):
        if address.path is not None:
            await loop.create_unix_connection(make, address.path)
        else:
            await loop.create_connection(make, address.host, address.port, ssl=tls)


async def listen(
    address: Address, make: Callable[[], asyncio.Protocol], limits: Limits, tls: ssl.SSLContext | None
) -> tuple[asyncio.Server, Address]:
    """The listener, and where it is where a free port was asked for (0). Raises OSError."""
    loop = asyncio.get_running_loop()
    if address.path is not None:
        return await loop.create_unix_server(make, address.path), address
    wait = limits.handshake if tls is not None else None
    server = await loop.create_server(make, address.host, address.port, ssl=tls, ssl_handshake_timeout=wait)
    return server, address._replace(port=server.sockets[0].getsockname()[1])
