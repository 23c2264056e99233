"""`tenants.<id>.cache`: what is accepted, what a mistake is told, and what a reload keeps."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from router.cache_builder import CachesBuilder
from router.config import Config, ConfigError, loads
from router.counting import TokenCounter
from router.metrics import Metrics
from router.process import Process
from router.response_cache.redis_store import RedisStore
from router.response_cache.store import MemoryStore

REDIS = {"redis_url": "redis://127.0.0.1:9/0"}
PROCESS = Process(b"a secret for tests, 32 characters", TokenCounter(), Metrics())


def parse(cache: Any, state: dict[str, Any] | None = None) -> Config:
    config = {
        "state": state or {},
        "tenants": {"acme": {"anonymous": True, "hosts": ["a.example"], "cache": cache}},
        "pools": {"p": {"endpoints": [{"name": "e", "url": "http://e:8000"}]}},
    }
    return loads(yaml.safe_dump(config).encode(), {})


def mistake(cache: Any, state: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(cache, state)
    return str(refused.value)


def built(config: Config, previous: CachesBuilder | None = None) -> CachesBuilder:
    return CachesBuilder(config, PROCESS, previous)


def test_there_is_none_unless_it_is_asked_for() -> None:
    assert parse(None).tenants["acme"].cache is None
    assert built(parse(None)).of == {}
    section = parse({}).tenants["acme"].cache
    assert section is not None
    assert (section.store, section.ttl, section.billed, section.max_entries) == (None, 3600.0, "full", 10_000)


def test_it_lies_in_redis_where_there_is_one_and_in_memory_else() -> None:
    assert isinstance(built(parse({})).of["acme"].store, MemoryStore)
    assert isinstance(built(parse({}, REDIS)).of["acme"].store, RedisStore)
    assert isinstance(built(parse({"store": "memory"}, REDIS)).of["acme"].store, MemoryStore)
    assert "tenants.acme.cache.store" in mistake({"store": "redis"})


@pytest.mark.parametrize(
    ("cache", "named"),
    [
        ({"ttl": 0}, "cache.ttl"),
        ({"ttl": 40 * 86_400}, "cache.ttl"),
        ({"max_bytes": 5}, "cache.max_bytes"),
        ({"max_entries": 0}, "cache.max_entries"),
        ({"max_answer_bytes": 2**40}, "cache.max_answer_bytes"),
        ({"billed": "half"}, "cache.billed"),
        ({"size": 5}, "cache.size"),
        (True, "tenants.acme.cache"),
    ],
)
def test_a_mistake_is_told_by_its_key(cache: Any, named: str) -> None:
    assert named in mistake(cache)


def test_a_reload_keeps_a_cache_that_it_does_not_change() -> None:
    first = built(parse({"ttl": 60}))
    assert built(parse({"ttl": 60}), first).of["acme"] is first.of["acme"]
    assert built(parse({"ttl": 61}), first).of["acme"] is not first.of["acme"]
    shared = built(parse({"ttl": 60}, REDIS), first)
    assert shared.of["acme"] is not first.of["acme"]
    changed = built(parse({"ttl": 61}, REDIS), shared)
    assert changed.of["acme"] is not shared.of["acme"]
    assert changed.shared is shared.shared, "connections live on"
    assert built(parse({"ttl": 60}, REDIS | {"cache_timeout": 1}), shared).shared is not shared.shared
