"""Configuration to objects: the only place that constructs what serves.

Floor: knows every adapter and `router.config`. Building has no effects but reading the files that the configuration
names; nothing runs before `Runtime.start`. On a reload the parts whose configuration did not change are taken over, so
that load, affinity, limits and connections live on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from policies.admission.limits import LimitRules
from policies.discovery import Found
from policies.prefix_blocks import root
from policies.tokens import TokenEstimator
from policies.types import Lane, ModelRoute, Slo, Tenant, Tier
from router.cache_builder import CachesBuilder
from router.calls import ServedModel
from router.config import Config, PoolConfig, TenantConfig
from router.coordination.replicas import Replicas
from router.discovery.source import Source
from router.discovery_builder import build_sources, found_endpoint
from router.gateway import Gateway, GatewaySettings, Services
from router.guards_builder import GuardsBuilder
from router.kv_events import KvEventListener
from router.limits_builder import LimitsBuilder, metered_models, prices_of
from router.limits_sync import SharedLimits
from router.measure import Measurer, MeasureSettings
from router.metrics import Metrics
from router.origin import Origin
from router.places import PRIOR_BYTES_PER_TOKEN, Places
from router.pool_builder import PoolBuilder
from router.pools import Place, Pool
from router.probe import Prober
from router.process import Process
from router.request_records import Looking, RequestRecords, Weights
from router.roster import Member, Roster
from router.secret import cache_salt
from router.standby_builder import StandbyBuilder
from router.standbys import Standbys
from router.tenants import ApiKey, TenantDirectory
from router.wake import Leases


class Runtime:
    """Everything that one configuration makes."""

    def __init__(
        self,
        config: Config,
        gateway: Gateway,
        pools: Mapping[str, Pool],
        probers: Iterable[Prober],
        listeners: Mapping[str, KvEventListener],
        standbys: Mapping[str, Standbys],
        leases: Leases,
        shared_limits: SharedLimits | None = None,
        replicas: Replicas | None = None,
        guards: GuardsBuilder | None = None,
        sources: Mapping[str, Source] | None = None,
        caches: CachesBuilder | None = None,
    ) -> None:
        self.guards = guards
        self.caches = caches
        self.sources = sources or {}
        self.roster: Roster | None = None
        self.config = config
        self.gateway = gateway
        self.pools = pools
        self.listeners = listeners
        self.standbys = standbys
        self.shared_limits = shared_limits
        self.replicas = replicas
        self._leases = leases
        self._probers = tuple(probers)

    def start(self) -> None:
        """Begins to watch the endpoints, and to look for those that are to be found. Needs a running event loop."""
        for source in self.sources.values():
            source.start()
        for prober in self._probers:
            prober.start()
        for listener in self.listeners.values():
            listener.start()
        for standbys in self.standbys.values():
            standbys.start()
        if self.shared_limits is not None:
            self.shared_limits.keep(one.book for one in self.gateway.limits.values() if one.book is not None)
            self.shared_limits.start()

    async def stop(self, successor: Runtime | None = None) -> None:
        """Ends the watching and closes connections that no successor has taken over; requests under way finish."""
        sought = {id(source) for source in successor.sources.values()} if successor is not None else set()
        await asyncio.gather(*(source.stop() for source in self.sources.values() if id(source) not in sought))
        await asyncio.gather(*(prober.stop() for prober in self._probers))
        await asyncio.gather(*(listener.stop() for listener in self.listeners.values()))
        await asyncio.gather(*(standbys.stop() for standbys in self.standbys.values()))
        if self.shared_limits is not None and (successor is None or successor.shared_limits is not self.shared_limits):
            await self.shared_limits.stop()
        if self.guards is not None:
            await self.guards.close(successor.guards if successor is not None else None)
        if self.caches is not None:
            await self.caches.close(successor.caches if successor is not None else None)
        self._leases.keep_only(successor.pools if successor is not None else ())
        serving = {id(pool.mirror) for pool in successor.pools.values()} if successor is not None else set()
        mirrors = [pool.mirror for pool in self.pools.values() if pool.mirror is not None]
        await asyncio.gather(*(mirror.stop() for mirror in mirrors if id(mirror) not in serving))
        kept = {id(place.upstream) for place in _places(successor)} if successor is not None else set()
        for place in _places(self):
            if id(place.upstream) not in kept:
                place.upstream.close()


def _places(runtime: Runtime) -> list[Place]:
    return [place for pool in runtime.pools.values() for place in pool.places]


def build(
    config: Config, process: Process, previous: Runtime | None = None, sources: Mapping[str, Source] | None = None
) -> Runtime:
    """Objects for a configuration. Raises ConfigError when a file that it names cannot be used. `sources`: what finds
    endpoints, where that is asked already."""
    if sources is None:
        sources = build_sources(config, process.clock, previous)
    pool_builder, limits_builder = (
        PoolBuilder(config, process, previous, sources),
        LimitsBuilder(config, process, previous),
    )
    limiters = {name: limits_builder.limiter(name) for name in config.tenants}
    builder = _TenantBuilder(config, process, previous, limits_builder.rules)
    guards = GuardsBuilder(config, process.metrics, process.clock, previous.guards if previous is not None else None)
    rules = guards.rules()
    caches = CachesBuilder(config, process, previous.caches if previous is not None else None)
    pools = {name: pool_builder.pool(name, pool) for name, pool in config.pools.items()}
    tenants = {name: builder.tenant(name, tenant) for name, tenant in config.tenants.items()}
    gateway = Gateway(
        GatewaySettings(
            max_body_bytes=config.server.max_body_bytes,
            body_timeout=config.server.body_timeout,
            batch_header=config.classify.batch_header.encode(),
            routing_headers=config.server.routing_headers,
        ),
        TenantDirectory(tenants.values(), _hosts(config), _keys(config), process.ring),
        {name: builder.models(tenant, pools, caches) for name, tenant in tenants.items()},
        {name: limiter for name, limiter in limiters.items() if limiter is not None},
        Services(
            clock=process.clock,
            wall_clock=process.wall_clock,
            origin=Origin(config.server.trusted_proxies),
            measurer=Measurer(
                _measure_settings(config),
                process.counter,
                process.chains,
                process.lengths,
                digests=process.ledger is not None,
            ),
            metrics=process.metrics,
            access=process.access,
            tracing=process.tracing,
            records=(
                RequestRecords(process.ledger, process.wall_clock, _weights(config), _looking(config))
                if process.ledger is not None
                else None
            ),
        ),
        rules,
    )
    probers = [pool_builder.prober(pools[name], pool) for name, pool in config.pools.items()]
    listeners = {
        name: pool_builder.listener(pools[name], pool) for name, pool in config.pools.items() if pool.kv_events
    }
    standby_builder = StandbyBuilder(config, process, previous, pools)
    standbys = {}
    for name, pool in config.pools.items():
        built = standby_builder.standbys(pools[name], pool, pool_builder.tls[name])
        if built is not None:
            standbys[name] = built
        standby_builder.mirror(pools[name], pool)
    for act in (*pool_builder.when_certain, *standby_builder.when_certain):
        act()
    if process.replicas is not None:
        process.replicas.serve(pools)
    runtime = Runtime(
        config,
        gateway,
        pools,
        probers,
        listeners,
        standbys,
        process.leases,
        limits_builder.shared,
        process.replicas,
        guards,
        sources,
        caches,
    )
    runtime.roster = _roster(config, pool_builder, runtime, probers, process.metrics)
    runtime.roster.begin()
    return runtime


def _roster(
    config: Config, builder: PoolBuilder, runtime: Runtime, probers: Sequence[Prober], metrics: Metrics
) -> Roster:
    places, of_pool = builder.places, dict(zip(config.pools, probers, strict=True))
    members = []
    for name, source in runtime.sources.items():
        pool = config.pools[name]
        endpoint = partial(found_endpoint, pool=pool)
        make = partial(_found_place, places, name, pool)
        standbys, listener = runtime.standbys.get(name), runtime.listeners.get(name)
        members.append(Member(runtime.pools[name], source, of_pool[name], standbys, listener, endpoint, make))
    return Roster(builder.configured, members, metrics)


def _found_place(places: Places, name: str, pool: PoolConfig, found: Found) -> Place:
    return places.make(name, pool, found_endpoint(found, pool), found.key)


class _TenantBuilder:
    def __init__(
        self, config: Config, process: Process, previous: Runtime | None, rules: Mapping[str, LimitRules]
    ) -> None:
        self._config = config
        self._process = process
        self._previous = previous
        self._rules = rules
        # The order counts steps between tiers; how far apart their configured priorities are means nothing.
        priorities = sorted({tier.priority for tier in config.tiers.values()})
        self._ranks = {priority: rank for rank, priority in enumerate(priorities)}

    def tenant(self, name: str, tenant: TenantConfig) -> Tenant:
        tier = self._config.tiers[tenant.tier]
        routes = {alias: ModelRoute(alias, model.pool, model.engine_model) for alias, model in tenant.models.items()}
        return Tenant(
            id=name,
            tier=Tier(
                tenant.tier,
                self._ranks[tier.priority],
                tier.rto_seconds,
                tier.resume,
                tier.rto_seconds if tier.hold_seconds is None else tier.hold_seconds,
                tier.hold_requests,
                Slo(**tier.slo.model_dump()) if tier.slo is not None else None,
            ),
            cache_salt=cache_salt(self._process.secret, name),
            models=routes,
            limits=self._rules[name].tenant,
            weight=tenant.weight,
            anonymous=tenant.anonymous,
        )

    def models(self, tenant: Tenant, pools: Mapping[str, Pool], caches: CachesBuilder) -> dict[str, ServedModel]:
        before = self._previous.gateway.models.get(tenant.id, {}) if self._previous is not None else {}
        served, metered = {}, metered_models(self._config.tenants[tenant.id], self._rules[tenant.id])
        for alias, route in tenant.models.items():
            known, prices = before.get(alias), self._config.tenants[tenant.id].models[alias].prices
            served[alias] = ServedModel(
                route=route,
                pool=pools[route.pool],
                root=root(tenant.cache_salt, route.engine_model),
                estimator=(
                    known.estimator
                    if known is not None and known.route == route
                    else TokenEstimator(PRIOR_BYTES_PER_TOKEN)
                ),
                shared=self._config.pools[route.pool].shared,
                metered=alias in metered,
                prices=prices_of(prices) if prices is not None else None,
                cache=caches.of.get(tenant.id),
            )
        return served


def _hosts(config: Config) -> dict[str, str]:
    hosts = {host: name for name, tenant in config.tenants.items() for host in tenant.hosts}
    if config.server.base_domain is not None:
        hosts.update({f"{name}.{config.server.base_domain}": name for name in config.tenants})
    return hosts


def _keys(config: Config) -> list[ApiKey]:
    return [
        ApiKey(
            id=key.id,
            tenant=name,
            digest=bytes.fromhex(key.sha256),
            expires_at=key.expires.timestamp() if key.expires is not None else None,
            models=frozenset(key.models) if key.models is not None else None,
            apis=frozenset(key.apis) if key.apis is not None else None,
        )
        for name, tenant in config.tenants.items()
        for key in tenant.api_keys
    ]


def _weights(config: Config) -> Weights:
    """What the configuration says of the weights that answer."""
    models = {
        (tenant, name): model.weights_digest
        for tenant, section in config.tenants.items()
        for name, model in section.models.items()
        if model.weights_digest is not None
    }
    endpoints = {
        (pool, endpoint.name): endpoint.weights_digest
        for pool, section in config.pools.items()
        for endpoint in section.endpoints
        if endpoint.weights_digest is not None
    }
    return Weights(models, endpoints)


def _looking(config: Config) -> Looking:
    watch = {name: tenant.watch_words for name, tenant in config.tenants.items() if tenant.watch_words}
    return Looking(config.governance.share, watch)


def _measure_settings(config: Config) -> MeasureSettings:
    return MeasureSettings(
        long_prompt_tokens=config.classify.long_prompt_tokens,
        batch_prompts=config.classify.batch_prompts,
        batch_n=config.classify.batch_n,
        batch_header=config.classify.batch_header,
        block_bytes=config.routing.block_bytes,
        default_output_tokens=config.routing.default_output_tokens,
        max_wait={lane: config.lanes[lane].max_wait for lane in Lane},
    )
