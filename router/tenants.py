"""Who is asking: host and API key to tenant.

Floor: an adapter; knows `policies.types`, `router.errors` and `router.wire`. A key exists here only as its SHA-256 and
is found by hash lookup, so neither memory nor timing gives one away.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from policies.types import Tenant
from router.errors import Forbidden, InvalidKey

# 32 random bytes: guessing one of a million keys takes 2^236 tries.
_KEY_BYTES = 32
KEY_PREFIX = "pl-"


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key of a tenant. `expires_at`: Unix seconds. `models`, `apis`: what it may use; None is everything."""

    id: str
    tenant: str
    digest: bytes = field(repr=False)
    expires_at: float | None = None
    models: frozenset[str] | None = None
    apis: frozenset[str] | None = None

    def require(self, api: str) -> None:
        """Raises Forbidden when the key's scope leaves `api` out."""
        if self.apis is not None and api not in self.apis:
            raise Forbidden(f"This API key may not use the {api} API.", code="scope_denied")

    def counts(self, wall_now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or wall_now < self.expires_at

    def allows_model(self, model: str) -> bool:
        return self.models is None or model in self.models


@dataclass(slots=True, init=False)
class Identity:
    """The tenant, and the key that proved it (None for a tenant that allows anonymous use)."""

    tenant: Tenant
    key: ApiKey | None

    def __init__(self, tenant: Tenant, key: ApiKey | None) -> None:
        self.tenant = tenant
        self.key = key


class KeyRing:
    """Keys made at run time, as last seen in the database, by digest. Changed on the event loop only, in one turn, so a
    request sees all of a change or nothing. `known_until`: Unix seconds after which they count no more, as nobody has
    seen them for long."""

    def __init__(self) -> None:
        self.by_digest: dict[bytes, ApiKey] = {}
        self.known_until = math.inf

    def find(self, digest: bytes, wall_now: float) -> ApiKey | None:
        return self.by_digest.get(digest) if wall_now < self.known_until else None


class TenantDirectory:
    """Every tenant by host and by key. Immutable, but for the ring: a reload builds another.

    `keys` are the configuration's. They win: a key of the ring with the digest, or the tenant and id, of one of them is
    none.
    """

    def __init__(
        self, tenants: Iterable[Tenant], hosts: Mapping[str, str], keys: Iterable[ApiKey], ring: KeyRing | None = None
    ) -> None:
        self.by_id = {tenant.id: tenant for tenant in tenants}
        self._by_host = {host: self.by_id[tenant] for host, tenant in hosts.items()}
        self._by_digest = {key.digest: key for key in keys}
        self._names = {(key.tenant, key.id) for key in self._by_digest.values()}
        self._ring = ring if ring is not None else KeyRing()

    def identify(self, host: str | None, credential: bytes | None, wall_now: float) -> Identity:
        """Host plus key, key alone, or the host alone of an anonymous tenant. `wall_now`: Unix seconds.

        Raises InvalidKey (none, unknown, expired) or Forbidden (the key of one tenant on another's host).
        """
        of_host = self._by_host.get(host) if host is not None else None
        if credential is None:
            if of_host is None or not of_host.anonymous:
                raise InvalidKey("You didn't provide an API key. Send it as 'Authorization: Bearer YOUR_KEY'.")
            return Identity(of_host, None)
        digest = hashlib.sha256(credential).digest()
        key = self._by_digest.get(digest)
        if key is None:
            key = self._of_ring(digest, wall_now)
        if key is None or (key.expires_at is not None and wall_now >= key.expires_at):
            raise InvalidKey("Incorrect API key provided: it is unknown, was revoked or has expired.")
        if of_host is not None and of_host.id != key.tenant:
            raise Forbidden("This API key does not belong to the tenant of this host.")
        return Identity(self.by_id[key.tenant], key)

    def live_keys(self, wall_now: float) -> Counter[tuple[str, str]]:
        """How many keys open something now, by tenant and source (config or database)."""
        found: Counter[tuple[str, str]] = Counter()
        ring = self._ring.by_digest.values() if wall_now < self._ring.known_until else ()
        for source, keys in (("config", self._by_digest.values()), ("database", ring)):
            for key in keys:
                if (key.expires_at is None or wall_now < key.expires_at) and (source == "config" or self._counts(key)):
                    found[key.tenant, source] += 1
        return found

    def _of_ring(self, digest: bytes, wall_now: float) -> ApiKey | None:
        key = self._ring.find(digest, wall_now)
        return key if key is not None and self._counts(key) else None

    def _counts(self, key: ApiKey) -> bool:
        """Whether the configuration has the tenant of a key of the ring, and no key in its place."""
        return (
            key.tenant in self.by_id and (key.tenant, key.id) not in self._names and key.digest not in self._by_digest
        )


def new_key() -> tuple[str, str]:
    """A fresh API key and the SHA-256 (hex) to keep of it."""
    key = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    return key, hashlib.sha256(key.encode()).hexdigest()
