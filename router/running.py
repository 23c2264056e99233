"""What every process of the gateway begins with: as many files as it may open, and a loop; and in which form it runs.

Floor: an adapter over the operating system.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import resource
from collections.abc import Callable, Coroutine
from typing import Any


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end, in the fastest loop that there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def is_compiled() -> bool:
    """Whether the hot path is machine code here (deploy/README.md)."""
    found = importlib.util.find_spec("router.gateway")
    return found is not None and not str(found.origin).endswith(".py")


def raise_file_limit() -> int:
    """Lets the process open as many files as it may, and returns how many. A stream takes two, one to the client and
    one to the engine; the usual soft limit of 1,024 is for programs that still use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems refuse "unlimited": what there was stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: slower, otherwise the same
        return asyncio.new_event_loop
    return uvloop.new_event_loop
