"""What every process of the gateway begins with: as many files as it may open, lines of a log, a loop.

Floor: an adapter over the operating system.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import resource
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any

from router.server import QuietAbort


def run(main: Coroutine[Any, Any, None]) -> None:
    """Runs it to its end, in the fastest loop that there is."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(main)


def raise_file_limit() -> int:
    """Lets the process open as many files as it may, and returns how many. A stream takes two, one to the client and
    one to the engine; the usual soft limit of 1,024 is for programs that still use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # some systems refuse "unlimited": what there was stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def configure_logging(level: str, style: str, worker: int | None = None) -> None:
    """Lines on standard error, for people or as JSON. No line ever holds a prompt, a key or a body. `worker`: its
    number, where several write to the same place."""
    handler = logging.StreamHandler(sys.stderr)
    whose = "" if worker is None else f" worker {worker}"
    text = logging.Formatter(f"%(asctime)s %(levelname)s{whose} %(name)s: %(message)s")
    handler.setFormatter(_JsonFormatter(worker) if style == "json" else text)
    handler.addFilter(QuietAbort())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx2", "httpcore2", "asyncio", "uvicorn.error"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


class _JsonFormatter(logging.Formatter):
    def __init__(self, worker: int | None) -> None:
        super().__init__()
        self._whose = {} if worker is None else {"worker": worker}

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            **self._whose,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:  # no wheel for this platform: slower, otherwise the same
        return asyncio.new_event_loop
    return uvloop.new_event_loop
