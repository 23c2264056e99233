"""Lines on standard error, for people or as JSON. No line ever holds a prompt, a key or a body.

Floor: an adapter. Who logs uses the standard library's loggers; structlog's processors make lines of what they say.
Whose request it is about stands in fields of their own (`extra={"request_id": …, "tenant": …}`). An exception may quote
what it failed on, so that of faults only the kind and the places in the code are written; what the operating system
says (`OSError`) is kept.
"""

from __future__ import annotations

import logging
import sys
import traceback
from datetime import UTC, datetime

from structlog.processors import JSONRenderer
from structlog.stdlib import ExtraAdder, ProcessorFormatter
from structlog.typing import EventDict, Processor

from router.server import QuietAbort

_CHATTY = ("httpx2", "httpcore2", "asyncio", "uvicorn.error", "opentelemetry")
# What a line may say beside its message.
FIELDS = ("request_id", "tenant")
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


def _exception(_: object, __: str, event: EventDict) -> EventDict:
    """A processor: by its kind and its places alone."""
    info = event.pop("exc_info", None)
    event.pop("stack_info", None)
    if isinstance(info, tuple):
        event["exception"] = described(info[1])
    return event


def _in_order(worker: int | None) -> Processor:
    """A processor: who said it and when, before what was said."""
    whose = {} if worker is None else {"worker": worker}

    def order(_: object, __: str, event: EventDict) -> EventDict:
        record: logging.LogRecord = event["_record"]
        return {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            **whose,
            "logger": record.name,
            "message": event.pop("event"),
            **event,
        }

    return order


def _as_text(_: object, __: str, event: EventDict) -> str:
    """A renderer: one line, and below it where a fault was."""
    at = datetime.fromisoformat(event["time"]).astimezone()
    whose = f" worker {event['worker']}" if "worker" in event else ""
    said = "".join(f" {name}={event[name]}" for name in FIELDS if name in event and event[name] not in event["message"])
    when = f"{at:%Y-%m-%d %H:%M:%S},{at.microsecond // 1000:03}"
    line = f"{when} {event['level'].upper()}{whose} {event['logger']}: {event['message']}{said}"
    return f"{line}\n{event['exception']}" if "exception" in event else line


class _Lines(ProcessorFormatter):
    """Of the library's processors and ours, in this order."""

    def __init__(self, renderer: Processor, worker: int | None) -> None:
        meta = ProcessorFormatter.remove_processors_meta
        super().__init__(processors=[ExtraAdder(FIELDS), _exception, _in_order(worker), meta, renderer])


class TextLines(_Lines):
    """For people."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__(_as_text, worker)


class JsonLines(_Lines):
    """For a log store: one object a line."""

    def __init__(self, worker: int | None = None) -> None:
        super().__init__(JSONRenderer(ensure_ascii=False), worker)
