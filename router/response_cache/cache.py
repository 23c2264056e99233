"""One tenant's cache of answers, and what each of its requests has to do with it.

Floor: an adapter. What may be kept and what a hit counts is asked of `policies.response_cache`. Answers are put in by
tasks of the cache's own: no client waits for that.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from policies.admission.limit import Use
from policies.response_cache import Answered, Billing, billed, has_one_answer, worth_keeping
from router.metrics import Metrics
from router.response_cache.asked import asked_of, key_of, wishes
from router.response_cache.copying import AnswerCopy
from router.response_cache.entry import Entry, body_of, pack, unpack
from router.response_cache.store import ANSWERS, Age, AnswerStore
from router.wire.http import Header
from router.wire.openai import ApiSpec, Body

# Above this, bytes are hashed, compressed and uncompressed off the event loop: 0.3 ms at most are done on it.
_INLINE_BYTES: Final = 64 * 1024
# Answers that wait to be put in, each of `longest` bytes at most; what comes beyond is not kept.
_MOST_WAITING: Final = 64
# Of any choice; the one that comes last is looked at while the answer passes.
_CUT: Final = re.compile(rb'"finish_reason": ?"(?:abort|error|content_filter)"')
_RESULTS: Final = "promptlane_cache_requests"


@dataclass(slots=True)
class CacheUse:
    """Of one request that the cache may answer. `age`: of the store when it was asked, None where nothing may be put
    in; `found`: what it had; `hit`: the client gets that. `longest`: bytes of an answer that is kept."""

    key: bytes
    age: Age | None
    found: Entry | None
    billing: Billing
    longest: int
    hit: bool = False

    @property
    def result(self) -> Literal["hit", "miss"]:
        """As the client is told it."""
        return "hit" if self.hit else "miss"

    def headers(self, wall: float) -> list[Header]:
        """`wall`: Unix seconds."""
        told: list[Header] = [(b"x-promptlane-cache", self.result.encode())]
        if self.hit and self.found is not None:
            told.append((b"age", b"%d" % max(0, wall - self.found.at)))
        return told

    def billed(self, use: Use) -> Use:
        """What a hit counts of it."""
        return billed(self.billing, use)

    async def body(self, request_id: str) -> bytes | None:
        """What was found, for this request; None where it cannot be used."""
        found = self.found
        if found is None:
            return None
        if found.size <= _INLINE_BYTES:
            return body_of(found, request_id, self.longest)
        return await asyncio.to_thread(body_of, found, request_id, self.longest)


class TenantCache:
    """`secret`: the tenant's own, that keys are made by; `longest`: bytes of an answer that is kept; `wall_clock`: Unix
    seconds."""

    def __init__(
        self,
        tenant: str,
        store: AnswerStore,
        secret: bytes,
        billing: Billing,
        longest: int,
        wall_clock: Callable[[], float],
        metrics: Metrics,
    ) -> None:
        self.store = store
        self._tenant = tenant
        self._secret = secret
        self._billing = billing
        self._longest = longest
        self._wall_clock = wall_clock
        self._metrics = metrics
        self._keeping: set[asyncio.Task[None]] = set()

    async def look(
        self,
        spec: ApiSpec,
        body: Body,
        sent: bytes,
        places: tuple[str, str],
        headers: Sequence[Header],
        cache_control: bytes | None,
    ) -> CacheUse | None:
        """None where the cache has nothing to do with the request. `sent`: the body as engines get it; `places`: the
        model as it was asked for, and its pool; `headers`: the client's."""
        looks, keeps = wishes(cache_control)
        if not has_one_answer(asked_of(spec, body, sent)):
            self._told("unfit")
            return None
        if not keeps:
            self._told("bypass")
            return None
        make_key = (self._secret, spec, places, headers, sent)
        key = key_of(*make_key) if len(sent) <= _INLINE_BYTES else await asyncio.to_thread(key_of, *make_key)
        data, age = await self.store.get(key)
        found = unpack(data) if data is not None and looks else None
        if found is None:
            self._told("miss" if looks else "bypass")
        return CacheUse(key, age, found, self._billing, self._longest)

    def told(self, use: CacheUse) -> None:
        """What was found has become the client's answer, or could not."""
        self._told(use.result)

    def keep(self, use: CacheUse, copy: AnswerCopy | None, request_id: str, answered: Answered) -> None:
        """An engine has answered the request: its answer is put in if it is worth that."""
        if use.age is None or copy is None or not worth_keeping(answered):
            return
        if copy.body is None:
            if copy.too_long:
                self._metrics.add(ANSWERS, self._tenant, "too_long")
        elif len(self._keeping) >= _MOST_WAITING:
            self._metrics.add(ANSWERS, self._tenant, "dropped")
        else:
            work = self._keep(use.key, use.age, copy, copy.body, request_id)
            task = asyncio.create_task(work, name=f"cache of {self._tenant}")
            self._keeping.add(task)
            task.add_done_callback(self._keeping.discard)

    async def purge(self) -> int:
        """Drops all answers, and says how many. Raises StoreAway."""
        return await self.store.purge()

    async def settled(self) -> None:
        """Returns when what waits to be put in has been."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    def describe(self) -> dict[str, Any]:
        """For operators."""
        counts = {
            result: round(self._metrics.total(_RESULTS, self._tenant, result))
            for result in ("hit", "miss", "bypass", "unfit")
        }
        return {"store": self.store.kind, "billed": self._billing.value, **self.store.describe(), **counts}

    def _told(self, result: str) -> None:
        self._metrics.add(_RESULTS, self._tenant, result)

    async def _keep(self, key: bytes, age: Age, copy: AnswerCopy, body: bytes, request_id: str) -> None:
        def packed() -> bytes | None:
            if _CUT.search(body) is not None:
                return None
            whole = copy.content_length is not None
            return pack(copy.kind, body, request_id, self._wall_clock(), whole=whole)

        data = packed() if len(body) <= _INLINE_BYTES else await asyncio.to_thread(packed)
        if data is not None:
            await self.store.put(key, data, age)
