"""A pool's `standby` section to its objects: standbys, hooks, mirror, overflow.

Floor: part of `router.assembly`. Nothing is begun here, and what serves already is touched only by what is put into
`when_certain`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from ssl import SSLContext
from typing import TYPE_CHECKING

from policies.overflow import Overflow
from policies.profile import Profile
from policies.types import Role
from router.config import Config, HookConfig, KubernetesConfig, PoolConfig
from router.discovery_builder import api_settings
from router.event_records import PoolRecords
from router.hooks import Hook
from router.keeper import Terms
from router.mirror import Mirror
from router.pools import Pool
from router.process import Process
from router.scaling import Scale
from router.standby_engines import StandbysSettings
from router.standbys import Standbys
from router.wake import EngineControl

if TYPE_CHECKING:  # the runtime before a reload
    from router.assembly import Runtime


def with_overflow(profile: Profile, pool: PoolConfig) -> Profile:
    """The profile as the pool has it: where warm endpoints are to help full hot ones, by another filter."""
    overflow = pool.standby.overflow
    if overflow is not None and overflow.enabled:
        profile.replace_filter(Overflow(overflow.share, overflow.above))
    return profile


class StandbyBuilder:
    """Builds the standbys of one configuration. `shared`: warm engines that several pools have."""

    def __init__(self, config: Config, process: Process, previous: Runtime | None, pools: Mapping[str, Pool]) -> None:
        self._config = config
        self._process = process
        self._previous = previous
        self._pools = pools
        self.when_certain: list[Callable[[], None]] = []
        urls = [end.url for pool in config.pools.values() for end in pool.endpoints]
        self.shared = frozenset(url for url in urls if urls.count(url) > 1)

    def standbys(self, pool: Pool, config: PoolConfig, ssl: SSLContext | None) -> Standbys | None:
        """None where the pool has nobody but its hot endpoints, and will find nobody else."""
        standby, discovery = config.standby, config.discovery
        finds = discovery is not None and (discovery.kubernetes is not None or discovery.role is not Role.HOT)
        if not finds and standby.degraded is None and all(end.role is Role.HOT for end in config.endpoints):
            self.when_certain.append(lambda: setattr(pool, "keeper", None))
            return None
        key = config.engine_api_key
        control = EngineControl(
            self._engine_models(pool.name),
            wake_seconds=standby.wake_timeout,
            canary_seconds=standby.canary_timeout,
            ssl_context=ssl,
            headers=[("authorization", f"Bearer {key.get_secret_value()}")] if key is not None else [],
        )
        settings = StandbysSettings(
            machine=standby.machine,
            heartbeat_seconds=standby.heartbeat_seconds,
            sleep_when_idle=standby.sleep_when_idle,
            start=_hook(standby.start, self._config.kubernetes),
            stop=_hook(standby.stop, self._config.kubernetes),
            starts_per_hour=standby.starts_per_hour,
            give_up_seconds=standby.give_up_seconds,
            shared=self.shared,
        )
        process = self._process
        built = Standbys(
            pool,
            settings,
            control,
            process.leases,
            process.metrics,
            process.wall_clock,
            self._degraded(config),
            self._chronicle(pool.name),
        )
        before = self._previous.standbys.get(pool.name) if self._previous is not None else None
        self.when_certain.append(lambda: built.take_over(before))
        return built

    def mirror(self, pool: Pool, config: PoolConfig) -> Mirror | None:
        """None where nothing is copied."""
        mirror = config.standby.mirror
        built = None
        if mirror is not None:
            metrics = self._process.metrics
            built = Mirror(pool, mirror.share, mirror.max_in_flight, self.shared, metrics, Random())
        self.when_certain.append(lambda: setattr(pool, "mirror", built))
        return built

    def _degraded(self, config: PoolConfig) -> tuple[Pool, Terms] | None:
        degraded = config.standby.degraded
        if degraded is None:
            return None
        shared = self._config.pools[degraded.pool].shared
        terms = Terms(degraded.engine_model, degraded.max_tokens, degraded.refuse_batch, shared)
        return self._pools[degraded.pool], terms

    def _chronicle(self, pool: str) -> PoolRecords | None:
        if self._process.ledger is None:
            return None
        served = [
            (name, tenant.tier)
            for name, tenant in self._config.tenants.items()
            if any(model.pool == pool for model in tenant.models.values())
        ]
        return PoolRecords(self._process.ledger.add, served, self._process.wall_clock)

    def _engine_models(self, pool: str) -> list[str]:
        models = [model for tenant in self._config.tenants.values() for model in tenant.models.values()]
        return list(dict.fromkeys(model.engine_model for model in models if model.pool == pool))


def _hook(hook: HookConfig | None, kubernetes: KubernetesConfig) -> Hook | None:
    if hook is None:
        return None
    scale, one = None, hook.scale
    if one is not None:
        scale = Scale(api_settings(kubernetes), one.namespace, one.kind, one.name, one.replicas)
    return Hook(hook.command or (), hook.url, hook.timeout, hook.pass_env, scale)
