"""What a tenant, its keys and its models may use; one request is charged against all that apply, or against none.

Floor: `policies`, pure. A grant is charged when a request enters, by estimate, so that parallel requests cannot slip
through together; it is settled exactly once, with what the engine counted. Where the counts lie (in this process, or
leased from a store that replicas share) is the counters' affair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from policies.admission.counting import ASK, FITS, Charge, Counter, Seats, Standing
from policies.admission.limit import Limit, Prices, Scope, Use, amounts, harder, measure_of
from policies.admission.window import MonthWindow, SlidingWindow
from policies.types import LimitSpec, Rejection, RejectReason

# Makes the counter of one limit: whose (scope and name), what it counts, how much, and what else is said of it.
MakeCounter = Callable[[Scope, str, RejectReason, int, LimitSpec], Counter]


def in_memory(unix: float) -> MakeCounter:
    """Counters of this process alone. `unix`: what to add to `now` for Unix seconds."""

    def make(_: Scope, __: str, reason: RejectReason, limit: int, ___: LimitSpec) -> Counter:
        if reason is RejectReason.CONCURRENCY:
            return Seats(limit)
        if reason is RejectReason.TOKENS_PER_DAY:
            return SlidingWindow.of_a_day(limit)
        return MonthWindow(limit, unix) if reason is RejectReason.MONEY_PER_MONTH else SlidingWindow(limit)

    return make


@dataclass(frozen=True, slots=True)
class LimitRules:
    """Everything that limits one tenant. `keys`: by key id; `models`, `prices`: by the clients' name of the model."""

    tenant: LimitSpec
    keys: Mapping[str, LimitSpec] | None = None
    models: Mapping[str, LimitSpec] | None = None
    prices: Mapping[str, Prices] | None = None

    @property
    def none(self) -> bool:
        specs = [self.tenant, *(self.keys or {}).values(), *(self.models or {}).values()]
        return not any(True for spec in specs for _ in amounts(spec))


class LimitSnapshot(NamedTuple):
    """Where a client stands. None where there is no limit; reset: seconds until the whole limit is there again."""

    limit_requests: int | None = None
    remaining_requests: int | None = None
    reset_requests_seconds: float | None = None
    limit_tokens: int | None = None
    remaining_tokens: int | None = None
    reset_tokens_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Short:
    """Only the store can tell whether there is room; what each counter needs."""

    needs: tuple[tuple[Counter, int], ...]


