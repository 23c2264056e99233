"""The section `keys`: API keys that are made, revoked and rotated while the gateway runs.

Floor: keys only; a field's type, bounds, default and description are all there is to say of it. Times are seconds.
"""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le
from pydantic import Field

from router.config.section import Section
from router.config.types import DAY, NO_BOOL, Seconds

LONGEST_GRACE = 90 * DAY  # a key that is to live on for longer was not meant to be rotated
_LEAST_KEPT = 10.0  # seconds: less than a few looks, and one that is late would lock everybody out


class KeysConfig(Section):
    at_run_time: bool | None = Field(
        default=None,
        description="Whether keys are also kept in the database, by `promptlane keys` and /admin/keys; null: where "
        "state.ledger_url is given. Without a URL: sqlite:///promptlane.db.",
    )
    look_seconds: Seconds = Field(
        default=1.0, description="Seconds between two looks for keys that were changed elsewhere."
    )
    rotation_grace: Annotated[float, NO_BOOL, Ge(0), Le(LONGEST_GRACE)] = Field(
        default=DAY, description="Seconds for which a key that was rotated stays valid beside the new one."
    )
    keep_seconds: Annotated[float, NO_BOOL, Ge(_LEAST_KEPT)] | None = Field(
        default=None,
        description="Seconds for which known keys stay valid while the database is away; null: until it is back.",
    )
