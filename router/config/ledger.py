"""The section `ledger`: records of finished requests and of events.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt, Le
from pydantic import Field

from policies.ledger.backlog import OnFull
from router.config.section import Section
from router.config.types import NO_BOOL, Count, FileName

_LEAST_SPOOL = 1024 * 1024  # bytes: a few batches, below which nothing could be written
_LONGEST = 36_500.0  # days


class LedgerConfig(Section):
    enabled: bool | None = Field(
        default=None,
        description="Whether a record is kept of every finished request, failover, drill and of endpoints' time; null: "
        "where state.ledger_url is given. Without a URL: sqlite:///promptlane.db.",
    )
    spool_dir: FileName = Field(
        default="promptlane.spool",
        description="Folder on a local disk where records wait for the database; each process has one of its own in "
        "it. Made if missing.",
    )
    max_spool_bytes: Annotated[int, NO_BOOL, Ge(_LEAST_SPOOL), Le(2**40)] = Field(
        default=1024 * 1024 * 1024, description="Most bytes that may wait there, for each process."
    )
    on_full: OnFull = Field(
        default=OnFull.ALLOW,
        description="When records can be written nowhere, as the spool or its disk is full: answer without (allow), "
        "and leave a record of how many are missing, or answer 503 (refuse).",
    )
    retention_days: Annotated[float, NO_BOOL, Gt(0), Le(_LONGEST)] | None = Field(
        default=400.0, description="Days after which records are deleted from the database; null: never."
    )
    max_rows: Count | None = Field(
        default=None, description="Most records in the database; beyond, the oldest are deleted. null: no bound."
    )
