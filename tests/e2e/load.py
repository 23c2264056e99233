"""Clients that ask without a pause, as OpenAI's SDK does, until they are told to stop; nothing is tried again.

Floor: tests only. What counts is that every request is answered whole: a test of restarts and of engines that come and
go looks at `failures`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx2
import openai

from tests.e2e.front import MODEL, key, prompt


class Load:
    """`answered`: whole answers by tenant and kind; `failures`: what went wrong otherwise."""

    def __init__(self) -> None:
        self.answered: Counter[str] = Counter()
        self.failures: list[str] = []
        self._stop = asyncio.Event()

    @property
    def total(self) -> int:
        return self.answered.total()

    async def more(self, requests: int) -> None:
        """Until so many more were answered, or one was not."""
        wanted = self.total + requests
        async with asyncio.timeout(120):
            while self.total < wanted and not self.failures:  # noqa: ASYNC110  # counted by many tasks
                await asyncio.sleep(0.01)
        assert self.failures == [], self.failures  # said here: pytest does not look into this file

    async def run(self, client: openai.AsyncOpenAI, tenant: str, stream: bool, tokens: int) -> None:
        """One client after its own requests, each on a connection that may be kept."""
        while not self._stop.is_set():
            try:
                await self._ask(client, stream, tokens)
            except (openai.OpenAIError, httpx2.HTTPError, AssertionError) as error:
                self.failures.append(f"{tenant} stream={stream}: {type(error).__name__}: {error}")
                return
            self.answered[f"{tenant} {'stream' if stream else 'whole'}"] += 1

    async def _ask(self, client: openai.AsyncOpenAI, stream: bool, tokens: int) -> None:
        messages = [{"role": "user", "content": prompt(16)}]
        if not stream:
            whole = await client.chat.completions.create(model=MODEL, messages=messages, max_tokens=2)  # type: ignore[call-overload]
            assert whole.choices[0].finish_reason == "length", whole
            return
        pieces = await client.chat.completions.create(  # type: ignore[call-overload]
            model=MODEL, messages=messages, max_tokens=tokens, stream=True, stream_options={"include_usage": True}
        )
        ending, counted = None, 0
        async for piece in pieces:
            ending = piece.choices[0].finish_reason if piece.choices else ending
            counted = piece.usage.completion_tokens if piece.usage is not None else counted
        assert (ending, counted) == ("length", tokens)

    def stop(self) -> None:
        self._stop.set()


@asynccontextmanager
async def under_load(
    url: str, tenants: Sequence[str], *, each: int = 2, tokens: int = 60, domain: str | None = None
) -> AsyncIterator[Load]:
    """`each`: clients with streams, and as many without, of each tenant; `domain`: they name its host. All that was
    asked has been answered when it ends."""
    load = Load()
    async with asyncio.TaskGroup() as group:
        clients = []
        for tenant in tenants:
            for stream in (True, False) * each:
                host = {"host": f"{tenant}.{domain}"} if domain is not None else None
                client = openai.AsyncOpenAI(
                    base_url=f"{url}/v1", api_key=key(tenant), max_retries=0, timeout=60.0, default_headers=host,
                    http_client=openai.DefaultAsyncHttpxClient(trust_env=False),
                )  # fmt: skip
                clients.append(client)
                group.create_task(load.run(client, tenant, stream, tokens))
        try:
            yield load
        finally:
            load.stop()
    for client in clients:
        await client.close()
    assert load.failures == []
