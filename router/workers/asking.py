"""Asking workers by their operator planes, one or all, over Unix sockets.

Floor: an adapter over httpx. Who does not answer in time has not answered; nobody waits for one that hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import httpx2

from router.errors import WorkerUnavailable
from router.workers.merged_state import leader

# Seconds for an answer that is only read from memory; a worker that computes may be late by some of them.
LOOK_SECONDS = 3.0
_CONNECT_SECONDS = 1.0


class Voice:
    """One worker in one of its lives."""

    def __init__(self, index: int, operators: str) -> None:
        self.index = index
        self.life = operators  # no other life has this path
        transport = httpx2.AsyncHTTPTransport(uds=operators)
        self._http = httpx2.AsyncClient(transport=transport, base_url="http://worker", trust_env=False)
        self._asking = 0
        self._over = False

    async def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        content: bytes = b"",
        headers: Mapping[str, str] | None = None,
        seconds: float | None = LOOK_SECONDS,
    ) -> httpx2.Response:
        """`seconds`: for the answer, None is for ever. Raises WorkerUnavailable."""
        timeout = httpx2.Timeout(seconds, connect=_CONNECT_SECONDS)
        if self._over:
            raise WorkerUnavailable(f"Worker {self.index} has ended.")
        self._asking += 1
        try:
            async with asyncio.timeout(seconds):
                return await self._http.request(
                    method, path, params=params, content=content, headers=headers, timeout=timeout
                )
        except (httpx2.HTTPError, TimeoutError) as error:
            reason = str(error) or "no answer in time"
            raise WorkerUnavailable(f"Worker {self.index} does not answer: {reason}.") from None
        finally:
            self._asking -= 1
            await self._let_go()

    async def close(self) -> None:
        """The worker has ended; who is asking it still hears that from its connection."""
        self._over = True
        await self._let_go()

    async def _let_go(self) -> None:
        if self._over and not self._asking:
            await self._http.aclose()


async def each(
    voices: Iterable[Voice],
    path: str,
    params: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> dict[Voice, httpx2.Response]:
    """What those say who answer with 200."""
    asked = list(voices)
    answers = await asyncio.gather(
        *(one.ask("GET", path, params=params, headers=headers) for one in asked), return_exceptions=True
    )
    for answer in answers:
        if isinstance(answer, BaseException) and not isinstance(answer, WorkerUnavailable):
            raise answer
    pairs = zip(asked, answers, strict=True)
    return {one: answer for one, answer in pairs if isinstance(answer, httpx2.Response) and answer.status_code == 200}


async def first(voices: Iterable[Voice], path: str, seconds: float) -> httpx2.Response | None:
    """The first answer with 200; else one of the others; None where nobody answers in time."""
    asking = [asyncio.create_task(one.ask("GET", path, seconds=seconds), name=f"{path} of a worker") for one in voices]
    other: httpx2.Response | None = None
    try:
        for answer in asyncio.as_completed(asking):
            try:
                other = await answer
            except WorkerUnavailable:
                continue
            if other.status_code == 200:
                break
        return other
    finally:
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


async def owner(voices: Iterable[Voice], pool: str) -> Voice | None:
    """Who of them decides for this pool, or would first; None where nobody knows it."""
    found: dict[Voice, Any] = {}
    for voice, answer in (await each(voices, "/admin/state", {"pool": pool})).items():
        if pool in (pools := answer.json()["pools"]):
            found[voice] = pools[pool]
    by_index = {voice.index: state for voice, state in found.items()}
    return next(voice for voice in found if voice.index == leader(by_index)) if found else None
