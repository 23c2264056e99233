"""The thread that takes records from the queue to the disk: one write and one fsync for all of 0.4 seconds.

Floor: an adapter. The event loop only appends to a queue. What the disk refuses stays in the queue, in order, and is
tried again; when that is full, records are lost and counted, and a record of kind `gap` says so in the chain.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from policies.keyed_hash import KeyedHash
from policies.ledger.backlog import Backlog, Gap, OnFull, Trouble
from router.ledger.outputs import Outputs
from router.ledger.spool import Spool, SpoolFull
from router.secret import tenant_key
from router.wire.draft import Draft
from router.wire.record import Kind, Record

_log = logging.getLogger("promptlane.ledger")

# With a write of some milliseconds well within the second after which nothing may be lost. A shorter time writes
# through to the disk more often, which was a third of what a record costs.
FLUSH_SECONDS = 0.4
MOST_WAITING = 20_000  # records in memory while they cannot be written: about 20 MB
STUCK_SECONDS = 5.0  # a write that takes longer is no slow disk any more
LOOK_SECONDS = 0.02  # for which answers are looked at in one turn: a tenth of a core
_HASH_BYTES = 16  # of a prefix: no two have the same
_RETRY_SECONDS = 0.5
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_WORDS = {
    Trouble.SPOOL_FULL: "the spool has reached ledger.max_spool_bytes",
    Trouble.DISK_FULL: "the disk of ledger.spool_dir is full",
    Trouble.DISK_ERROR: "ledger.spool_dir cannot be written",
}


class Writer:
    """`clock`: monotonic seconds; `wall_clock`: Unix seconds; `most`: records that may wait in memory; `key`: of
    hashes."""

    def __init__(
        self,
        spool: Spool,
        key: bytes,
        rule: OnFull,
        wall_clock: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
        most: int = MOST_WAITING,
        outputs: Outputs | None = None,
    ) -> None:
        self.backlog = Backlog(rule, most, STUCK_SECONDS)
        self.written: Counter[str] = Counter()  # by kind
        self.failures: Counter[str] = Counter()  # writes, by trouble
        self.faults = 0  # of the program

        self._spool = spool
        self._key = key
        self._hash = KeyedHash(key).digest
        self._wall_clock = wall_clock
        self._clock = clock
        self._queue: deque[Record | Draft] = deque()
        self._pending: list[Record] = []  # taken from the queue and finished, and not on the disk yet
        self._tenant_keys: dict[str, bytes] = {}
        self.outputs = outputs if outputs is not None else Outputs()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ledger writer", daemon=True)

    # -- for the event loop ------------------------------------------------------------------------------------------

    def add(self, record: Record | Draft) -> None:
        """It will be on the disk soon. Never waits, never raises."""
        if self.backlog.takes(len(self._queue) + len(self._pending)):
            if isinstance(record, Draft) and record.answered is not None and not self.outputs.takes():
                record.answered = None
            self._queue.append(record)
        else:
            self.backlog.lose(record.at if isinstance(record, Record) else record.record.at)

    @property
    def accepts(self) -> bool:
        """Whether requests may be answered now."""
        return self.backlog.accepts(self.waiting, self._clock())

    @property
    def waiting(self) -> int:
        """Records that are in memory alone."""
        return len(self._queue) + len(self._pending)

    # -- for who has started it --------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """Writes what is left, as far as that takes no longer; blocks."""
        self._stopping.set()
        if self.running:
            self._thread.join(seconds)

    # -- the thread --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        wait = FLUSH_SECONDS
        while not self._stopping.wait(wait):
            wait = FLUSH_SECONDS if self._turn() else _RETRY_SECONDS
        self._turn()
        self.outputs.keep()
        self._spool.close()

    def _turn(self) -> bool:
        """Writes all that waits. False where that failed."""
        until = self._clock() + LOOK_SECONDS
        try:
            while self._pending or self._queue or self.backlog.lost_untold:
                self._finish(until)
                if not self._write():
                    return False
            self._tell()
        except Exception:  # the thread must not end with one odd record: all that follow would stay in memory
            _log.exception("writing records failed")
            self._dropped(len(self._pending[: self._spool.at_once]))
            del self._pending[: self._spool.at_once]
        return True

    def _tell(self) -> None:
        try:
            self.outputs.turn(self._wall_clock())
        except Exception:  # no record hangs on it
            _log.exception("reading the distributions of answers failed")
            self.faults += 1

    def _finish(self, until: float) -> None:
        """All of the queue, also while nothing can be written: what a draft holds of a body is let go."""
        queue, pending = self._queue, self._pending
        while queue:
            one = queue.popleft()
            try:
                record = self._finished(one, until) if isinstance(one, Draft) else one
                if record.prefix_hash is not None:  # plain so far: who has no key must not be able to make it
                    record.prefix_hash = self._hash(record.prefix_hash.encode())[:_HASH_BYTES].hex()
                pending.append(record)
            except Exception:  # as in `_turn`
                _log.exception("finishing a record failed")
                self._dropped(1)

    def _finished(self, draft: Draft, until: float) -> Record:
        """Records come first: an answer is looked at only within a share of the thread's time. `until`: monotonic."""
        tenant = draft.record.tenant or ""
        key = self._tenant_keys.get(tenant)
        if key is None:
            key = self._tenant_keys[tenant] = tenant_key(self._key, tenant)
        self._learn(draft, key, until)
        return draft.finish(key)

    def _learn(self, draft: Draft, key: bytes, until: float) -> None:
        try:
            found = None
            if draft.answered is not None:
                found = self.outputs.look(draft, key, in_time=self._clock() < until)
            self.outputs.note(draft, found)
        except Exception:  # its record is worth more than what an odd answer could tell
            _log.exception("looking at an answer failed")
            self.faults += 1

    def _dropped(self, records: int) -> None:
        self.faults += 1
        self.backlog.drop(records)

    def _write(self) -> bool:
        batch = self._pending[: self._spool.at_once]
        # Behind what waited when it began.
        gap = self.backlog.gap(self._wall_clock()) if len(batch) == len(self._pending) and not self._queue else None
        records = [*batch, _gap_record(gap)] if gap is not None else batch
        self.backlog.writing_since = self._clock()
        try:
            self._spool.append(records)
        except SpoolFull:
            return self._failed(Trouble.SPOOL_FULL, "")
        except OSError as error:
            full = error.errno in _DISK_FULL
            return self._failed(Trouble.DISK_FULL if full else Trouble.DISK_ERROR, error.strerror or str(error))
        finally:
            self.backlog.writing_since = None
        self.written.update([record.kind for record in records])
        del self._pending[: self._spool.at_once]
        if gap is not None:
            self.backlog.told(gap)
        self._well(gap)
        return True

    def _failed(self, trouble: Trouble, reason: str) -> bool:
        """Counted each time, said once."""
        self.failures[trouble.value] += 1
        if self.backlog.trouble is not trouble:
            self.backlog.trouble = trouble
            follows = (
                f"requests are answered, and after {self.backlog.most} of them records are lost"
                if self.backlog.rule is OnFull.ALLOW
                else "requests are refused"
            )
            detail = f" ({reason})" if reason else ""
            _log.error("no record can be written: %s%s; until it can, %s", _WORDS[trouble], detail, follows)
        return False

    def _well(self, gap: Gap | None) -> None:
        if self.backlog.trouble is not None:
            self.backlog.trouble = None
            _log.warning("records are written again")
        if gap is not None:
            _log.error("%d records were lost; the chain has a record of kind gap in their place", gap.lost)


def _gap_record(gap: Gap) -> Record:
    detail = {"lost": gap.lost, "since": gap.since, "until": gap.until}
    return Record("", 0, Kind.GAP.value, gap.until, detail=detail)
