"""Clients that take no refusal seriously, and one that only looks at its watch."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from contextlib import suppress
from urllib.parse import urlsplit

from benchmarks.limits_parts.engine import MODEL, TOKENS, key

_FIELDS = {"model": MODEL, "max_tokens": 1, "prompt": [1] * (TOKENS - 1)}


class Client:
    """One connection of one tenant to one gateway."""

    def __init__(self, url: str, tenant: str) -> None:
        parts = urlsplit(url)
        self._place = (parts.hostname or "", parts.port or 80)
        body = json.dumps({**_FIELDS, "user": tenant}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key(tenant)}\r\n"
        self._request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self) -> tuple[int, dict[str, str]]:
        """Status and headers of the answer; status 0 when there was none."""
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection(*self._place)
            reader, writer = self._streams
            writer.write(self._request)
            head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            await reader.readexactly(int(headers.get("content-length", 0)))
            return int(head.split()[1]), headers
        except (OSError, asyncio.IncompleteReadError):
            self.close()
            return 0, {}

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


async def hammer(url: str, tenant: str, until: float, pause: float) -> Counter[int]:
    """Asks again `pause` seconds after every refusal, whatever it says, and at once after an answer."""
    client, statuses = Client(url, tenant), Counter[int]()
    try:
        while time.monotonic() < until:
            status, _ = await client.ask()
            statuses[status] += 1
            if status != 200:
                await asyncio.sleep(pause)
    finally:
        client.close()
    return statuses


async def watch(url: str, tenant: str, until: float, every: float = 0.05) -> list[tuple[float, float]]:
    """Of each answer to one client when it was asked for, in seconds since the beginning, and how long it took."""
    client, seconds = Client(url, tenant), []
    start = time.monotonic()
    with suppress(asyncio.CancelledError):
        while time.monotonic() < until:
            began = time.monotonic()
            status, _ = await client.ask()
            if status == 200:
                seconds.append((began - start, time.monotonic() - began))
            await asyncio.sleep(every)
    client.close()
    return seconds
