"""Which parameters an answer was sampled by, of which prompt it is, and which weights gave it."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("ledger_records", sa.Column("parameters", sa.JSON(none_as_null=True)))
    for name in ("prompt_hash", "system_fingerprint", "weights_digest"):
        op.add_column("ledger_records", sa.Column(name, sa.String))
