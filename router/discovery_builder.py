"""A pool's `discovery` section to what looks for its endpoints.

Floor: part of `router.assembly`. A source whose configuration did not change is taken over by a reload, with all that
it knows; what another one told is never used for it, as its pods may be another tenant's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from random import Random
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from policies.discovery import Found
from policies.types import Endpoint
from router.config import Config, ConfigError, DiscoveryConfig, KubernetesConfig, PoolConfig, Problem
from router.discovery.dns import DnsRules, DnsSource
from router.discovery.kubernetes import KubernetesSource, Watched
from router.discovery.source import Source
from router.discovery.srv import installed
from router.kubernetes_api import ApiSettings, KubernetesApi
from router.wire.kubernetes import PodRules

if TYPE_CHECKING:  # the runtime before a reload
    from router.assembly import Runtime

# A reload, and a start, wait so long for new sources; whoever does not answer by then tells later.
FIRST_SECONDS = 5.0


def build_sources(config: Config, clock: Callable[[], float], previous: Runtime | None) -> dict[str, Source]:
    """By pool. Nothing is asked before they are started."""
    sources = {}
    for name, pool in config.pools.items():
        if pool.discovery is not None:
            known = _known(name, config, previous)
            sources[name] = known or _source(name, pool.discovery, config.kubernetes, clock)
    return sources


async def ready_sources(sources: Mapping[str, Source]) -> None:
    """Starts them, and gives them time to tell for the first time."""
    for source in sources.values():
        source.start()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FIRST_SECONDS):
            await asyncio.gather(*(source.first() for source in sources.values()))


def api_settings(config: KubernetesConfig) -> ApiSettings:
    """How the API is reached."""
    return ApiSettings(config.api_url, config.token_file, config.ca_file, config.timeout)


def found_endpoint(found: Found, pool: PoolConfig) -> Endpoint:
    """As if it were configured."""
    discovery = pool.discovery
    assert discovery is not None  # noqa: S101  # else nothing is found
    return Endpoint(
        found.name,
        found.url,
        role=found.role,
        weight=found.weight,
        hourly_cost=discovery.hourly_cost,
        max_in_flight=discovery.max_in_flight,
        kv_capacity_tokens=discovery.kv_capacity_tokens,
    )


def found_feeds(url: str, pool: PoolConfig) -> tuple[str | None, str | None]:
    """Where the engine at `url` publishes its KV events and tells missed ones again: on its own address."""
    discovery, host = pool.discovery, urlsplit(url).hostname or ""
    if discovery is None:
        return None, None
    name = f"[{host}]" if ":" in host else host
    events, replay = (
        f"tcp://{name}:{port}" if port is not None else None
        for port in (discovery.kv_events_port, discovery.kv_replay_port)
    )
    return events, replay


def _known(name: str, config: Config, previous: Runtime | None) -> Source | None:
    if previous is None or name not in previous.sources:
        return None
    same = previous.config.pools[name].discovery == config.pools[name].discovery
    return previous.sources[name] if same and previous.config.kubernetes == config.kubernetes else None


def _source(name: str, discovery: DiscoveryConfig, api: KubernetesConfig, clock: Callable[[], float]) -> Source:
    role, weight, scheme = discovery.role, discovery.weight, discovery.scheme
    if (dns := discovery.dns) is not None:
        if dns.srv is not None and not installed():
            message = "needs dnspython: pip install 'promptlane[dns]'"
            raise ConfigError([Problem(f"pools.{name}.discovery.dns.srv", message, None)])
        return DnsSource(
            name,
            DnsRules(
                name=dns.srv or dns.name or "",
                port=dns.port,
                every=dns.every_seconds,
                timeout=dns.timeout,
                scheme=scheme,
                role=role,
                weight=weight,
                keep=dns.keep_seconds,
                server=dns.server,
            ),
            clock,
            Random(),
        )
    pods = discovery.kubernetes
    assert pods is not None  # noqa: S101  # the configuration was checked
    return KubernetesSource(
        name,
        Watched(pods.namespace, pods.selector, api.watch_seconds),
        PodRules(name, pods.port, scheme, role, weight, pods.role_label, pods.weight_annotation),
        KubernetesApi(api_settings(api)),
        clock,
        Random(),
    )
