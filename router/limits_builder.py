"""A tenant's configuration to its limits: in this process, or shared by Redis, or by the supervisor of workers.

Floor: part of `router.assembly`. What is the same as before a reload is taken over, so that a reload frees nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.admission.limit import Prices, amounts
from policies.admission.limits import LimitRules, TenantLimits, in_memory
from policies.types import Alone, LimitSpec, Weights
from router.config import Config, ConfigError, LimitsConfig, PricesConfig, Problem, TenantConfig
from router.limits import Limiter
from router.limits_line import LineStore
from router.limits_redis import SharedBook
from router.limits_sync import SharedLimits
from router.process import Process

if TYPE_CHECKING:  # the runtime before a reload
    from router.assembly import Runtime

_MICRO = 1_000_000  # micro-units in one unit of a currency


class LimitsBuilder:
    """Builds the limits of one configuration."""

    def __init__(self, config: Config, process: Process, previous: Runtime | None) -> None:
        self.rules = {name: rules_of(tenant) for name, tenant in config.tenants.items()}
        self._config = config
        self._process = process
        self._previous = previous
        self.shared = self._shared()

    def limiter(self, name: str) -> Limiter | None:
        """Of a tenant; None where nothing is limited: that costs nothing."""
        rules = self.rules[name]
        if rules.none:
            return None
        before = self._previous.gateway.limits.get(name) if self._previous is not None else None
        if before is not None and before.limits.rules == rules and self._same_store():
            return before
        process = self._process
        if self.shared is None:
            limits = TenantLimits(rules, in_memory(process.wall_clock() - process.clock()))
            return Limiter(name, limits, None, process.metrics)
        book = SharedBook(
            name,
            self.shared.store,
            process.clock,
            process.wall_clock,
            process.metrics,
            replicas=self._sharers(),
            prefix=self.shared.prefix,
        )
        return Limiter(name, TenantLimits(rules, book.make), book, process.metrics)

    def _shared(self) -> SharedLimits | None:
        url, worker = self._config.state.redis_url, self._process.worker
        if url is None and worker is None:
            return None
        if self._previous is not None and self._same_store():
            return self._previous.shared_limits
        if url is None:
            assert worker is not None  # noqa: S101  # see above
            return SharedLimits(LineStore(worker.limits), self._process.metrics)
        from router.coordination.redis_client import RedisClient  # who has no Redis need not load its client

        try:
            return SharedLimits(RedisClient(url), self._process.metrics, self._config.replicas.prefix)
        except ValueError:  # its text may hold the password
            raise ConfigError([Problem("state.redis_url", "expected a URL that can be read")]) from None

    def _sharers(self) -> int:
        """Processes that share them, at least."""
        state, worker = self._config.state, self._process.worker
        workers = worker.count if worker is not None else 1
        return workers * (state.replicas if state.redis_url is not None else 1)

    def _same_store(self) -> bool:
        if self._previous is None:
            return False
        before, after = self._previous.config.state, self._config.state
        return (before.redis_url, before.replicas) == (after.redis_url, after.replicas)


def metered_models(tenant: TenantConfig, rules: LimitRules) -> frozenset[str]:
    """Those whose engines' time counts towards a limit of money: they have no prices."""
    if rules.prices is None:
        return frozenset()
    return frozenset(name for name, model in tenant.models.items() if model.prices is None)


def rules_of(tenant: TenantConfig) -> LimitRules:
    """Everything that limits one tenant, and nothing else: a new key without limits is no reason to begin anew."""
    own = _spec(tenant.limits)
    keys = {key.id: spec for key in tenant.api_keys if any(amounts(spec := _spec(key.limits)))}
    models = {name: spec for name, model in tenant.models.items() if any(amounts(spec := _spec(model.limits)))}
    prices = {name: prices_of(model.prices) for name, model in tenant.models.items() if model.prices is not None}
    counted = any(spec.money_per_month is not None for spec in (own, *keys.values(), *models.values()))
    return LimitRules(own, keys, models, prices if counted else None)


def _spec(limits: LimitsConfig) -> LimitSpec:
    weights = limits.count_tokens
    return LimitSpec(
        limits.requests_per_minute,
        limits.tokens_per_minute,
        limits.concurrency,
        limits.tokens_per_day,
        None if limits.money_per_month is None else round(limits.money_per_month * _MICRO),
        Weights(weights.input, weights.output, weights.cached),
        Alone(limits.without_redis),
        limits.shadow,
    )


def prices_of(prices: PricesConfig) -> Prices:
    """Of a model; what was cached costs what all of the prompt does where nothing else is said."""
    return Prices(prices.input, prices.output, prices.input if prices.cached is None else prices.cached)
