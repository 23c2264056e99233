"""What a tenant may use: requests and tokens per minute, and requests at once.

Floor: `policies`, pure. A grant is charged when a request enters, by estimate, so that parallel requests cannot slip
through together; it is settled exactly once, with what the engine counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from policies.admission.window import MinuteWindow, Slice
from policies.types import LimitSpec, Rejection, RejectReason


@dataclass(frozen=True, slots=True)
class LimitSnapshot:
    """Where a tenant stands. None where there is no limit; reset: seconds until the whole limit is there again."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_seconds: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_seconds: float | None = None


class TenantLimits:
    """The limits of one tenant.

    Bound: in every window of 60 s the requests admitted are at most the limit, and so are their tokens by estimate (or
    as settled, where that was less). What engines count beyond an estimate is charged when it becomes known: that
    alone can exceed the limit, and nothing is admitted until the minute holds it. A whole minute's allowance may be
    used at once, and is then back 60 s later: no window edge gives more.
    """

    __slots__ = ("_concurrency", "_requests", "_tokens", "in_flight")

    def __init__(self, spec: LimitSpec) -> None:
        self._concurrency = spec.concurrency
        self._requests = None if spec.requests_per_minute is None else MinuteWindow(spec.requests_per_minute)
        self._tokens = None if spec.tokens_per_minute is None else MinuteWindow(spec.tokens_per_minute)
        self.in_flight = 0

    def admit(self, now: float, tokens: int) -> LimitGrant | Rejection:
        """Charge one request of `tokens` (prompt and expected output), or nothing at all.

        `retry_after` is exact for the per-minute limits (if nothing else happens), None when waiting does not help
        (more than a whole minute's allowance) or nobody knows (concurrency).
        """
        if self._concurrency is not None and self.in_flight >= self._concurrency:
            detail = f"{self.in_flight} requests in flight, limit {self._concurrency}"
            return Rejection(RejectReason.CONCURRENCY, detail=detail)
        refused = self._refusal(now, tokens)
        if refused is not None:
            return refused
        self.in_flight += 1
        request = None if self._requests is None else self._requests.charge(1, now)
        charged = None if self._tokens is None else self._tokens.charge(tokens, now)
        return LimitGrant(self, tokens, request, charged)

    def snapshot(self, now: float) -> LimitSnapshot:
        requests, tokens = self._requests, self._tokens
        return LimitSnapshot(
            *((None, None, None) if requests is None else _standing(requests, now)),
            *((None, None, None) if tokens is None else _standing(tokens, now)),
        )

    def _refusal(self, now: float, tokens: int) -> Rejection | None:
        """The refusal that lasts longest, as a client that came back after the shorter one would be refused again."""
        refusals = [
            _refuse(self._requests, 1, now, RejectReason.REQUESTS_PER_MINUTE, "requests"),
            _refuse(self._tokens, tokens, now, RejectReason.TOKENS_PER_MINUTE, "tokens"),
        ]
        found = [one for one in refusals if one is not None]
        return max(found, key=lambda one: float("inf") if one.retry_after is None else one.retry_after, default=None)

    def _settle(self, grant: LimitGrant, actual: int, now: float) -> None:
        self.in_flight -= 1
        if self._tokens is None or grant.tokens_charged is None:
            return
        if actual > grant.tokens:
            self._tokens.charge(actual - grant.tokens, now)
        else:
            self._tokens.give_back(grant.tokens_charged, grant.tokens - actual, now)

    def _cancel(self, grant: LimitGrant, now: float) -> None:
        self._settle(grant, 0, now)
        if self._requests is not None and grant.request_charged is not None:
            self._requests.give_back(grant.request_charged, 1, now)


class LimitGrant:
    """Leave for one request. The first `settle` or `cancel` counts; whatever follows does nothing."""

    __slots__ = ("_limits", "_open", "request_charged", "tokens", "tokens_charged")

    def __init__(
        self, limits: TenantLimits, tokens: int, request_charged: Slice | None, tokens_charged: Slice | None
    ) -> None:
        self._limits = limits
        self._open = True
        self.tokens = tokens
        self.request_charged = request_charged
        self.tokens_charged = tokens_charged

    def settle(self, now: float, actual_tokens: int | None) -> None:
        """The request is over and used `actual_tokens`; None keeps the estimate (no engine told)."""
        if self._open:
            self._open = False
            self._limits._settle(self, self.tokens if actual_tokens is None else actual_tokens, now)

    def cancel(self, now: float) -> None:
        """Nothing was dispatched: request and tokens are given back."""
        if self._open:
            self._open = False
            self._limits._cancel(self, now)


def _refuse(window: MinuteWindow | None, amount: int, now: float, reason: RejectReason, unit: str) -> Rejection | None:
    if window is None:
        return None
    wait = window.wait(amount, now)
    if wait is None:
        detail = f"{amount} {unit} can never pass a limit of {window.limit} {unit} per minute"
        return Rejection(reason, detail=detail)
    if wait == 0.0:
        return None
    return Rejection(reason, retry_after=wait, detail=f"limit of {window.limit} {unit} per minute reached")


def _standing(window: MinuteWindow, now: float) -> tuple[int, int, float]:
    return window.limit, window.remaining(now), window.reset(now)
