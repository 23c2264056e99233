"""A request of a tenant with a cache: answered from there, or by an engine whose answer is then kept.

Floor: an adapter between the straight line, the cache and engines. An answer from the cache goes the way that an
engine's goes: usage that was not asked for is taken out, content rules look at it, the alias is put in.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.response_cache import Answered
from router.attempts import Attempts
from router.calls import Call, ServedModel
from router.errors import EngineError
from router.relay import Answer
from router.response_cache.cache import CacheUse, TenantCache
from router.response_cache.copying import KeptAnswer
from router.wire.openai import Body
from router.wire.usage import find_usage


class Reuse:
    """What all requests of a gateway use. `clock`: monotonic seconds."""

    __slots__ = ("_attempts", "_clock")

    def __init__(self, attempts: Attempts, clock: Callable[[], float]) -> None:
        self._attempts = attempts
        self._clock = clock

    async def forward(self, call: Call, model: ServedModel, cache: TenantCache, body: Body, sent: bytes) -> None:
        """As `Attempts.forward`. `sent`: the body as engines get it."""
        client = call.client
        places = (model.route.name, model.pool.name)
        wish = client.header(b"cache-control")
        use = call.cache = await cache.look(call.spec, body, sent, places, client.raw_headers, wish)
        if use is not None and use.found is not None and await self._answered(call, cache, use):
            return
        await self._attempts.forward(call, model.pool, sent)
        if use is not None:
            cache.keep(use, call.copy, call.id, _ending(call))

    async def _answered(self, call: Call, cache: TenantCache, use: CacheUse) -> bool:
        """Whether what was found was of use."""
        body, found = await use.body(call.id), use.found
        if body is None or found is None:
            cache.told(use)
            return False
        kept = KeptAnswer(found.kind, body, whole=found.whole)
        call.status, use.hit = 200, True
        call.answer = Answer(call, kept, self._clock, 0.0)
        try:
            await call.answer.pass_on([*kept.headers, *self._attempts.headers(call)])
        except EngineError:
            if call.client.started:
                raise
            call.status, call.answer, call.first_byte_at, call.usage, use.hit = 0, None, None, None, False
        finally:
            cache.told(use)
            if use.hit and call.usage is None:
                call.usage = find_usage(body)  # it counts, whatever of it the client got
        return use.hit


def _ending(call: Call) -> Answered:
    return Answered(
        status=call.status,
        error=call.error_code is not None,
        refused=call.refused,
        resumes=call.resumes,
        degraded=call.degraded is not None,
        finish_reason=call.finish_reason,
    )
