"""Figures of an answer's text, by which it can be seen to be unusual."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("ledger_records", sa.Column("output", sa.JSON(none_as_null=True)))
