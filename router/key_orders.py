"""What an operator may ask of keys: read, held against the configuration, carried out, shown.

Floor: beside `router.assembly`; the operator plane and the command line both stand on it. What touches the store
blocks. A key itself is in the answer that makes it and nowhere else; a digest is in no answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, TypeVar

from annotated_types import Ge, Le
from pydantic import Field, ValidationError

from router.config import ApiKeyConfig, Config
from router.config.keys import LONGEST_GRACE
from router.config.problems import Problem
from router.config.section import Section
from router.config.tree import Tree
from router.config.types import NO_BOOL, ApiName, Expiry, Label, ModelName, Name, TenantId
from router.config.words import did_you_mean, explain
from router.errors import BadRequest, Conflict, NotFound
from router.stored_keys import StoredKey
from router.tenants import new_key

if TYPE_CHECKING:
    from router.key_store import KeyStore


class KeyOrder(Section):
    """A key to be made. `models`, `apis`: None is everything."""

    tenant: TenantId
    id: Name | None = None
    label: Label = ""
    models: tuple[ModelName, ...] | None = None
    apis: tuple[ApiName, ...] | None = None
    expires: Expiry = None


class RotateOrder(Section):
    """A key to be replaced. What is not given: as the configuration has it, or as the old key has it."""

    grace_seconds: Annotated[float, NO_BOOL, Ge(0), Le(LONGEST_GRACE)] | None = None
    expires: Expiry = Field(default=None)


class NoOrder(Section):
    """Where there is nothing to say."""


class Made(NamedTuple):
    """A new key, this once, with what is kept of it; `old` is the one that it replaces."""

    key: str
    stored: StoredKey
    old: StoredKey | None = None


_Order = TypeVar("_Order", bound=Section)


def read_order(kind: type[_Order], said: Mapping[str, Any]) -> _Order:
    """Raises BadRequest, whose message says every mistake and whose param names the first field."""
    try:
        return kind.model_validate(dict(said))
    except ValidationError as error:
        problems = explain(error, kind, Tree("body"))
        raise BadRequest("; ".join(map(str, problems)), param=problems[0].path) from None


def check_order(config: Config, order: KeyOrder, now: float) -> None:
    """Raises BadRequest for a tenant or a model that the configuration does not have, and for an expiry in the past."""
    tenant = known_tenant(config, order.tenant)
    for index, model in enumerate(order.models or ()):
        if model not in config.tenants[tenant].models:
            near = did_you_mean(model, config.tenants[tenant].models)
            raise _wrong(f"models[{index}]", f"expected a model of {tenant}; got '{model}'{near}")
    check_expiry(order.expires, now)


def check_expiry(expires: datetime | None, now: float) -> None:
    """Raises BadRequest for a moment that is over."""
    if expires is not None and expires.timestamp() <= now:
        raise _wrong("expires", f"expected a moment in the future; got {expires.isoformat()}")


def known_tenant(config: Config, tenant: str) -> str:
    """The same, where the configuration has it. Raises BadRequest."""
    if tenant not in config.tenants:
        near = did_you_mean(tenant, config.tenants)
        raise _wrong("tenant", f"there is no tenant '{tenant[:63]}' in the configuration{near}")
    return tenant


def create(store: KeyStore, config: Config, order: KeyOrder, now: float) -> Made:
    """A new key, kept. Raises BadRequest, or Conflict where its id is taken."""
    check_order(config, order, now)
    if order.id is not None and (tenants := list(_tenants_with(config, order.id))):
        message = f"The configuration of {', '.join(tenants)} has a key '{order.id}': choose another id."
        raise Conflict(message, param="id")
    key, digest = new_key()
    stored = StoredKey(
        id=order.id or default_id(now),
        tenant=order.tenant,
        digest=bytes.fromhex(digest),
        created_at=now,
        label=order.label,
        models=order.models,
        apis=order.apis,
        expires_at=order.expires.timestamp() if order.expires is not None else None,
    )
    store.add(stored)
    return Made(key, stored)


def revoke(store: KeyStore, config: Config, key_id: str, now: float) -> StoredKey:
    """The key as it is now. Raises NotFound, or Conflict for a key of the configuration."""
    _refuse_configured(store, config, key_id)
    return store.revoke(key_id, now)


def rotate(store: KeyStore, config: Config, key_id: str, order: RotateOrder, now: float) -> Made:
    """A key in the place of another. Raises BadRequest, NotFound or Conflict."""
    check_expiry(order.expires, now)
    _refuse_configured(store, config, key_id)
    key, _ = new_key()
    grace = order.grace_seconds if order.grace_seconds is not None else config.keys.rotation_grace
    expires_at = order.expires.timestamp() if order.expires is not None else None
    taken = {one.id for tenant in config.tenants.values() for one in tenant.api_keys}
    digest = hashlib.sha256(key.encode()).digest()
    old, new = store.rotate(key_id, digest, now, grace, expires_at=expires_at, taken=taken)
    return Made(key, new, old)


def listed(config: Config, stored: Iterable[StoredKey], now: float, tenant: str | None = None) -> list[dict[str, Any]]:
    """Every key as operators see it: those of the configuration first."""
    tenants = config.tenants if tenant is None else {tenant: config.tenants[tenant]}
    ours = [_configured(name, key, now) for name, one in tenants.items() for key in one.api_keys]
    return [*ours, *(shown(config, key, now) for key in stored)]


def shown(config: Config, key: StoredKey, now: float) -> dict[str, Any]:
    """One key of the database. `status`: active, grace, replaced, expired or revoked; `overruled` where a key of the
    configuration stands in its place, `unknown_tenant` where the configuration does not have its tenant."""
    status: str = key.status(now)
    if key.live(now) and key.tenant not in config.tenants:
        status = "unknown_tenant"
    elif key.live(now) and _overruled(config, key):
        status = "overruled"
    return {
        "id": key.id,
        "tenant": key.tenant,
        "source": "database",
        "status": status,
        "label": key.label,
        "models": list(key.models) if key.models is not None else None,
        "apis": list(key.apis) if key.apis is not None else None,
        "created_at": _moment(key.created_at),
        "expires_at": _moment(key.expires_at),
        "revoked_at": _moment(key.revoked_at),
        "replaces": key.replaces,
        "grace_until": _moment(key.grace_until),
    }


def default_id(now: float) -> str:
    """The name of a key that was given none."""
    return f"key-{datetime.fromtimestamp(now, UTC):%Y%m%d}-{token_hex(3)}"


def _configured(tenant: str, key: ApiKeyConfig, now: float) -> dict[str, Any]:
    expires_at = key.expires.timestamp() if key.expires is not None else None
    return {
        "id": key.id,
        "tenant": tenant,
        "source": "config",
        "status": "expired" if expires_at is not None and now >= expires_at else "active",
        "models": list(key.models) if key.models is not None else None,
        "apis": list(key.apis) if key.apis is not None else None,
        "expires_at": _moment(expires_at),
    }


def _refuse_configured(store: KeyStore, config: Config, key_id: str) -> None:
    """A name means the database's key, unless the configuration has one of that name and the same tenant."""
    tenants = list(_tenants_with(config, key_id))
    if not tenants:
        return
    try:
        tenant = store.find(key_id).tenant
    except NotFound:
        tenant = tenants[0]
    if tenant in tenants:
        raise Conflict(
            f"The key '{key_id}' of {tenant} is in the configuration file, which wins: take it out there and reload. "
            "Only keys made at run time can be revoked or rotated at run time.",
            param="id",
        )


def _tenants_with(config: Config, key_id: str) -> Iterator[str]:
    for name, tenant in config.tenants.items():
        if any(key.id == key_id for key in tenant.api_keys):
            yield name


def _overruled(config: Config, key: StoredKey) -> bool:
    digest = key.digest.hex()
    same_name = any(one.id == key.id for one in config.tenants[key.tenant].api_keys)
    return same_name or any(one.sha256 == digest for tenant in config.tenants.values() for one in tenant.api_keys)


def _wrong(field: str, message: str) -> BadRequest:
    return BadRequest(str(Problem(field, message)), param=field)


def _moment(seconds: float | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds") if seconds is not None else None
