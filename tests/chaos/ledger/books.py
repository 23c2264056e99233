"""What the product says of its records: the rows themselves, and what its commands print of them.

Floor: tests only; blocks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from router.database.engine import Database
from router.database.errors import DatabaseAway
from router.ledger.store import LedgerStore, Wanted
from router.wire.record import Record
from tests.chaos.ledger.installation import SECRET, Installation
from tests.e2e.stack import ROOT

COMMAND_SECONDS = 120.0
_MOST = 1_000_000
_SINCE = "2020-01-01"


class Books:
    """Of one installation."""

    def __init__(self, world: Installation) -> None:
        self._world = world

    def records(self, *kinds: str) -> list[Record]:
        """All of these kinds. [] where the database does not answer."""
        store = LedgerStore(Database(self._world.url, 20.0), b"")
        try:
            return [record for kind in kinds for record in store.find(Wanted(kind=kind), _MOST)]
        except DatabaseAway:
            return []
        finally:
            store.database.close()

    def command(self, *words: str) -> tuple[int, str]:
        """The status of `promptlane …`, and what it prints."""
        argv = [sys.executable, "-m", "router.cli", *words, "--config", str(self._world.config_file)]
        env = {**os.environ, "PROMPTLANE_SECRET": SECRET}
        ran = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS)
        return ran.returncode, ran.stdout + ran.stderr

    def usage(self, *words: str) -> dict[str, Any]:
        """What `promptlane usage` says of each day."""
        status, text = self.command("usage", "--from", _SINCE, "--by", "day", "--format", "json", *words)
        if status:
            raise AssertionError(f"promptlane usage ended with {status}: {text}")
        found: dict[str, Any] = json.loads(text)
        return found
