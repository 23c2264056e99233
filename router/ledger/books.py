"""The ledger of a process: its folder, its two threads, and figures of them for metrics.

Floor: an adapter. Made and ended off the event loop, as both may wait for the disk.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from policies.ledger.backlog import OnFull
from policies.ledger.chain import fingerprint
from policies.ledger.retention import Retention
from router.ledger.folder import SpoolFolder, take_folder
from router.ledger.mover import Mover, shipped
from router.ledger.outputs import Outputs
from router.ledger.segments import recover
from router.ledger.shipper import ROOMY_BYTES, Shipper
from router.ledger.spool import Spool
from router.ledger.store import LedgerStore
from router.ledger.writer import Writer
from router.wire.draft import Draft
from router.wire.record import Record

_OUTPUTS = "outputs.json"  # beside the segments of the folder: distributions of answers, which go on after a restart

_log = logging.getLogger("promptlane.ledger")


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """As configured. `key`: what chains are made by, never shown; `max_spool_bytes` for this process."""

    spool: Path
    key: bytes = field(repr=False)
    max_spool_bytes: int
    on_full: OnFull
    retention: Retention
    stop_seconds: float = 5.0


class Ledger:
    """Use `add` and `accepts` from the event loop; `start` and `stop` block."""

    def __init__(self, settings: LedgerSettings, store: LedgerStore, wall_clock: Callable[[], float]) -> None:
        """Takes a folder and sets its files right. Raises OSError."""
        self.store = store
        self._settings = settings
        self._folder: SpoolFolder = take_folder(settings.spool, fingerprint(settings.key))
        path, key = self._folder.path, settings.key
        with contextlib.ExitStack() as undo:
            undo.callback(self._folder.release)
            found = recover(path, key)
            mark = max(found.mark, shipped(path, key), key=lambda mark: mark.sequence)
            self.spool = Spool(path, self.replica, key, mark, settings.max_spool_bytes)
            undo.pop_all()
        self._always_accepts = settings.on_full is OnFull.ALLOW
        self.intact = not found.damaged
        if found.cut:
            _log.warning("ledger %s: %d bytes of a torn end were cut off", self.replica, found.cut)
        if found.damaged:
            _log.error("ledger %s: %d records are not as they were written", self.replica, found.damaged)
        outputs = Outputs(path / _OUTPUTS)
        outputs.restore()
        self.writer = Writer(self.spool, key, settings.on_full, wall_clock, outputs=outputs)
        mover = Mover(path, key, store, lambda: self.spool.durable, self.spool.forget, self.spool.recent)
        roomy = settings.max_spool_bytes >= ROOMY_BYTES
        self.shipper = Shipper(mover, settings.spool, key, store, settings.retention, wall_clock, roomy=roomy)
        self.add = self.writer.add

    add: Callable[[Record | Draft], None]

    @property
    def replica(self) -> str:
        """What its chain is called."""
        return self._folder.replica

    @property
    def accepts(self) -> bool:
        """Whether requests may be answered now; False only by `on_full: refuse`."""
        return self._always_accepts or self.writer.accepts

    def start(self) -> None:
        """Begins to write. Raises DatabaseUnusable; a database that is away only delays."""
        self.shipper.prepare()
        self.writer.start()
        self.shipper.start()

    def stop(self) -> None:
        """Writes all that waits, moves what it can in the time it has, and lets go of the folder."""
        self.writer.stop(self._settings.stop_seconds)
        self.shipper.stop(self._settings.stop_seconds)
        if not (self.writer.running or self.shipper.running):  # else the end of the process lets go of it
            self._folder.release()
