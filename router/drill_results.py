"""What drills have shown: the last ones in memory, and in a file where one is configured.

Floor: an adapter around a file of JSON lines. It is bounded: the oldest lines go.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from pathlib import Path
from typing import Any

_log = logging.getLogger("promptlane.drill")

KEPT_IN_MEMORY = 100
KEPT_LINES = 1000  # drills of some years, and half a megabyte


class DrillResults:
    """`last`: in memory, oldest first."""

    def __init__(self) -> None:
        self.last: deque[dict[str, Any]] = deque(maxlen=KEPT_IN_MEMORY)
        self._writing = asyncio.Lock()

    async def keep(self, result: dict[str, Any], file: str | None) -> None:
        """A file that cannot be written is a line in the log: the drill has happened all the same."""
        self.last.append(result)
        if file is None:
            return
        try:
            async with self._writing:
                await asyncio.to_thread(_append, Path(file), json.dumps(result))
        except OSError as error:
            _log.error("state.drills_file %s cannot be written: %s", file, error.strerror)


def _append(file: Path, line: str) -> None:
    """Anew and renamed, so that whoever reads or crashes meanwhile finds the old file or the new one."""
    before = file.read_text().splitlines() if file.exists() else []
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text("\n".join([*before[1 - KEPT_LINES :], line]) + "\n")
    os.replace(fresh, file)
