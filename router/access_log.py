"""The access log: one JSON object a line for each request, written by a thread of its own.

Floor: an adapter; the event loop only appends to a queue. A disk or a reader that is slow costs lines, never a request:
what does not fit into the bound is dropped and counted. Nothing of it was ever text of a prompt, an answer or a key.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from select import PIPE_BUF

import msgspec
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from router.calls import Call

_log = logging.getLogger("promptlane.access")
# How long a line may wait to be written with others (seconds): a kill loses no more than that.
_EVERY_SECONDS = 0.2
# Lines that wait, about 500 bytes each: some seconds of a busy process.
_MOST_WAITING = 20_000
# What the last lines get at the end of the process (seconds); a reader that is gone must not hold it up.
_LAST_SECONDS = 2.0
STDOUT = "-"

ACCESS_COUNTERS = {
    "promptlane_access_log_lines": (
        ("result",),
        "Lines of the access log (result=written; dropped: too many waited; failed: they could not be written).",
    ),
}


class Line(msgspec.Struct, omit_defaults=True, gc=False):
    """What is known of a request at its end. `at`: Unix seconds; `client`: an address; `key`: its id."""

    at: float
    request_id: str
    client: str
    api: str
    status: int
    total_seconds: float
    method: str = "POST"
    trace_id: str | None = None
    tenant: str | None = None
    key: str | None = None
    model: str | None = None
    lane: str | None = None
    pool: str | None = None
    endpoint: str | None = None
    stream: bool = False
    error: str | None = None
    finish_reason: str | None = None
    attempts: int = 0
    resumes: int = 0
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    queue_seconds: float | None = None
    first_byte_seconds: float | None = None
    cache: str | None = None


def line_of(call: Call, client: str, wall: float, now: float) -> Line:
    """Of a finished request. `client`: its address; `wall`: Unix seconds, `now`: monotonic seconds."""
    request = call.measured.request if call.measured is not None else None
    ticket, usage, begun = call.ticket, call.usage, call.first_byte_at
    pool = call.degraded.pool.name if call.degraded is not None else call.model.pool.name if call.model else None
    return Line(
        at=wall,
        request_id=call.id,
        client=client,
        api=call.spec.name,
        status=call.status,
        trace_id=call.trace.id if call.trace is not None else None,
        total_seconds=now - call.arrived_at,
        tenant=call.tenant.id if call.tenant is not None else None,
        key=call.key or None,
        model=call.model.route.name if call.model is not None else None,
        lane=request.lane.value if request is not None else None,
        pool=pool,
        endpoint=ticket.endpoint if ticket is not None else None,
        stream=call.streams,
        error=call.error_code,
        finish_reason=call.finish_reason,
        attempts=call.attempts,
        resumes=call.resumes,
        prompt_tokens=usage.prompt_tokens if usage is not None else None,
        cached_tokens=usage.cached_tokens if usage is not None else None,
        completion_tokens=usage.completion_tokens if usage is not None else None,
        queue_seconds=ticket.queued_seconds if ticket is not None else None,
        first_byte_seconds=begun - call.arrived_at if begun is not None else None,
        cache=call.cache.result if call.cache is not None else None,
    )


def encoded(line: Line) -> bytes:
    """As it is written, with a readable time first."""
    fields = msgspec.to_builtins(line)
    at = datetime.fromtimestamp(fields.pop("at"), UTC).isoformat(timespec="milliseconds")
    rounded = {name: round(value, 6) if isinstance(value, float) else value for name, value in fields.items()}
    return msgspec.json.encode({"time": at, **rounded}) + b"\n"


def _blocks(lines: Iterable[Line]) -> Iterator[list[bytes]]:
    """As many at once as a pipe takes whole: other workers write to the same."""
    block: list[bytes] = []
    size = 0
    for line in map(encoded, lines):
        if block and size + len(line) > PIPE_BUF:
            yield block
            block, size = [], 0
        block.append(line)
        size += len(line)
    if block:
        yield block


class AccessLog(Collector):
    """To the file `path`, which may be moved away meanwhile (as logrotate does), or to standard output (`-`)."""

    def __init__(self, path: str, most_waiting: int = _MOST_WAITING) -> None:
        self._path = path
        self._most = most_waiting
        self._waiting: deque[Line] = deque()
        self._file: int | None = None
        self._torn = False  # a line was begun that a full disk did not let end
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self.counts = {"written": 0, "dropped": 0, "failed": 0}

    def open(self) -> None:
        """Raises OSError where the file cannot be written."""
        self._reopen()
        self._thread.start()

    @property
    def add(self) -> Callable[[Line], None]:
        """Takes a line; never waits."""
        return self._add

    def _add(self, line: Line) -> None:
        if len(self._waiting) < self._most:
            self._waiting.append(line)
        else:
            self.counts["dropped"] += 1

    def stop(self) -> None:
        """Writes what waits, for a moment at most."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_LAST_SECONDS)

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        well = True
        while not self._stopping.wait(_EVERY_SECONDS):
            well = self._write(well)
        self._write(well)

    def _write(self, well: bool) -> bool:
        """Whether the lines that waited are out; says so in the log when that has changed."""
        lines = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not lines:
            return well
        left = len(lines)
        try:
            self._reopen()
            for block in _blocks(lines):
                self._out(b"".join(block))
                self.counts["written"] += len(block)
                left -= len(block)
        except OSError as error:
            self.counts["failed"] += left
            if well:
                _log.error("the access log cannot be written (%s); its lines are lost", error.strerror)
            return False
        if not well:
            _log.warning("the access log is written again")
        return True

    def _out(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101  # opened before it is written
        rest = b"\n" + data if self._torn else data
        while rest:
            rest = rest[os.write(self._file, rest) :]
            self._torn = bool(rest)

    def _reopen(self) -> None:
        """Where the file of this name is no more the one that is open, or none is."""
        if self._path == STDOUT:
            self._file = sys.stdout.fileno()
            return
        if self._file is not None:
            try:
                if os.path.samestat(os.fstat(self._file), os.stat(self._path)):
                    return
            except FileNotFoundError:
                pass
            os.close(self._file)
            self._file = None
        Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)

    # -- metrics -----------------------------------------------------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        for name, (labels, text) in ACCESS_COUNTERS.items():
            family = CounterMetricFamily(name, text, labels=labels)
            for result, count in self.counts.items():
                family.add_metric((result,), count)
            yield family

    def describe(self) -> Iterator[Metric]:
        return iter(())
