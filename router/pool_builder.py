"""A pool's configuration to its objects: endpoints, connections, probes, KV events.

Floor: part of `router.assembly`. What is changed on objects that serve already waits in `when_certain`, so that a
refused configuration changes nothing.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from policies.admission.desk import Desk
from policies.admission.order import ShortestPrefillFirst
from policies.attempts import AttemptPolicy
from policies.discovery import Found, choose
from policies.exact_index import ExactIndex
from policies.first_byte import FirstByteLimit
from policies.hedge import HedgePolicy
from policies.priority import priority
from policies.registry import make_profile
from policies.retry import Budget, RetryPolicy
from policies.types import Endpoint, InferenceRequest, Lane
from router.config import (
    Config,
    ConfigError,
    PoolConfig,
    Problem,
    lane_policies,
    profile_specs,
    queue_order,
)
from router.discovery.source import Source
from router.discovery_builder import found_endpoint, found_feeds
from router.kv_events import Feed, KvEventListener, installed
from router.metrics import Metrics
from router.places import Places, credentials, endpoint_of
from router.pools import Place, Pool
from router.probe import Prober, ProbeSettings
from router.process import Process
from router.standby_builder import with_overflow

if TYPE_CHECKING:  # the runtime before a reload
    from router.assembly import Runtime

# How a replica decides that reaches nobody who decides for all: at once, and engines order what they are sent.
ALONE_PROFILE = "prompt-aware-at-once"


class PoolBuilder:
    """Builds the pools of one configuration; `previous`: what served before, whose unchanged parts are taken over;
    `sources`: what finds endpoints, by pool."""

    def __init__(
        self, config: Config, process: Process, previous: Runtime | None, sources: Mapping[str, Source] | None = None
    ) -> None:
        self._sources = sources or {}
        self.configured = {end.url: name for name, pool in config.pools.items() for end in pool.endpoints}
        self._chosen = choose(self.configured, {name: one.found or () for name, one in self._sources.items()})
        self._config = config
        self._process = process
        self._previous = previous
        # Per pool, as reading the authorities takes tens of milliseconds, and a pool may have hundreds of endpoints.
        self.tls = {name: _ssl_context(name, pool) for name, pool in config.pools.items()}
        self.places = Places(config.routing, self.tls)
        self.when_certain: list[Callable[[], None]] = []

    def pool(self, name: str, pool: PoolConfig) -> Pool:
        routing = self._config.routing
        before = self._previous.pools.get(name) if self._previous is not None else None
        if before is not None and self._unchanged(name, pool):
            return before
        profile = make_profile(pool.profile or routing.profile, Random(), profile_specs(routing))
        profile = with_overflow(profile, pool)
        alone = with_overflow(make_profile(ALONE_PROFILE, Random()), pool) if self._process.replicas else None
        told = profile.engine_priority or alone is not None
        built = Pool(
            name,
            [
                *[self._place(name, pool, endpoint_of(endpoint)) for endpoint in pool.endpoints],
                *[self._place(name, pool, found_endpoint(one, pool), one.key) for one in self._found(name)],
            ],
            profile,
            Desk(
                queue_order(routing),
                lane_policies(self._config.lanes),
                {lane: self._config.lanes[lane].max_waiting for lane in Lane},
                len(pool.endpoints) + len(self._found(name)),
            ),
            self._process.clock,
            attempts=_attempts(pool),
            when_full={lane: self._config.lanes[lane].when_full for lane in Lane},
            window=routing.window,
            priority=partial(_priority, self._process, queue_order(routing)) if told else None,
            predecessor=before,
            max_ejected_share=pool.health.max_ejected_share,
            alone=alone,
            source=self._sources[name].text if name in self._sources else None,
        )
        built.known = built.source is None or self._sources[name].found is not None
        self.when_certain.append(built.take_over)
        return built

    def _found(self, name: str) -> Sequence[Found]:
        return self._chosen[name].kept if name in self._chosen else ()

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
            tokens_per_block=self.places.tokens_per_block,
            canary_timeout=config.health.canary_timeout,
            detect_hung=config.health.detect_hung,
            engine_models=self._engine_models(pool.name),
        )
        return Prober(
            pool, settings, self._process.metrics, ssl_context=self.tls[pool.name], headers=credentials(config)
        )

    def listener(self, pool: Pool, config: PoolConfig) -> KvEventListener:
        if not installed():
            message = "needs pyzmq: pip install 'promptlane[kv-events]'"
            raise ConfigError([Problem(f"pools.{pool.name}.kv_events", message, None)])
        feeds = partial(_feeds, pool, config, self._process.metrics)
        before = self._previous.listeners.get(pool.name) if self._previous is not None else None
        return KvEventListener(pool.name, feeds, before)

    def _place(self, name: str, pool: PoolConfig, endpoint: Endpoint, key: str | None = None) -> Place:
        """The endpoint, with what was known of it before a reload: the same URL in the same pool is the same engine,
        where no source says that it is another (`key`)."""
        known = self._known(name, endpoint.url, key)
        if known is None:
            return self.places.make(name, pool, endpoint, key)
        self.when_certain.append(lambda: self.places.shape(known.state, endpoint, pool))
        before = self._previous.config.pools[name] if self._previous is not None else pool
        same = _shape(before) == _shape(pool)
        return Place(known.state, known.upstream if same else self.places.upstream(name, pool, endpoint), key)

    def _engine_models(self, name: str) -> tuple[str, ...]:
        """What tenants' models are called by the engines of this pool."""
        routes = (model for tenant in self._config.tenants.values() for model in tenant.models.values())
        return tuple(dict.fromkeys(route.engine_model for route in routes if route.pool == name))

    def _known(self, name: str, url: str, key: str | None) -> Place | None:
        before = self._previous.pools.get(name) if self._previous is not None else None
        places = before.places if before is not None else ()
        same = (place for place in places if place.state.endpoint.url == url)
        return next((place for place in same if key is None or place.key in (None, key)), None)


