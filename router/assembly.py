"""Configuration to objects: the only place that constructs what serves.

Floor: knows every adapter and `router.config`. Building has no effects but reading the files that the configuration
names; nothing runs before `Runtime.start`. On a reload the parts whose configuration did not change are taken over, so
that load, affinity, limits and connections live on.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from secrets import token_hex

from policies.admission.desk import Desk
from policies.admission.limits import TenantLimits
from policies.endpoint_state import TOKENS_PER_BLOCK, EndpointState, index_blocks
from policies.exact_index import ExactIndex
from policies.output_length import OutputLengths
from policies.prefix_blocks import ChainMemo, root
from policies.priority import priority
from policies.registry import make_profile
from policies.tokens import TokenEstimator
from policies.types import Endpoint, InferenceRequest, Lane, LimitSpec, ModelRoute, Tenant, Tier
from router.calls import ServedModel
from router.config import (
    Config,
    ConfigError,
    EndpointConfig,
    PoolConfig,
    Problem,
    TenantConfig,
    lane_policies,
    profile_specs,
    queue_order,
)
from router.counting import TokenCounter
from router.gateway import Gateway, GatewaySettings, Services
from router.kv_events import Feed, KvEventListener, installed
from router.measure import Measurer, MeasureSettings
from router.metrics import Metrics
from router.origin import Origin
from router.pools import Place, Pool
from router.probe import Prober, ProbeSettings
from router.secret import cache_salt
from router.tenants import ApiKey, TenantDirectory
from router.upstream import Timeouts, Upstream

_PRIOR_BYTES_PER_TOKEN = 4.0  # of English text and code, until the engine's own counts are known


@dataclass(frozen=True, slots=True)
class Process:
    """What outlives every reload. `clock`: monotonic seconds; `wall_clock`: Unix seconds; `secret`: see `secret.py`."""

    secret: bytes
    counter: TokenCounter
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    chains: ChainMemo = field(default_factory=lambda: ChainMemo(threading.Lock()))
    lengths: OutputLengths = field(default_factory=OutputLengths)


class Runtime:
    """Everything that one configuration makes."""

    def __init__(
        self,
        config: Config,
        gateway: Gateway,
        pools: Mapping[str, Pool],
        probers: Iterable[Prober],
        listeners: Mapping[str, KvEventListener],
    ) -> None:
        self.config = config
        self.gateway = gateway
        self.pools = pools
        self.listeners = listeners
        self._probers = tuple(probers)

    def start(self) -> None:
        """Begins to watch the endpoints. Needs a running event loop."""
        for prober in self._probers:
            prober.start()
        for listener in self.listeners.values():
            listener.start()

    async def stop(self, successor: Runtime | None = None) -> None:
        """Ends the watching and closes connections that no successor has taken over; requests under way finish."""
        await asyncio.gather(*(prober.stop() for prober in self._probers))
        await asyncio.gather(*(listener.stop() for listener in self.listeners.values()))
        kept = {id(place.upstream) for place in _places(successor)} if successor is not None else set()
        for place in _places(self):
            if id(place.upstream) not in kept:
                place.upstream.close()


def _places(runtime: Runtime) -> list[Place]:
    return [place for pool in runtime.pools.values() for place in pool.places]


def build(config: Config, process: Process, previous: Runtime | None = None) -> Runtime:
    """Objects for a configuration. Raises ConfigError when a file that it names cannot be used."""
    builder = _Builder(config, process, previous)
    pools = {name: builder.pool(name, pool) for name, pool in config.pools.items()}
    tenants = {name: builder.tenant(name, tenant) for name, tenant in config.tenants.items()}
    gateway = Gateway(
        GatewaySettings(
            max_body_bytes=config.server.max_body_bytes,
            body_timeout=config.server.body_timeout,
            batch_header=config.classify.batch_header.encode(),
            routing_headers=config.server.routing_headers,
        ),
        TenantDirectory(tenants.values(), _hosts(config), _keys(config)),
        {name: builder.models(tenant, pools) for name, tenant in tenants.items()},
        {name: limits for name, tenant in tenants.items() if (limits := builder.limits(tenant)) is not None},
        Services(
            clock=process.clock,
            wall_clock=process.wall_clock,
            origin=Origin(config.server.trusted_proxies),
            measurer=Measurer(_measure_settings(config), process.counter, process.chains, process.lengths),
            metrics=process.metrics,
        ),
    )
    probers = [builder.prober(pools[name], pool) for name, pool in config.pools.items()]
    listeners = {name: builder.listener(pools[name], pool) for name, pool in config.pools.items() if pool.kv_events}
    for act in builder.when_certain:
        act()
    return Runtime(config, gateway, pools, probers, listeners)


class _Builder:
    def __init__(self, config: Config, process: Process, previous: Runtime | None) -> None:
        self._config = config
        self._process = process
        self._previous = previous
        fixed = config.routing.block_bytes
        self._tokens_per_block = TOKENS_PER_BLOCK if fixed is None else fixed / _PRIOR_BYTES_PER_TOKEN
        # Per pool, as reading the authorities takes tens of milliseconds, and a pool may have hundreds of endpoints.
        # The order counts steps between tiers; how far apart their configured priorities are means nothing.
        priorities = sorted({tier.priority for tier in config.tiers.values()})
        self._ranks = {priority: rank for rank, priority in enumerate(priorities)}
        self._tls = {name: _ssl_context(name, pool) for name, pool in config.pools.items()}
        # What changes objects that serve already: done last, so that a refused configuration changes nothing.
        self.when_certain: list[Callable[[], None]] = []

    def tenant(self, name: str, tenant: TenantConfig) -> Tenant:
        tier = self._config.tiers[tenant.tier]
        routes = {alias: ModelRoute(alias, model.pool, model.engine_model) for alias, model in tenant.models.items()}
        return Tenant(
            id=name,
            tier=Tier(tenant.tier, self._ranks[tier.priority], tier.rto_seconds),
            cache_salt=cache_salt(self._process.secret, name),
            models=routes,
            limits=LimitSpec(**tenant.limits.model_dump()),
            weight=tenant.weight,
            anonymous=tenant.anonymous,
        )

    def models(self, tenant: Tenant, pools: Mapping[str, Pool]) -> dict[str, ServedModel]:
        before = self._previous.gateway.models.get(tenant.id, {}) if self._previous is not None else {}
        served = {}
        for alias, route in tenant.models.items():
            known = before.get(alias)
            served[alias] = ServedModel(
                route=route,
                pool=pools[route.pool],
                root=root(tenant.cache_salt, route.engine_model),
                estimator=(
                    known.estimator
                    if known is not None and known.route == route
                    else TokenEstimator(_PRIOR_BYTES_PER_TOKEN)
                ),
                shared=self._config.pools[route.pool].shared,
            )
        return served

    def limits(self, tenant: Tenant) -> TenantLimits | None:
        if tenant.limits == LimitSpec():
            return None
        if self._previous is not None:
            before = self._previous.gateway
            old = before.directory.by_id.get(tenant.id)
            if old is not None and old.limits == tenant.limits:
                return before.limits[tenant.id]
        return TenantLimits(tenant.limits)

    def pool(self, name: str, pool: PoolConfig) -> Pool:
        routing = self._config.routing
        before = self._previous.pools.get(name) if self._previous is not None else None
        if before is not None and self._unchanged(name, pool):
            return before
        profile = make_profile(pool.profile or routing.profile, Random(), profile_specs(routing))
        built = Pool(
            name,
            [self._place(name, pool, endpoint) for endpoint in pool.endpoints],
            profile,
            Desk(
                queue_order(routing),
                lane_policies(self._config.lanes),
                {lane: self._config.lanes[lane].max_waiting for lane in Lane},
                len(pool.endpoints),
            ),
            self._process.clock,
            retries=pool.retries,
            when_full={lane: self._config.lanes[lane].when_full for lane in Lane},
            window=routing.window,
            priority=self._priority if profile.engine_priority else None,
            predecessor=before,
        )
        self.when_certain.append(built.take_over)
        return built

    def _priority(self, request: InferenceRequest, own_seconds: float) -> int:
        age = self._process.clock() - request.arrived_at
        wall_arrival = self._process.wall_clock() - age
        return priority(request, own_seconds, wall_arrival, queue_order(self._config.routing))

    def _unchanged(self, name: str, pool: PoolConfig) -> bool:
        if self._previous is None:
            return False
        before, now = self._previous.config, self._config
        return (before.routing, before.lanes, before.pools[name]) == (now.routing, now.lanes, pool)

    def prober(self, pool: Pool, config: PoolConfig) -> Prober:
        routing = self._config.routing
        settings = ProbeSettings(
            interval=config.health.interval,
            timeout=config.health.timeout,
            scrape_interval=config.health.scrape_interval,
            index_share=routing.index_share,
            tokens_per_block=self._tokens_per_block,
        )
        return Prober(
            pool, settings, self._process.metrics, ssl_context=self._tls[pool.name], headers=_credentials(config)
        )

    def listener(self, pool: Pool, config: PoolConfig) -> KvEventListener:
        if not installed():
            message = "needs pyzmq: pip install 'promptlane[kv-events]'"
            raise ConfigError([Problem(f"pools.{pool.name}.kv_events", message, None)])
        indexes = [place.state.index for place in pool.places]
        feeds = [
            Feed(end.name, index, end.kv_events_url, end.kv_replay_url, partial(self._count_kv, pool.name, end.name))
            for end, index in zip(config.endpoints, indexes, strict=True)
            if isinstance(index, ExactIndex) and end.kv_events_url is not None
        ]
        before = self._previous.listeners.get(pool.name) if self._previous is not None else None
        return KvEventListener(pool.name, feeds, before)

    def _count_kv(self, pool: str, endpoint: str, what: str, amount: int) -> None:
        self._process.metrics.add(f"promptlane_kv_{what}", pool, endpoint, amount=amount)

    def _place(self, name: str, pool: PoolConfig, config: EndpointConfig) -> Place:
        """The endpoint, with what was known of it before a reload: the same URL in the same pool is the same engine."""
        endpoint = Endpoint(**config.model_dump(exclude={"kv_events_url", "kv_replay_url"}))
        known = self._known(name, endpoint.url)
        if known is None:
            # Without a listener it is the estimate that it extends, so exact mode may come and go by reloads.
            blocks = index_blocks(self._config.routing.default_kv_tokens, TOKENS_PER_BLOCK)
            state = EndpointState(endpoint, index=ExactIndex(blocks, token_hex(8)))
            self._shape_state(state, endpoint, pool)
            return Place(state, self._upstream(name, pool, endpoint))
        self.when_certain.append(lambda: self._shape_state(known.state, endpoint, pool))
        before = self._previous.config.pools[name] if self._previous is not None else pool
        same = _shape(before) == _shape(pool)
        return Place(known.state, known.upstream if same else self._upstream(name, pool, endpoint))

    def _shape_state(self, state: EndpointState, endpoint: Endpoint, pool: PoolConfig) -> None:
        routing = self._config.routing
        state.endpoint = endpoint
        state.health.configure(unhealthy_after=pool.health.unhealthy_after, healthy_after=pool.health.healthy_after)
        known = endpoint.kv_capacity_tokens or state.kv_capacity_tokens
        if known is not None:
            state.learn_kv_capacity(known, self._tokens_per_block, routing.index_share)
        else:
            state.index.resize(index_blocks(routing.default_kv_tokens, self._tokens_per_block, routing.index_share))

    def _known(self, name: str, url: str) -> Place | None:
        before = self._previous.pools.get(name) if self._previous is not None else None
        places = before.places if before is not None else ()
        return next((place for place in places if place.state.endpoint.url == url), None)

    def _upstream(self, name: str, pool: PoolConfig, endpoint: Endpoint) -> Upstream:
        return Upstream(
            endpoint.url,
            timeouts=Timeouts(**pool.timeouts.model_dump()),
            ssl_context=self._tls[name],
            headers=[(key.encode(), value.encode()) for key, value in _credentials(pool)],
        )


def _shape(pool: PoolConfig) -> tuple[object, ...]:
    """What of a pool's configuration its connections are made of."""
    return pool.timeouts, pool.tls, pool.engine_api_key


def _credentials(pool: PoolConfig) -> list[tuple[str, str]]:
    """The header by which the pool's engines know the gateway, where they ask for a key."""
    key = pool.engine_api_key
    return [("authorization", f"Bearer {key.get_secret_value()}")] if key is not None else []


def _ssl_context(name: str, pool: PoolConfig) -> ssl.SSLContext | None:
    """For `https` engines; None where there are none. Raises ConfigError for a CA file that cannot be used."""
    if not any(endpoint.url.startswith("https:") for endpoint in pool.endpoints):
        return None
    try:
        context = ssl.create_default_context(cafile=pool.tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        reason = error.strerror or "not a PEM file with certificates"
        raise ConfigError([Problem(f"pools.{name}.tls.ca_file", f"cannot be used: {reason}", None)]) from None
    if not pool.tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


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
