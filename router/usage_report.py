"""Usage and cost as they are reported, of the sums that the ledger keeps by day.

Floor: with `router.assembly`: knows the configuration, which says whose a pool is. Nothing here waits. Money is in
micro-units of the currency of `hourly_cost` and `prices`; their names in reports end in `micro_usd`, whatever it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

from policies.admission.limit import Prices, Use
from policies.costs import attribute, bearers
from policies.economics import BreakEven, Observed, break_even, floor_cost, per_million, utilisation
from router.config import Config

if TYPE_CHECKING:  # with it SQLAlchemy is loaded
    from router.ledger.usage import EndpointTime, Usage

_EPOCH: Final = date(1970, 1, 1).toordinal()
_HOUR: Final = 3_600_000_000  # microseconds


class BadSpan(ValueError):
    """`field`: from or to; the message says what is expected of it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Span:
    """Days in UTC; `until` is not one of them."""

    since: date
    until: date

    @property
    def days(self) -> tuple[int, int]:
        """Counted from 1970-01-01, as the tables have them."""
        return self.since.toordinal() - _EPOCH, self.until.toordinal() - _EPOCH


def span(since: str | None, until: str | None, today: date) -> Span:
    """From the first day of this month, where nothing else is said, up to and with today. Raises BadSpan."""
    first = _date("from", since) if since is not None else None
    end = _date("to", until) if until is not None else today + timedelta(days=1)
    if first is None:
        first = min(today.replace(day=1), end)
    if end < first:
        raise BadSpan("to", "expected a day not before the first one")
    return Span(first, end)


