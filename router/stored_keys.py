"""One key made at run time, as the database has it.

Floor: an adapter's values; knows how a key is checked, and nothing of databases. Moments are Unix seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from router.tenants import ApiKey

KeyStatus: TypeAlias = Literal["active", "grace", "replaced", "expired", "revoked"]


class Stamp(NamedTuple):
    """What is there: two equal stamps are the same keys."""

    number: int
    mark: str


class Seen(NamedTuple):
    """What a look has found. `whole`: `keys` are all that are live; else those that have changed, live or not."""

    stamp: Stamp
    keys: list[StoredKey]
    whole: bool = True


@dataclass(frozen=True, slots=True)
class StoredKey:
    """One key as the database has it. `models`, `apis`: None is everything. `grace_until`: it has been replaced."""

    id: str
    tenant: str
    digest: bytes = field(repr=False)
    created_at: float
    label: str = ""
    models: tuple[str, ...] | None = None
    apis: tuple[str, ...] | None = None
    expires_at: float | None = None
    revoked_at: float | None = None
    replaces: str | None = None
    grace_until: float | None = None

    def status(self, now: float) -> KeyStatus:
        """Only a key that is active or in its grace opens anything."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is not None and now >= self.expires_at:
            return "expired"
        if self.grace_until is not None:
            return "grace" if now < self.grace_until else "replaced"
        return "active"

    def live(self, now: float) -> bool:
        return self.status(now) in ("active", "grace")

    def api_key(self) -> ApiKey:
        """As requests are checked against it."""
        ends = [moment for moment in (self.expires_at, self.grace_until) if moment is not None]
        return ApiKey(
            id=self.id,
            tenant=self.tenant,
            digest=self.digest,
            expires_at=min(ends, default=None),
            models=frozenset(self.models) if self.models is not None else None,
            apis=frozenset(self.apis) if self.apis is not None else None,
        )
