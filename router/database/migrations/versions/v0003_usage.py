"""What requests and endpoints cost, and what records add up to each day: those that are there already, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_ADD_UP = """
insert into usage_days
select {day}, coalesce(tenant, ''), coalesce(model, ''), coalesce(pool, ''), count(*),
  sum(case when outcome in ('failed', 'interrupted') then 1 else 0 end),
  sum(case when outcome = 'refused' then 1 else 0 end),
  sum(case when usage_from = 'engine' then coalesce(prompt_tokens, 0) else 0 end),
  sum(case when usage_from = 'engine' then coalesce(cached_tokens, 0) else 0 end),
  sum(case when usage_from = 'engine' then coalesce(completion_tokens, 0) else 0 end), 0, 0
from ledger_records where kind = 'request' group by 1, 2, 3, 4
"""
_DAY = {"sqlite": "cast(at / 86400 as integer)", "postgresql": "cast(floor(at / 86400) as bigint)"}


def upgrade() -> None:
    for name in ("engine_micro_seconds", "cost_micro"):
        op.add_column("ledger_records", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.create_table(
        "usage_days",
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.String, nullable=False),
        sa.Column("model", sa.String, nullable=False),
        sa.Column("pool", sa.String, nullable=False),
        sa.Column("requests", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("engine_micro_seconds", sa.BigInteger, nullable=False),
        sa.Column("cost_micro", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "tenant", "model", "pool", name="pk_usage_days"),
    )
    op.create_table(
        "endpoint_days",
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("pool", sa.String, nullable=False),
        sa.Column("endpoint", sa.String, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        sa.Column("awake", sa.BigInteger, nullable=False),
        sa.Column("asleep", sa.BigInteger, nullable=False),
        sa.Column("absent", sa.BigInteger, nullable=False),
        sa.Column("engine_micro_seconds", sa.BigInteger, nullable=False),
        sa.Column("cost_micro", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("day", "pool", "endpoint", "role", name="pk_endpoint_days"),
    )
    op.execute(_ADD_UP.format(day=_DAY[op.get_bind().dialect.name]))
