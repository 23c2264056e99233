"""The tables as the program knows them; `migrations/` makes them so.

Floor: declarations only. Moments are Unix seconds: the same number in SQLite and PostgreSQL, and nothing to convert.
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    text,
)

HEAD = "0006"
"""The newest step of `migrations/`. Known here so that a database that is up to date needs no Alembic."""

# Names that a later step can refer to, on every database.
NAMING = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

metadata = MetaData(naming_convention=NAMING)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(128), primary_key=True),
    Column("tenant", String(63), nullable=False, index=True),
    Column("digest", LargeBinary(32), nullable=False, unique=True),  # SHA-256; the key itself is nowhere
    Column("label", String(200), nullable=False),
    Column("models", JSON(none_as_null=True)),
    Column("apis", JSON(none_as_null=True)),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("replaces", String(128)),
    Column("grace_until", Double),
)

# One row per subject that processes watch. `mark` is drawn anew by each change: a database restored from a copy may
# have a number again that a process has seen, but never a mark.
changes = Table(
    "changes",
    metadata,
    Column("subject", String(32), primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("mark", String(32), nullable=False),
)

# Which keys the last changes were of, by the counter's number; `mark` as the counter had it. A change that is of no key
# of the table has an id that no key has.
key_changes = Table(
    "key_changes",
    metadata,
    Column("number", BigInteger, nullable=False),
    Column("id", String(128), nullable=False),
    Column("mark", String(32), nullable=False),
    PrimaryKeyConstraint("number", "id", name="pk_key_changes"),
)

# One row per record, its columns in the order of `router.wire.record.Record`. Text has no bound here: what PostgreSQL
# refused as too long would stand before all that comes behind it.
ledger_records = Table(
    "ledger_records",
    metadata,
    Column("replica", String, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("kind", String, nullable=False),
    Column("at", Double, nullable=False),
    Column("tenant", String),
    Column("tier", String),
    Column("key", String),
    Column("request_id", String),
    Column("api", String),
    Column("model", String),
    Column("engine_model", String),
    Column("pool", String),
    Column("endpoint", String),
    Column("lane", String),
    Column("stream", Boolean, nullable=False),
    Column("outcome", String),
    Column("status", BigInteger, nullable=False),
    Column("error", String),
    Column("finish_reason", String),
    Column("prompt_tokens", BigInteger),
    Column("cached_tokens", BigInteger),
    Column("completion_tokens", BigInteger),
    Column("usage_from", String),
    Column("queue_seconds", Double),
    Column("first_byte_seconds", Double),
    Column("total_seconds", Double),
    Column("attempts", BigInteger, nullable=False),
    Column("resumes", BigInteger, nullable=False),
    Column("prefix_hash", String),
    Column("detail", JSON(none_as_null=True)),
    Column("engine_micro_seconds", BigInteger, nullable=False, server_default="0"),
    Column("cost_micro", BigInteger, nullable=False, server_default="0"),
    Column("parameters", JSON(none_as_null=True)),
    Column("prompt_hash", String),
    Column("system_fingerprint", String),
    Column("weights_digest", String),
    Column("output", JSON(none_as_null=True)),
    Column("previous", LargeBinary(32), nullable=False),
    Column("hash", LargeBinary(32), nullable=False),
    PrimaryKeyConstraint("replica", "sequence", name="pk_ledger_records"),
)
Index("ix_ledger_records_tenant_at", ledger_records.c.tenant, ledger_records.c.at)
Index("ix_ledger_records_at", ledger_records.c.at)
# Failovers and their like are few among many requests.
_EVENTS = text("kind <> 'request'")
Index(
    "ix_ledger_records_events", ledger_records.c.kind, ledger_records.c.at,
    sqlite_where=_EVENTS, postgresql_where=_EVENTS,
)  # fmt: skip

# What is here of each replica's chain: the records behind the cut, where older ones were deleted on purpose, up to the
# head. Both are sealed, so that who deletes records cannot move them along. `at`: the head's moment.
ledger_chains = Table(
    "ledger_chains",
    metadata,
    Column("replica", String, primary_key=True),
    Column("at", Double, nullable=False),
    Column("head_sequence", BigInteger, nullable=False),
    Column("head_hash", LargeBinary(32), nullable=False),
    Column("head_seal", LargeBinary(32), nullable=False),
    Column("cut_sequence", BigInteger, nullable=False),
    Column("cut_hash", LargeBinary(32), nullable=False),
    Column("cut_seal", LargeBinary(32), nullable=False),
)

# What the records of a day (UTC, counted from 1970-01-01) add up to; they change with the records, in one transaction,
# and stay when those are deleted. Unknown names are empty. Tokens are of requests that an engine has worked on.
usage_days = Table(
    "usage_days",
    metadata,
    Column("day", BigInteger, nullable=False),
    Column("tenant", String, nullable=False),
    Column("model", String, nullable=False),
    Column("pool", String, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("refused", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("engine_micro_seconds", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
    PrimaryKeyConstraint("day", "tenant", "model", "pool", name="pk_usage_days"),
)

# The same of records of kind `endpoint`: for how long engines were there and paid for, and what that cost.
endpoint_days = Table(
    "endpoint_days",
    metadata,
    Column("day", BigInteger, nullable=False),
    Column("pool", String, nullable=False),
    Column("endpoint", String, nullable=False),
    Column("role", String, nullable=False),
    Column("awake", BigInteger, nullable=False),
    Column("asleep", BigInteger, nullable=False),
    Column("absent", BigInteger, nullable=False),
    Column("engine_micro_seconds", BigInteger, nullable=False),
    Column("cost_micro", BigInteger, nullable=False),
    PrimaryKeyConstraint("day", "pool", "endpoint", "role", name="pk_endpoint_days"),
)
