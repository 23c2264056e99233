"""What reached this engine: the last requests, byte for byte, for tests of isolation.

Floor: pure. Bounded by number and by bytes, so that a load run with long prompts does not fill the memory.
"""

from __future__ import annotations

from collections import deque
from typing import Any

RECORDS = 1_000
RECORD_BYTES = 64 * 1024 * 1024


class Recorder:
    def __init__(self) -> None:
        self._records: deque[dict[str, Any]] = deque()
        self._bytes = 0

    def add(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes, at: float, began: float
    ) -> dict[str, Any]:
        """`headers` stay in order and with their repetitions; what is no UTF-8 is shown as \\xNN. `at`: Unix; `began`:
        the machine's monotonic seconds. Returns the record: who ends the request writes `ended` into it, and
        `told`, the usage that the answer has told its client."""
        record: dict[str, Any] = {
            "method": method,
            "path": path,
            "headers": [[name.decode("latin-1"), value.decode("latin-1")] for name, value in headers],
            "body": body.decode("utf-8", "backslashreplace"),
            "at": at,
            "began": began,
            "ended": None,
            "told": None,
        }
        self._records.append(record)
        self._bytes += len(record["body"])
        while len(self._records) > RECORDS or (self._bytes > RECORD_BYTES and len(self._records) > 1):
            self._bytes -= len(self._records.popleft()["body"])
        return record

    def all(self) -> list[dict[str, Any]]:
        return list(self._records)

    def take(self) -> list[dict[str, Any]]:
        """Those of requests that have ended; the others stay."""
        ended = [record for record in self._records if record["ended"] is not None]
        self._records = deque(record for record in self._records if record["ended"] is None)
        self._bytes = sum(len(record["body"]) for record in self._records)
        return ended

    def clear(self) -> None:
        self._records.clear()
        self._bytes = 0
