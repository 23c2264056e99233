"""What a configuration allows and its author probably did not mean.

Floor: reads a checked `Config`; refuses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from policies.types import Role
from router.config.ledger import LedgerConfig
from router.config.models import Config
from router.config.problems import Problem
from router.config.server import ReplicasConfig


def warnings(config: Config, now: datetime) -> list[Problem]:
    """What is allowed and probably not meant. `now` is an aware time."""
    return [Problem(path, message) for path, message in _warnings(config, now)]


def _warnings(config: Config, now: datetime) -> Iterator[tuple[str, str]]:
    if config.state.redis_url is None and config.replicas != ReplicasConfig():
        yield "replicas", "has no effect without state.redis_url"
    own = config.server.secret is None and "secret_file" not in config.server.model_fields_set
    if config.state.redis_url is not None and own:  # a file that is named is one that somebody shares
        yield "server.secret", "replicas need the same one: set PROMPTLANE_SECRET, or share server.secret_file"
    if not config.keeps_records and config.ledger.enabled is None and config.ledger != LedgerConfig():
        yield "ledger", "has no effect without state.ledger_url, or ledger.enabled: true"
    if not config.tenants:
        yield "tenants", "there are none: every request will be refused"
    for tenant_id, tenant in config.tenants.items():
        if not tenant.models:
            yield f"tenants.{tenant_id}.models", "there are none: this tenant can ask for nothing"
        for index, key in enumerate(tenant.api_keys):
            if key.expires is not None and key.expires <= now:
                yield f"tenants.{tenant_id}.api_keys[{index}].expires", f"the key expired at {key.expires.isoformat()}"
    used = {model.pool for tenant in config.tenants.values() for model in tenant.models.values()}
    for name, pool in config.pools.items():
        if name not in used:
            yield f"pools.{name}", "no tenant uses this pool"
        if pool.discovery is None and all(endpoint.role is not Role.HOT for endpoint in pool.endpoints):
            yield f"pools.{name}.endpoints", "none is hot: standbys will serve everything"
        for place, endpoint in enumerate(pool.endpoints):
            if endpoint.url.endswith("/v1"):
                yield f"pools.{name}.endpoints[{place}].url", "ends in /v1, which Promptlane adds itself"
