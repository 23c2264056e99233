"""The tables as the program knows them; `migrations/` makes them so.

Floor: declarations only. Moments are Unix seconds: the same number in SQLite and PostgreSQL, and nothing to convert.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Double, LargeBinary, MetaData, String, Table

HEAD = "0001"
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
