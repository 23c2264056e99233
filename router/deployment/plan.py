"""Which engines a configuration means, whose they are and what each is given.

Floor: reads a checked `Config`; knows no manifest. Those that pools find are in `found`, the gateway's rights in
`grants`.
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from policies.types import Role
from router.config import Config, EndpointConfig, PoolConfig, PoolDeployConfig
from router.config.deploy_checks import SHARED, owner_of, slug
from router.deployment.found import search_of
from router.deployment.grants import grants_of
from router.deployment.names import ONLINE, ONLINE_HIGH
from router.deployment.parts import Engine, Owner, Plan, Search

MAX_LABEL = 63  # characters of a label's value


def make_plan(config: Config) -> Plan:
    """The owners in the order of the file. Raises ConfigError where a selector does not go with what it is to find."""
    root = config.model_dump(include={"pools", "tenants"})
    owned: dict[str, dict[str, Engine]] = {}  # by owner, by workload: pools may share a warm engine
    searches: dict[str, list[Search]] = {}
    for name, pool in config.pools.items():
        if pool.deploy is None:
            continue
        owner = owner_of(name, root)
        assert owner is not None, "checked by router.config.deploy_checks"  # noqa: S101 - a promise between two files
        common = _common(config, owner, name, pool, pool.deploy)
        for endpoint in pool.endpoints:
            engine = _engine(common, endpoint)
            owned.setdefault(owner, {}).setdefault(engine.name, engine)
        if pool.discovery is not None:
            search = search_of(config, common, name, pool.discovery)
            searches.setdefault(owner, []).append(search)
            owned.setdefault(owner, {}).update({engine.name: engine for engine in search.engines})
    prefix = config.deploy.namespace_prefix
    owners = tuple(
        Owner(name, prefix + name, engines[0].tier, engines, tuple(searches.get(name, ())))
        for name, engines in ((name, tuple(some.values())) for name, some in owned.items())
    )
    best = min(tier.priority for tier in config.tiers.values())
    classes = {name: ONLINE_HIGH if tier.priority == best else ONLINE for name, tier in config.tiers.items()}
    return Plan(config.deploy.gateway_namespace, owners, classes, grants_of(config), config.server.admin_port)


def _common(config: Config, owner: str, name: str, pool: PoolConfig, deploy: PoolDeployConfig) -> Engine:
    """What all engines of a pool have in common."""
    served = _served(config, name)
    return Engine(
        name="",
        namespace=config.deploy.namespace_prefix + owner,
        owner=owner,
        tier=_tier(config, owner, name),
        pool=slug(name)[:MAX_LABEL].rstrip("-"),
        role=Role.HOT,
        model=deploy.model or served[0],
        served=served,
        ports={},
        deploy=deploy,
        longest_seconds=round(pool.timeouts.total),
        needs_key=pool.engine_api_key is not None,
    )


def _engine(common: Engine, endpoint: EndpointConfig) -> Engine:
    url = urlsplit(endpoint.url)
    ports = {"http": url.port or 80}
    for port, other in (("kv-events", endpoint.kv_events_url), ("kv-replay", endpoint.kv_replay_url)):
        if other is not None:
            ports[port] = urlsplit(other).port or 0
    return replace(common, name=(url.hostname or "").partition(".")[0], role=endpoint.role, ports=ports)


def _served(config: Config, pool: str) -> tuple[str, ...]:
    """What the pool's engines are asked for: by tenants' models, and instead of other pools."""
    routes = [
        (model.pool, model.engine_model or name)
        for tenant in config.tenants.values()
        for name, model in tenant.models.items()
    ]
    names = [asked for route, asked in routes if route == pool]
    for other, entry in config.pools.items():
        degraded = entry.standby.degraded
        if degraded is not None and degraded.pool == pool:
            names += [degraded.engine_model or asked for route, asked in routes if route == other]
    return tuple(dict.fromkeys(names)) or (pool,)


def _tier(config: Config, owner: str, pool: str) -> str:
    """The tenant's; of a shared pool the best of its tenants'."""
    if not owner.startswith(SHARED) and owner in config.tenants:
        return config.tenants[owner].tier
    users = [tenant.tier for tenant in config.tenants.values() if pool in {one.pool for one in tenant.models.values()}]
    return min(users or config.tiers, key=lambda tier: config.tiers[tier].priority)
