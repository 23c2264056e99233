"""Which keys each change was of, so that processes read those alone."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    log = op.create_table(
        "key_changes",
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("mark", sa.String(32), nullable=False),
        sa.PrimaryKeyConstraint("number", "id", name="pk_key_changes"),
    )
    # The last change before has no keys here: what comes after it can be read without what came before.
    changes = sa.table("changes", sa.column("subject"), sa.column("number"), sa.column("mark"))
    last = sa.select(changes.c.number, sa.literal(""), changes.c.mark).where(changes.c.subject == "keys")
    op.execute(sa.insert(log).from_select(["number", "id", "mark"], last))