def _date(field: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadSpan(field, "expected a day in UTC, as 2027-01-31") from None


# -- usage


@dataclass(slots=True)
class Line:
    """Of one tenant and model, and of one day or of all. `work`, `time`: microseconds of endpoints, worked and paid
    for; `billed`: what the records say; `cost`: what is borne of the endpoints'; `floor`: see `policies.economics`."""

    day: int | None
    tenant: str
    model: str
    requests: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    work: int = 0
    billed: int = 0
    time: int = 0
    cost: int = 0
    floor: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts, the cached ones too, and of answers."""
        return self.prompt_tokens + self.completion_tokens

    def add(self, one: Usage) -> None:
        self.requests += one.requests
        self.failed += one.failed
        self.refused += one.refused
        self.prompt_tokens += one.prompt_tokens
        self.cached_tokens += one.cached_tokens
        self.completion_tokens += one.completion_tokens
        self.work += one.engine_micro_seconds
        self.billed += one.cost_micro


class Lines(dict[tuple[int | None, str, str], Line]):
    """By day (None where all are together), tenant and model."""

    def __init__(self, *, by_day: bool) -> None:
        super().__init__()
        self._by_day = by_day

    def of(self, day: int, tenant: str, model: str) -> Line:
        key = (day if self._by_day else None, tenant, model)
        line = self.get(key)
        if line is None:
            line = self[key] = Line(*key)
        return line

    def only(self, tenant: str | None = None, model: str | None = None) -> list[Line]:
        """In the order of day, tenant and model; None is any."""
        found = (line for _, line in sorted(self.items(), key=lambda one: (one[0][0] or 0, *one[0][1:])))
        return [line for line in found if tenant in (None, line.tenant) and model in (None, line.model)]


def usage_lines(usage: Iterable[Usage], *, by_day: bool) -> Lines:
    """What was used, and what the records say that it costs."""
    lines = Lines(by_day=by_day)
    for one in usage:
        lines.of(one.day, one.tenant, one.model).add(one)
    return lines


def total(lines: Iterable[Line]) -> Line:
    """All of them together."""
    made = Line(None, "", "")
    for line in lines:
        for name in Line.__slots__[3:]:
            setattr(made, name, getattr(made, name) + getattr(line, name))
    return made


# -- cost


@dataclass(frozen=True, slots=True)
class Served:
    """Whom a pool is for: by tenant and model the weights by which its time is borne while nobody works."""

    dedicated: bool
    weights: Mapping[tuple[str, str], float]


def served(config: Config) -> dict[str, Served]:
    """By pool. A tenant's weight is divided among its models there."""
    found = {}
    for name, pool in config.pools.items():
        weights: dict[tuple[str, str], float] = {}
        for tenant_name, tenant in config.tenants.items():
            models = [model for model, route in tenant.models.items() if route.pool == name]
            weights |= {(tenant_name, model): tenant.weight / len(models) for model in models}
        found[name] = Served(not pool.shared, weights)
    return found


def cost_lines(
    usage: Iterable[Usage], endpoints: Iterable[EndpointTime], pools: Mapping[str, Served], *, by_day: bool
) -> Lines:
    """Usage with all that endpoints cost attributed, day by day and pool by pool. What nobody bears (a pool that the
    configuration has no more, and that nobody used) is of tenant and model ''."""
    usage = list(usage)
    lines = usage_lines(usage, by_day=by_day)
    work: dict[tuple[int, str], dict[tuple[str, str], int]] = defaultdict(dict)
    for one in usage:
        work[one.day, one.pool][one.tenant, one.model] = one.engine_micro_seconds
    paid: dict[tuple[int, str], list[int]] = defaultdict(lambda: [0, 0])
    for time in endpoints:
        sums = paid[time.day, time.pool]
        sums[0] += time.engine_micro_seconds
        sums[1] += time.cost_micro
    for (day, pool), (micro_seconds, cost) in paid.items():
        done, whose = work.get((day, pool), {}), pools.get(pool, Served(False, {}))
        bearing = bearers(done, whose.weights, dedicated=whose.dedicated)
        for key, part in (attribute(micro_seconds, bearing, whose.weights) or {("", ""): micro_seconds}).items():
            lines.of(day, *key).time += part
        for key, part in (attribute(cost, bearing, whose.weights) or {("", ""): cost}).items():
            lines.of(day, *key).cost += part
        for key, part in done.items():
            lines.of(day, *key).floor += floor_cost(part, micro_seconds, cost)
    return lines


# -- as rows


def usage_row(line: Line) -> dict[str, Any]:
    """As JSON has it."""
    return {
        **_named(line),
        "requests": line.requests,
        "failed": line.failed,
        "refused": line.refused,
        "prompt_tokens": line.prompt_tokens,
        "cached_tokens": line.cached_tokens,
        "completion_tokens": line.completion_tokens,
        "cost_micro_usd": line.billed,
    }


def cost_row(line: Line, prices: Prices | None = None) -> dict[str, Any]:
    """As JSON has it; with what an API of these `prices` would cost."""
    row = {
        **usage_row(line),
        "endpoint_hours": round(line.time / _HOUR, 6),
        "work_hours": round(line.work / _HOUR, 6),
        "utilisation": utilisation(line.work, line.time),
        "cost_micro_usd": line.cost,
        "billed_micro_usd": line.billed,
        "micro_usd_per_million_tokens": per_million(line.cost, line.tokens),
        "floor_micro_usd_per_million_tokens": per_million(line.floor, line.tokens),
    }
    if prices is not None:
        even = bought(line, prices)
        row |= {
            "api_micro_usd": even.api_cost,
            "break_even_tokens": even.tokens,
            "break_even_utilisation": even.utilisation,
        }
    return row


def bought(line: Line, prices: Prices) -> BreakEven:
    """What the same tokens would cost by an API's prices, and when it costs as much as the own endpoints."""
    api_cost = prices.of(Use(line.prompt_tokens, line.completion_tokens, line.cached_tokens))
    return break_even(line.cost, api_cost, line.tokens, utilisation(line.work, line.time))


def observed(line: Line) -> Observed:
    """What can be said of another fleet for the same kind of work. Raises ValueError where there was none."""
    return Observed(line.work, line.tokens, line.cost, line.time)


def _named(line: Line) -> dict[str, Any]:
    day = {"day": date.fromordinal(line.day + _EPOCH).isoformat()} if line.day is not None else {}
    return {**day, "tenant": line.tenant, "model": line.model}
