"""The operator's own way to break an engine (`pools.*.drill_hook`), for drills that are real.

Floor: an adapter around processes. The command is the configuration's, never the request's. Of the environment it gets
what programs need to find themselves, and nothing of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Literal

from policies.drill import DrillFault
from policies.types import Endpoint
from router.errors import BadRequest
from router.hooks import KEPT_VARIABLES

HOOK_SECONDS = 60.0  # breaking an engine is one command; a hook that hangs must not keep an engine broken for ever


async def run_hook(hook: Sequence[str], action: Literal["begin", "end"], fault: DrillFault, endpoint: Endpoint) -> None:
    """Runs it to its end: `HOOK... begin|end FAULT NAME URL`. Raises BadRequest, for the operator, when it fails."""
    nothing = asyncio.subprocess.DEVNULL
    try:
        process = await asyncio.create_subprocess_exec(
            *(*hook, action, fault.value, endpoint.name, endpoint.url),
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            env={name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ},
            start_new_session=True,
        )
    except OSError as error:
        raise BadRequest(f"The drill hook {hook[0]} cannot be run: {error.strerror}") from None
    try:
        async with asyncio.timeout(HOOK_SECONDS):
            status = await process.wait()
    except TimeoutError:
        raise BadRequest(f"The drill hook took longer than {HOOK_SECONDS:g} s ({action}).") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    if status != 0:
        raise BadRequest(f"The drill hook ended with {status} ({action} {fault.value} {endpoint.name}).")
