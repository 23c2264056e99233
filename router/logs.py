"""Lines on standard error, for people or as JSON. No line ever holds a prompt, a key or a body.

Floor: an adapter. An exception may quote what it failed on, so that of faults only the kind and the places in the code
are written; what the operating system says (`OSError`) is kept.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

from router.server import QuietAbort

_CHATTY = ("httpx2", "httpcore2", "asyncio", "uvicorn.error", "opentelemetry")
# Of causes of causes; an exception that is its own cause would never end.
_CHAIN = 8


def configure_logging(level: str, style: str, worker: int | None = None) -> None:
    """For the whole process. `style`: text or json; `worker`: its number, where several write to the same place."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(worker) if style == "json" else TextLines(worker))
    handler.addFilter(QuietAbort())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in _CHATTY:
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))


def described(error: BaseException | None) -> str:
    """An exception and its causes, the last first as Python has it, without what they quote."""
    parts: list[str] = []
    while error is not None and len(parts) < _CHAIN:
        where = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"{where}{_named(error)}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\ncaused:\n".join(reversed(parts))


def _named(error: BaseException) -> str:
    name = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    if isinstance(error, BaseExceptionGroup):
        return f"{name} of {', '.join(_named(one) for one in error.exceptions)}"
    return f"{name}: {error.strerror}" if isinstance(error, OSError) and error.strerror else name


class TextLines(logging.Formatter):
    """For people."""

    def __init__(self, worker: int | None = None) -> None:
        whose = "" if worker is None else f" worker {worker}"
        super().__init__(f"%(asctime)s %(levelname)s{whose} %(name)s: %(message)s")

    def formatException(self, ei: object) -> str:
        return described(ei[1]) if isinstance(ei, tuple) else ""


class JsonLines(logging.Formatter):
    """For a log store: one object a line."""

    def __init__(self, worker: int | None = None) -> None:
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
            line["exception"] = described(record.exc_info[1])
        return json.dumps(line, ensure_ascii=False)