# What lives as long as a pool or a listener knows nothing of the builder: it knows the runtime before, and that the one
# before it.


def _priority(process: Process, order: ShortestPrefillFirst, request: InferenceRequest, own_seconds: float) -> int:
    age = process.clock() - request.arrived_at
    return priority(request, own_seconds, process.wall_clock() - age, order)


def _feeds(pool: Pool, config: PoolConfig, metrics: Metrics) -> list[Feed]:
    """Where the engines that the pool has now tell their KV events. Of several that are found at one address, and so at
    one port, nobody could say whose they are: they are estimated."""
    configured = {end.url: (end.kv_events_url, end.kv_replay_url) for end in config.endpoints}
    told = [(place.state, *(configured.get(place.state.endpoint.url) or found_feeds(place.state.endpoint.url, config)))
            for place in pool.places]  # fmt: skip
    uses = Counter(events for _, events, _ in told)
    return [
        Feed(name, state.index, events, replay, partial(_count_kv, metrics, pool.name, name))
        for state, events, replay in told
        if isinstance(state.index, ExactIndex) and events is not None and uses[events] == 1
        for name in (state.endpoint.name,)
    ]


def _count_kv(metrics: Metrics, pool: str, endpoint: str, what: str, amount: int) -> None:
    metrics.add(f"promptlane_kv_{what}", pool, endpoint, amount=amount)


def _attempts(pool: PoolConfig) -> AttemptPolicy:
    limits, budget, hedging = pool.timeouts, pool.retry_budget, pool.hedging
    # All that one engine has in flight fails at once when it dies, and all of it is to be repeated.
    found = [pool.discovery.max_in_flight] if pool.discovery is not None else []
    seats = max([*(endpoint.max_in_flight for endpoint in pool.endpoints), *found])
    reserve = budget.reserve if budget.reserve is not None else seats
    return AttemptPolicy(
        RetryPolicy(pool.retries, Budget(budget.share, reserve), pool.retry_wait, Random()),
        FirstByteLimit(limits.first_byte, limits.first_byte_least, limits.first_byte_factor),
        pool.hold_back_seconds,
        HedgePolicy(hedging.share) if hedging.enabled else None,
    )


def _shape(pool: PoolConfig) -> tuple[object, ...]:
    """What of a pool's configuration its connections are made of."""
    return pool.timeouts, pool.tls, pool.engine_api_key


def _ssl_context(name: str, pool: PoolConfig) -> ssl.SSLContext | None:
    """For `https` engines; None where there are none. Raises ConfigError for a CA file that cannot be used."""
    found = pool.discovery is not None and pool.discovery.scheme == "https"
    if not found and not any(endpoint.url.startswith("https:") for endpoint in pool.endpoints):
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
