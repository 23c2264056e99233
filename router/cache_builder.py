"""The cache of each tenant that has one, made of its configuration.

Floor: part of `assembly`. A reload that does not change a cache keeps its answers, and the connections to Redis.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from policies.answer_shelf import AnswerShelf
from policies.response_cache import Billing
from router.config import CacheConfig, Config, ConfigError, Problem
from router.process import Process
from router.response_cache.cache import TenantCache
from router.response_cache.store import AnswerStore, MemoryStore
from router.secret import response_cache_key

if TYPE_CHECKING:  # with it Redis' client is loaded
    from router.response_cache.redis_store import SharedAnswers


class CachesBuilder:
    """`previous`: of the configuration before, whose caches may go on. `of`: the caches, by tenant; `shared`: the
    Redis of those that are there, None without any. Raises ConfigError."""

    def __init__(self, config: Config, process: Process, previous: CachesBuilder | None = None) -> None:
        self._config = config
        self._process = process
        same = previous is not None and _place(previous._config) == _place(config)
        self._known = previous if same else None
        sections = {name: tenant.cache for name, tenant in config.tenants.items() if tenant.cache is not None}
        in_redis = any(self._kind(section) == "redis" for section in sections.values())
        self.shared = self._shared() if in_redis else None
        self.of = {name: self._cache(name, section) for name, section in sections.items()}
        self._known = None

    async def close(self, successor: CachesBuilder | None = None) -> None:
        """Ends what no successor has taken over; what waits to be put in has been before."""
        kept = {id(one) for one in successor.of.values()} if successor is not None else set()
        await asyncio.gather(*(one.settled() for one in self.of.values() if id(one) not in kept))
        if self.shared is not None and (successor is None or successor.shared is not self.shared):
            await self.shared.close()

    def _cache(self, name: str, section: CacheConfig) -> TenantCache:
        if self._known is not None and self._known._config.tenants.get(name) is not None:
            before = self._known._config.tenants[name].cache
            if before == section:
                return self._known.of[name]
        process = self._process
        return TenantCache(
            name,
            self._store(name, section),
            response_cache_key(process.secret, name),
            Billing(section.billed),
            section.max_answer_bytes,
            process.wall_clock,
            process.metrics,
        )

    def _store(self, name: str, section: CacheConfig) -> AnswerStore:
        process = self._process
        if self.shared is None or self._kind(section) == "memory":
            shelf = AnswerShelf(section.max_bytes, section.max_entries, section.ttl)
            return MemoryStore(name, shelf, process.clock, process.metrics)
        from router.response_cache.redis_store import Bounds, RedisStore

        bounds = Bounds(section.max_bytes, section.max_entries, section.ttl)
        return RedisStore(name, self.shared, bounds, response_cache_key(process.secret, name))

    def _kind(self, section: CacheConfig) -> str:
        if section.store is not None:
            return section.store
        return "memory" if self._config.state.redis_url is None else "redis"

    def _shared(self) -> SharedAnswers:
        if self._known is not None and self._known.shared is not None:
            return self._known.shared
        url = self._config.state.redis_url
        assert url is not None  # noqa: S101  # the configuration was checked
        from router.coordination.redis_client import RedisClient  # who has no Redis need not load its client
        from router.response_cache.redis_store import SharedAnswers

        try:
            client = RedisClient(url, timeout=self._config.state.cache_timeout)
        except ValueError:  # its text may hold the password
            raise ConfigError([Problem("state.redis_url", "expected a URL that can be read")]) from None
        return SharedAnswers(client, self._process.clock, self._process.metrics, self._config.replicas.prefix)


def _place(config: Config) -> tuple[object, ...]:
    return config.state.redis_url, config.state.cache_timeout, config.replicas.prefix
