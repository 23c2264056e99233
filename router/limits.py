"""What stands between a request and its tenant's limits: charged at once where that can be, else after one question.

Floor: an adapter; what is allowed is decided in `policies.admission`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from policies.admission.limit import Limit, Use
from policies.admission.limits import LimitGrant, LimitSnapshot, Short, TenantLimits
from policies.types import Rejection, RejectReason
from router.errors import Overloaded, PolicyError, RateLimited
from router.limits_redis import SharedBook
from router.metrics import Metrics

# Seconds that a request waits for what other replicas have and do not use, and seconds between two questions.
_PATIENCE_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 0.05
# Seconds beyond which OpenAI's SDKs do not wait: they would only ask again too early.
_LONG_SECONDS: Final = 120.0


class Limiter:
    """The limits of one tenant, and the store that they are shared by; without one they are this process's alone."""

    def __init__(self, tenant: str, limits: TenantLimits, book: SharedBook | None, metrics: Metrics) -> None:
        self.tenant = tenant
        self.limits = limits
        self.book = book
        self._metrics = metrics

    @property
    def in_flight(self) -> int:
        return self.limits.in_flight

    async def admit(self, clock: Callable[[], float], use: Use, key: str, model: str) -> LimitGrant:
        """Leave for one request; without a pause where this replica has what it takes. Raises RateLimited, or
        Overloaded where the store is away and a limit is to refuse then."""
        found = self.limits.admit(clock(), use, key, model)
        if isinstance(found, Short) and self.book is not None:
            found = await self._ask(self.book, found, clock, use, key, model)
        if not isinstance(found, LimitGrant):
            assert isinstance(found, Rejection)  # noqa: S101  # asked for the last time it is never Short
            self._metrics.add("promptlane_limit_refusals", self.tenant, found.scope, found.reason.value, "enforced")
            raise refused(found)
        for limit in found.shadowed:
            self._count_shadow(limit)
        if self.book is not None and self.book.lost:
            self._metrics.add("promptlane_limit_alone", self.tenant)
        return found

    async def _ask(
        self, book: SharedBook, short: Short, clock: Callable[[], float], use: Use, key: str, model: str
    ) -> LimitGrant | Rejection | Short:
        """What is left may lie at other replicas: they give it back within a look or two."""
        until = clock() + _PATIENCE_SECONDS
        while True:
            await book.fetch(short)
            last = clock() >= until
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
