"""The operator's own way to break an engine (`pools.*.drill_hook`), for drills that are real.

Floor: an adapter around `router.hooks`. The command is the configuration's, never the request's. Of the environment it
gets what programs need to find themselves, and nothing of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from policies.drill import DrillFault
from policies.types import Endpoint
from router.errors import BadRequest
from router.hooks import HookFailed, execute, kept_variables

HOOK_SECONDS = 60.0  # breaking an engine is one command; a hook that hangs must not keep an engine broken for ever


async def run_hook(hook: Sequence[str], action: Literal["begin", "end"], fault: DrillFault, endpoint: Endpoint) -> None:
    """Runs it to its end: `HOOK... begin|end FAULT NAME URL`. Raises BadRequest, for the operator, when it fails."""
    try:
        await execute((*hook, action, fault.value, endpoint.name, endpoint.url), HOOK_SECONDS, kept_variables())
    except HookFailed as error:
        raise BadRequest(f"The drill hook failed ({action} {fault.value} {endpoint.name}): {error}") from None
