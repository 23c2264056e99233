"""The thread that moves records from the spool to the database, and deletes there what is older than it should be.

Floor: an adapter. A database that is away only delays: it is asked again after 0.5 s, then ever more seldom up to 30 s.
Folders that processes have left behind which are no more are emptied, too.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from policies.ledger.chain import fingerprint
from policies.ledger.retention import Retention
from router.database.errors import DatabaseAway, DatabaseUnusable
from router.ledger.folder import folders, lock_folder
from router.ledger.mover import Mover
from router.ledger.segments import recover
from router.ledger.store import Forked, LedgerStore

_log = logging.getLogger("promptlane.ledger")

# Between two looks for new records: a transaction costs as much as some hundred records in it. Where there were many at
# once, more are waited for, as long as the spool has room for them all the while.
_LOOK_SECONDS, _BUSY_SECONDS = 1.0, 5.0
_MANY = 100
ROOMY_BYTES = 64 * 1024 * 1024  # of a spool, in which 15,000 records a second can wait for so long
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
_TIDY_SECONDS = 30.0  # between two looks for old records, and for folders left behind


class Shipper:
    """`mover`: of the own folder; `root`: where all folders are; `roomy`: whether much may wait there. `clock`:
    monotonic; `wall_clock`: Unix seconds."""

    def __init__(
        self,
        mover: Mover,
        root: Path,
        key: bytes,
        store: LedgerStore,
        retention: Retention,
        wall_clock: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        *,
        roomy: bool = False,
    ) -> None:
        self.database_errors = 0
        self.faults = 0  # of the program
        self.pruned = 0
        self.begun_anew = False  # the database knows nothing of what was moved to one before
        self._mover = mover
        self._root = root
        self._key = key
        self._store = store
        self._retention = retention
        self._wall_clock = wall_clock
        self._clock = clock
        self._roomy = roomy
        self._tidied = -_TIDY_SECONDS
        self._ready = False
        self._trouble: str | None = None
        self._stopping = threading.Event()

        self._thread = threading.Thread(target=self._run, name="ledger shipper", daemon=True)

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Moves what is left, as far as that takes no longer and the database answers; blocks."""
        self._stopping.set()
        if self.running:
            self._thread.join(seconds)
        self._store.database.close()

    def prepare(self) -> None:
        """Makes the database fit the program; one that is away is only told. Raises DatabaseUnusable."""
        try:
            self._prepared()
        except DatabaseAway as error:
            self._failed(str(error))

    @property
    def lag(self) -> float:
        """For how long the oldest record has been on its way to the database, in seconds; 0 where all are there."""
        oldest = self._mover.oldest
        return max(0.0, self._wall_clock() - oldest) if oldest is not None else 0.0

    @property
    def damaged(self) -> int:
        """Lines of the spool that were no records any more."""
        return self._mover.damaged

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait = 0.0
        while not self._stopping.wait(wait):
            wait = self._turn(wait)
        self._turn(0.0, last=True)

    def _turn(self, waited: float, *, last: bool = False) -> float:
        """Moves all that there is; how long to wait before the next time."""
        try:
            self._mover.look()
            self._prepared()
            many = 0
            while moved := self._mover.move():
                many += moved
                self._mover.look()
                self._well()
            if not last and (self._trouble is not None or self._clock() - self._tidied >= _TIDY_SECONDS):
                self._tidy()
                self._well()
        except (DatabaseAway, DatabaseUnusable, Forked, OSError) as error:
            self._failed(str(error))
        except Exception:  # the thread must not end: nothing would leave the disk any more
            _log.exception("moving records to the database failed")
            self.faults += 1
            self._trouble = "a fault of the gateway"
        else:
            return _BUSY_SECONDS if self._roomy and many >= _MANY else _LOOK_SECONDS
        return min(_LONGEST_WAIT, max(_FIRST_WAIT, 2 * waited))

    def _prepared(self) -> None:
        """Once it has been well, a database is never made anew: one that lost its tables would begin empty."""
        if not self._ready:
            self._store.prepare()
            self._miss()
            self._ready = True

    def _miss(self) -> None:
        """Says so where the database is not the one that had the records so far: a new file, or another's."""
        moved = self._mover.moved
        if moved and not self._store.knows(self._mover.chain):
            self.begun_anew = True
            _log.warning(
                "%s has none of the %d records of chain %s that were moved to a database before: it is new or another. "
                "If that was not meant, stop the gateway and put the old database back",
                self._store.database, moved, self._mover.chain,
            )  # fmt: skip

    def _tidy(self) -> None:
        self._tidied = self._clock()
        while not self._stopping.is_set() and (gone := self._store.prune(self._retention, self._wall_clock())):
            self.pruned += gone
        for mover in self._left_behind():
            while mover.move() and not self._stopping.is_set():
                pass

    def _left_behind(self) -> Iterator[Mover]:
        for path in folders(self._root):
            found = lock_folder(path)
            if found is None:  # its process lives: our own, for one
                continue
            try:
                if path.name.startswith(f"{fingerprint(self._key)}-"):
                    recover(path, self._key)
                yield Mover(path, self._key, self._store)
            finally:
                found.release()

    def _well(self) -> None:
        if self._trouble is not None:
            _log.warning("the database takes records again")
            self._trouble = None

    def _failed(self, reason: str) -> None:
        """Counted each time, said once."""
        self.database_errors += 1
        if self._trouble is None:
            _log.error("records cannot be moved to the database (%s): they wait in the spool", reason)
            self._trouble = reason
