"""What Alembic runs before it takes steps: on the connection that `migrate` gives it, inside its transaction.

Floor: a script of Alembic's, never imported by the program.
"""

from __future__ import annotations

from alembic import context

from router.database.migrate import VERSION_TABLE
from router.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,  # SQLite changes a table only by making another
)
context.run_migrations()
