"""The ledger: records of requests and events, and what is here of each replica's chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "ledger_records",
        sa.Column("replica", sa.String, nullable=False),
        sa.Column("sequence", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("tenant", sa.String),
        sa.Column("tier", sa.String),
        sa.Column("key", sa.String),
        sa.Column("request_id", sa.String),
        sa.Column("api", sa.String),
        sa.Column("model", sa.String),
        sa.Column("engine_model", sa.String),
        sa.Column("pool", sa.String),
        sa.Column("endpoint", sa.String),
        sa.Column("lane", sa.String),
        sa.Column("stream", sa.Boolean, nullable=False),
        sa.Column("outcome", sa.String),
        sa.Column("status", sa.BigInteger, nullable=False),
        sa.Column("error", sa.String),
        sa.Column("finish_reason", sa.String),
        sa.Column("prompt_tokens", sa.BigInteger),
        sa.Column("cached_tokens", sa.BigInteger),
        sa.Column("completion_tokens", sa.BigInteger),
        sa.Column("usage_from", sa.String),
        sa.Column("queue_seconds", sa.Double),
        sa.Column("first_byte_seconds", sa.Double),
        sa.Column("total_seconds", sa.Double),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("resumes", sa.BigInteger, nullable=False),
        sa.Column("prefix_hash", sa.String),
        sa.Column("detail", sa.JSON(none_as_null=True)),
        sa.Column("previous", sa.LargeBinary(32), nullable=False),
        sa.Column("hash", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("replica", "sequence", name="pk_ledger_records"),
    )
    op.create_index("ix_ledger_records_tenant_at", "ledger_records", ["tenant", "at"])
    op.create_index("ix_ledger_records_at", "ledger_records", ["at"])
    events = sa.text("kind <> 'request'")
    op.create_index(
        "ix_ledger_records_events", "ledger_records", ["kind", "at"], sqlite_where=events, postgresql_where=events
    )
    op.create_table(
        "ledger_chains",
        sa.Column("replica", sa.String, nullable=False),
        sa.Column("at", sa.Double, nullable=False),
        sa.Column("head_sequence", sa.BigInteger, nullable=False),
        sa.Column("head_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("head_seal", sa.LargeBinary(32), nullable=False),
        sa.Column("cut_sequence", sa.BigInteger, nullable=False),
        sa.Column("cut_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("cut_seal", sa.LargeBinary(32), nullable=False),
        sa.PrimaryKeyConstraint("replica", name="pk_ledger_chains"),
    )