class TenantLimits:
    """The limits of one tenant.

    Bound: in every window the requests admitted are at most the limit, and so are their tokens by estimate (or as
    settled, where that was less). What engines count beyond an estimate is charged when it becomes known: that alone
    can exceed the limit, and nothing is admitted until the window holds it. A whole minute's allowance may be used at
    once, and is then back 60 s later: no window edge gives more.
    """

    def __init__(self, rules: LimitRules, make: MakeCounter) -> None:
        self.rules = rules
        self._prices = rules.prices or {}
        self._tenant = _limits("tenant", "", rules.tenant, make)
        self._keys = {name: _limits("key", name, spec, make) for name, spec in (rules.keys or {}).items()}
        self._models = {name: _limits("model", name, spec, make) for name, spec in (rules.models or {}).items()}
        self._applying: dict[tuple[str, str], tuple[Limit, ...]] = {}
        self._shown: dict[tuple[str, str], tuple[Limit, ...]] = {}
        self.in_flight = 0

    def admit(
        self, now: float, use: Use, key: str = "", model: str = "", *, asked: bool = False
    ) -> LimitGrant | Rejection | Short:
        """Charge one request, or nothing at all. `asked`: the store was asked; it shall not be Short any more.

        `retry_after` is exact for windows (if nothing else happens), None when waiting does not help (more than a whole
        window's allowance) or nobody knows (concurrency).
        """
        refused: Rejection | None = None
        unsure: list[tuple[Counter, int]] = []
        shadowed: list[Limit] = []
        found: list[tuple[Limit, int]] = []
        prices = self._prices.get(model)
        for limit in self.applying(key, model):
            amount = limit.measure(use, prices)
            found.append((limit, amount))
            wait = limit.counter.check(amount, now)
            if wait == FITS:
                continue
            if wait == ASK:
                unsure.append((limit.counter, amount))
                wait = _CROWDED_SECONDS
                if not asked:
                    continue
            if limit.shadow:
                shadowed.append(limit)
            else:
                refused = harder(limit.refusal(wait, amount), refused)
        if refused is not None:
            return refused
        if unsure and not asked:
            return Short(tuple(unsure))
        self.in_flight += 1
        charges = [(limit, limit.counter.charge(amount, now)) for limit, amount in found]
        return LimitGrant(self, use, prices, charges, tuple(shadowed))

    def applying(self, key: str, model: str) -> tuple[Limit, ...]:
        """Every limit that a request by this key for this model counts against."""
        found = self._applying.get((key, model))
        if found is None:  # at most as many as the configuration has keys times models
            found = (*self._tenant, *self._keys.get(key, ()), *self._models.get(model, ()))
            self._applying[key, model] = found
        return found

    def snapshot(self, now: float, key: str = "", model: str = "") -> LimitSnapshot:
        """Of requests and tokens per minute the limit that is nearest to its end, for this key and model."""
        shown = self._shown.get((key, model))
        if shown is None:
            applying = self.applying(key, model)
            shown = tuple(limit for limit in applying if limit.reason in _SHOWN and not limit.shadow)
            self._shown[key, model] = shown
        requests: Standing | None = None
        tokens: Standing | None = None
        for limit in shown:
            standing = limit.counter.standing(now)
            if limit.reason is RejectReason.REQUESTS_PER_MINUTE:
                if requests is None or standing.remaining < requests.remaining:
                    requests = standing
            elif tokens is None or standing.remaining < tokens.remaining:
                tokens = standing
        return LimitSnapshot(*(requests or _UNLIMITED), *(tokens or _UNLIMITED))


_SHOWN = (RejectReason.REQUESTS_PER_MINUTE, RejectReason.TOKENS_PER_MINUTE)
_UNLIMITED = (None, None, None)
# When to come back where others were faster after every round trip (seconds).
_CROWDED_SECONDS = 0.25


class LimitGrant:
    """Leave for one request. The first `settle` or `cancel` counts; whatever follows does nothing.

    `shadowed`: limits that would have refused it if they were no shadows.
    """

    __slots__ = ("_charges", "_limits", "_open", "_prices", "_use", "shadowed")

    def __init__(
        self,
        limits: TenantLimits,
        use: Use,
        prices: Prices | None,
        charges: list[tuple[Limit, Charge]],
        shadowed: tuple[Limit, ...],
    ) -> None:
        self._limits = limits
        self._use = use
        self._prices = prices
        self._charges = charges
        self._open = True
        self.shadowed = shadowed

    def settle(self, now: float, actual: Use | None) -> None:
        """The request is over and used `actual`; None keeps the estimate (no engine told)."""
        used = self._use if actual is None else actual
        self._close(now, Use(used.prompt, used.output, used.cached, used.requests, 0, used.engine_cost))

    def cancel(self, now: float) -> None:
        """Nothing was dispatched: request and tokens are given back."""
        self._close(now, Use(requests=0, running=0))

    def _close(self, now: float, actual: Use) -> None:
        if not self._open:
            return
        self._open = False
        self._limits.in_flight -= 1
        for limit, charge in self._charges:
            charge.settle(limit.measure(actual, self._prices), now)


def _limits(scope: Scope, name: str, spec: LimitSpec, make: MakeCounter) -> tuple[Limit, ...]:
    return tuple(
        Limit(
            scope, reason, make(scope, name, reason, amount, spec), measure_of(reason, spec.weights), shadow=spec.shadow
        )
        for reason, amount in amounts(spec)
    )
