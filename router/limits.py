"""What stands between a request and its tenant's limits: charged at once where that can be, else after one question.

Floor: an adapter; what is allowed is decided in `policies.admission`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from policies.admission.limit import Limit, Use
from policies.admission.limits import LimitGrant, LimitSnapshot, Short, TenantLimits
from policies.admission.refusal_pace import RefusalPace
from policies.types import Rejection, RejectReason
from router.errors import Overloaded, PolicyError, RateLimited
from router.limits_redis import SharedBook
from router.metrics import Metrics

# Seconds that a request waits for what other replicas have and do not use, and seconds between two questions.
_PATIENCE_SECONDS: Final = 1.0
# The same while replicas tell a store that was away what they have: it grants within `limits_lua.RECOVERY_SECONDS`.
_RECOVERY_PATIENCE_SECONDS: Final = 3.0
_AGAIN_SECONDS: Final = 0.05
# Questions at least, however long they took: what the first brought, others may have taken who came meanwhile, and a
# process that stood still for a second would refuse them though most of the limit is free.
_LEAST_QUESTIONS: Final = 3
# Seconds beyond which OpenAI's SDKs do not wait: they would only ask again too early.
_LONG_SECONDS: Final = 120.0


class Limiter:
    """The limits of one tenant, and the store that they are shared by; without one they are this process's alone."""

    def __init__(self, tenant: str, limits: TenantLimits, book: SharedBook | None, metrics: Metrics) -> None:
        self.tenant = tenant
        self.limits = limits
        self.book = book
        self._metrics = metrics
        self._pace = RefusalPace()

    @property
    def in_flight(self) -> int:
        return self.limits.in_flight

    @property
    def held(self) -> int:
        """Requests that wait to be refused."""
        return self._pace.held

    async def admit(self, clock: Callable[[], float], use: Use, key: str, model: str, size: int = 0) -> LimitGrant:
        """Leave for one request with a body of `size` bytes; without a pause where this replica has what it takes.
        Raises RateLimited, or Overloaded where the store is away and a limit is to refuse then."""
        found = self.limits.admit(clock(), use, key, model)
        if not isinstance(found, LimitGrant):
            found = await self._asked(found, clock, use, key, model)
            if not isinstance(found, LimitGrant):
                found = await self._again(clock, use, key, model, size, found)
        for limit in found.shadowed:
            self._count_shadow(limit)
        if self.book is not None and self.book.lost:
            self._metrics.add("promptlane_limit_alone", self.tenant)
        return found

    async def _asked(
        self, found: LimitGrant | Rejection | Short, clock: Callable[[], float], use: Use, key: str, model: str
    ) -> LimitGrant | Rejection:
        """The same, after a question where only the store can tell."""
        if isinstance(found, Short) and self.book is not None:
            found = await self._ask(self.book, found, clock, use, key, model)
        assert not isinstance(found, Short)  # noqa: S101  # asked for the last time it is never Short
        return found

    async def _again(
        self, clock: Callable[[], float], use: Use, key: str, model: str, size: int, found: Rejection
    ) -> LimitGrant:
        """A refusal; where the tenant has had many, only after a pause, and if there is still nothing left then."""
        verdict: LimitGrant | Rejection = found
        if (delay := self._pace.delay(clock(), size)) > 0.0:
            with self._pace.holding(size):
                await asyncio.sleep(delay)
            verdict = await self._asked(self.limits.admit(clock(), use, key, model), clock, use, key, model)
        if isinstance(verdict, Rejection):
            self._metrics.add("promptlane_limit_refusals", self.tenant, verdict.scope, verdict.reason.value, "enforced")
            raise refused(verdict)
        return verdict

    async def _ask(
        self, book: SharedBook, short: Short, clock: Callable[[], float], use: Use, key: str, model: str
    ) -> LimitGrant | Rejection | Short:
        """What is left may lie at other replicas: they give it back within a look or two."""
        began = granting_since = clock()
        questions = 0
        while True:
            await book.fetch(short)
            now, questions = clock(), questions + 1
            if book.recovering:  # nothing was granted: what was asked so far does not count
                granting_since, questions = now, 0
                last = now >= began + _RECOVERY_PATIENCE_SECONDS
            else:
                last = questions >= _LEAST_QUESTIONS and now >= granting_since + _PATIENCE_SECONDS
            found = self.limits.admit(clock(), use, key, model, asked=last)
            if last or not isinstance(found, Short):
                return found
            short = found
            await asyncio.sleep(_AGAIN_SECONDS)

    def snapshot(self, now: float, key: str, model: str) -> LimitSnapshot:
        return self.limits.snapshot(now, key, model)

    def _count_shadow(self, limit: Limit) -> None:
        self._metrics.add("promptlane_limit_refusals", self.tenant, limit.scope, limit.reason.value, "shadow")


def refused(verdict: Rejection) -> PolicyError:
    """A refusal as the client is told it."""
    if verdict.reason is RejectReason.LIMITS_UNAVAILABLE:
        message = "This tenant's limits cannot be checked at the moment."
        return Overloaded(message, code="limits_unavailable", retry_after=verdict.retry_after)
    name = verdict.reason.value
    whose = f"{verdict.scope} {name}".strip()
    message = f"Rate limit reached for {name.replace('_', ' ')}. {verdict.detail}".strip()
    spent = verdict.reason is RejectReason.MONEY_PER_MONTH
    late = verdict.retry_after is not None and verdict.retry_after > _LONG_SECONDS
    return RateLimited(
        message,
        kind="insufficient_quota" if spent else "tokens" if "tokens" in name else "requests",
        code="insufficient_quota" if spent else None,
        retry_after=verdict.retry_after,
        final=verdict.never or spent or late,
        limit=whose,
    )
