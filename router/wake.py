"""What a standby's engine is asked: whether it is well, to wake, to sleep, and for one token before it serves.

Floor: an adapter around httpx. Sleep and wake are vLLM's, which have to be switched on there (`--enable-sleep-mode` and
VLLM_SERVER_DEV_MODE=1).
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Collection, Sequence

import httpx2

from router.canary import Verdict, send_canary
from router.wire.engine_models import read_engine_models

# Seconds for a question that an engine answers at once if it is well.
QUICK_SECONDS = 1.0
# Seconds between two questions to an engine that is being started.
POLL_SECONDS = 0.25


class WakeFailed(Exception):
    """The engine did not wake, or has woken and does not answer. Its text is for the log."""


class EngineControl:
    """The calls. `models`: names that engines know; the canary asks for the first. Without any it asks the engine.

    `wake_seconds`: how long waking may take; `canary_seconds`: how long the first token.
    """

    def __init__(
        self,
        models: Sequence[str],
        *,
        wake_seconds: float,
        canary_seconds: float,
        ssl_context: ssl.SSLContext | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.models = tuple(models)
        self.wake_seconds = wake_seconds
        self._canary_seconds = canary_seconds
        self._http = httpx2.AsyncClient(
            verify=ssl_context if ssl_context is not None else True,
            headers=list(headers),
            trust_env=False,
            follow_redirects=False,
        )

    async def close(self) -> None:
        """Ends all calls."""
        await self._http.aclose()

    async def healthy(self, url: str) -> bool:
        """Whether it says within a second that it is well."""
        answer = await self._ask("GET", url, "/health", QUICK_SECONDS)
        return answer is not None and answer.status_code == 200

    async def asleep(self, url: str) -> bool:
        """Whether it sleeps; an engine that cannot sleep does not."""
        answer = await self._ask("GET", url, "/is_sleeping", QUICK_SECONDS)
        if answer is None or answer.status_code != 200:
            return False
        return '"is_sleeping":true' in answer.text.replace(" ", "")

    async def wake(self, url: str) -> None:
        """Wakes it. Raises WakeFailed."""
        answer = await self._ask("POST", url, "/wake_up", self.wake_seconds)
        if answer is None:
            raise WakeFailed(f"/wake_up was not answered within {self.wake_seconds:g} seconds")
        if answer.status_code != 200:
            raise WakeFailed(f"/wake_up answered {answer.status_code}; is the engine in dev mode with sleep mode on?")
        if await self.asleep(url):
            raise WakeFailed("/wake_up was answered, and the engine still sleeps")

    async def sleep(self, url: str) -> bool:
        """Sends it to sleep, its weights kept in memory. Whether that worked."""
        answer = await self._ask("POST", url, "/sleep?level=1&mode=wait", self.wake_seconds)
        return answer is not None and answer.status_code == 200

    async def canary(self, url: str) -> None:
        """One token, before tenants' requests go there. Raises WakeFailed."""
        models = self.models or await self._served(url)
        verdict, what, _ = await send_canary(self._http, url, models[0] if models else "", self._canary_seconds)
        if verdict is Verdict.GOOD:
            return
        if verdict is Verdict.CANNOT and await self._served(url):
            return  # an engine of embeddings has no completions; that it lists its models has to do
        raise WakeFailed(f"the canary {what}")

    async def _served(self, url: str) -> Sequence[str]:
        answer = await self._ask("GET", url, "/v1/models", QUICK_SECONDS)
        if answer is None or answer.status_code != 200:
            return []
        return [model.name for model in read_engine_models(answer.content) or ()]

    async def _ask(self, method: str, url: str, path: str, seconds: float) -> httpx2.Response | None:
        try:
            async with asyncio.timeout(seconds):
                return await self._http.request(method, url.rstrip("/") + path, timeout=seconds)
        except (httpx2.HTTPError, TimeoutError):
            return None


class Leases:
    """Which pool has which shared engine. One has it at a time; the others wait in turn."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._waiting: dict[str, deque[tuple[str, asyncio.Future[None]]]] = {}

    def holder(self, url: str) -> str | None:
        """The pool that has it."""
        return self._holders.get(url)

    async def take(self, url: str, pool: str) -> None:
        """Returns when the pool has it."""
        if self._holders.setdefault(url, pool) == pool:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        line = self._waiting.setdefault(url, deque())
        line.append((pool, future))
        try:
            await future
        except asyncio.CancelledError:
            if self._holders.get(url) == pool and future.done() and not future.cancelled():
                self.give_back(url, pool)  # handed over in the very moment of the cancellation
            raise
        finally:
            line = self._waiting.get(url, deque())
            if (pool, future) in line:
                line.remove((pool, future))
            if not line:
                self._waiting.pop(url, None)

    def keep_only(self, pools: Collection[str]) -> None:
        """Whatever others had is given back: they are no more."""
        for url, pool in list(self._holders.items()):
            if pool not in pools:
                self.give_back(url, pool)

    def give_back(self, url: str, pool: str) -> None:
        """The next in turn has it; nothing where the pool does not have it."""
        if self._holders.get(url) != pool:
            return
        del self._holders[url]
        for following, future in self._waiting.get(url, ()):
            if not future.done():
                self._holders[url] = following
                future.set_result(None)
                return
