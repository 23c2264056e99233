"""The rules of each tenant, made of its configuration.

Floor: part of `assembly`. Services keep their connections over a reload that does not change them.
"""

from __future__ import annotations

from collections.abc import Callable

from router.config import Config, ConfigError, GuardConfig, ModerationConfig, PresidioConfig, Problem, TenantConfig
from router.gateway import TenantRules
from router.guards.finder import Finder, custom
from router.guards.guard import TenantGuard
from router.guards.injection import injection
from router.guards.people import NotInstalled, People, presidio
from router.guards.recognisers import PII
from router.guards.rules import Action, Rule, Side
from router.guards.service import ModerationService
from router.guards.words import deny_lists
from router.metrics import Metrics
from router.wire.bounds import RequestBounds

_SIDES = {"input": [Side.INPUT], "output": [Side.OUTPUT], "both": list(Side)}


class GuardsBuilder:
    """`previous`: of the configuration before, whose services and analyzers may go on. `services`: those in use."""

    def __init__(
        self, config: Config, metrics: Metrics, clock: Callable[[], float], previous: GuardsBuilder | None = None
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._known = previous
        self.services: dict[tuple[str, str, ModerationConfig], ModerationService] = {}
        self.people: dict[PresidioConfig, People] = {}

    def rules(self) -> dict[str, TenantRules]:
        """By tenant, for those that have any. Raises ConfigError where Presidio is not installed."""
        made = {name: self._tenant(name, tenant) for name, tenant in self._config.tenants.items()}
        self._known = None
        return {name: rules for name, rules in made.items() if rules is not None}

    async def close(self, successor: GuardsBuilder | None = None) -> None:
        """Ends what no successor has taken over; questions under way are answered."""
        kept = {id(one) for one in successor.services.values()} if successor is not None else set()
        for service in self.services.values():
            if id(service) not in kept:
                await service.close()

    def _tenant(self, name: str, tenant: TenantConfig) -> TenantRules | None:
        requests = tenant.requests
        bounds = RequestBounds(requests.max_tokens, frozenset(requests.refuse_fields))
        if not tenant.guards:
            return TenantRules(bounds, None) if bounds != RequestBounds() else None
        made = [self._rule(name, index, guard) for index, guard in enumerate(tenant.guards)]
        return TenantRules(bounds, TenantGuard(name, made, self._metrics, self._clock))

    def _rule(self, tenant: str, index: int, guard: GuardConfig) -> Rule:
        return Rule(
            guard.name,
            Action(guard.action),
            frozenset(_SIDES[guard.on]),
            tuple(_finders(guard)),
            fails_closed=guard.when_unavailable == "block",
            service=self._service(tenant, guard) if guard.service is not None else None,
            service_sees=guard.service.stream_characters if guard.service is not None else 0,
            people=self._people(tenant, index, guard.presidio) if guard.presidio is not None else None,
        )

    def _service(self, tenant: str, guard: GuardConfig) -> ModerationService:
        config = guard.service
        assert config is not None  # noqa: S101  # the caller looked
        key = (tenant, guard.name, config)
        known = self._known.services.get(key) if self._known is not None else None
        self.services[key] = known or ModerationService(
            config.url,
            config.timeout,
            model=config.model,
            key=config.api_key.get_secret_value() if config.api_key is not None else None,
            categories=config.categories,
        )
        return self.services[key]

    def _people(self, tenant: str, index: int, config: PresidioConfig) -> People:
        """One for all rules with the same wishes: its model takes memory and seconds to load."""
        known = self.people.get(config) or (self._known.people.get(config) if self._known is not None else None)
        if known is None:
            try:
                analyze = presidio(config.language, config.model, config.entities, config.score)
            except NotInstalled as missing:
                raise ConfigError([Problem(f"tenants.{tenant}.guards[{index}].presidio", str(missing))]) from None
            known = People(analyze, config.timeout)
        self.people[config] = known
        return known


def _finders(guard: GuardConfig) -> list[Finder]:
    find = guard.find
    finders = [PII[kind] for kind in dict.fromkeys(find.pii)]
    finders += deny_lists(find.words)
    finders += [custom(pattern, "redacted") for pattern in find.patterns]
    if find.injection:
        finders.append(injection())
    return finders
