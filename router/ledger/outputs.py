"""What the ledger's thread learns of answers: it looks at some, and compares those of late with those before.

Floor: an adapter. Two threads: the event loop asks whether one more may wait, the ledger's writer does the rest; each
counts what is its own, and `readings` is replaced as a whole, so no lock is needed.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from pathlib import Path

import msgspec

from policies.governance.answers import Findings
from policies.governance.drift import Drift, Kept, Key, Reading
from policies.governance.measures import values
from router.wire.draft import Draft
from router.wire.record import Ending

_log = logging.getLogger("promptlane.ledger")

MOST_WAITING = 256  # answers: some 64 kB each, so 16 MB
_READ_SECONDS = 30.0  # a fraction of the shortest slice; some 40 us for each measure of each model
_KEEP_SECONDS = 60.0  # a SIGKILL costs the distributions so much, and no record
_COMPLETE = Ending.COMPLETE.value
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(list[Kept]).decode


class Outputs:
    """Of one process. `file`: where distributions are kept over a restart; None: nowhere.

    `looked`: answers by what became of them, whole or in part, unreadable, or skipped as there was no time or no room.
    `readings`: by tenant, model and measure, as they were lately.
    """

    def __init__(self, file: Path | None = None, most: int = MOST_WAITING) -> None:
        self.looked: Counter[str] = Counter()
        self.readings: dict[Key, Reading] = {}
        self._drift = Drift()
        # Answers at which nobody looked, by their minute and all that is counted of them: many are alike.
        self._alike: dict[tuple[float, str, str, int | None, str | None], int] = {}
        self._file = file
        self._most = most
        self._taken = self._done = 0
        self._skipped = 0  # by the event loop
        self._read_at = self._kept_at = 0.0

    # -- for the event loop ------------------------------------------------------------------------------------------

    def takes(self) -> bool:
        """Whether one more may wait; then it is counted among them."""
        if self._taken - self._done >= self._most:
            self._skipped += 1
            return False
        self._taken += 1
        return True

    @property
    def skipped(self) -> int:
        """How many nobody looked at, though they were to be."""
        return self._skipped + self.looked["skipped"]

    # -- for the ledger's thread -------------------------------------------------------------------------------------

    def look(self, draft: Draft, key: bytes, *, in_time: bool) -> Findings | None:
        """At the answer of one that was taken; `in_time`: there is time for it."""
        self._done += 1
        if not in_time:
            draft.answered = None
            self.looked["skipped"] += 1
            return None
        found = draft.examine(key)
        self.looked["unreadable" if found is None else "whole" if found.whole else "part"] += 1
        return found

    def note(self, draft: Draft, found: Findings | None) -> None:
        """A finished request, and what was found in its answer if somebody looked. Counted are good answers of the
        model's own pool: another's are another model's, and of several choices there is no length of one."""
        record = draft.record
        if not draft.spec.output_fields or record.outcome != _COMPLETE or not record.tenant or not record.model:
            return
        if draft.most is not None or (record.detail is not None and "choices" in record.detail):
            return
        if found is None:
            minute = record.at // 60.0
            alike = (minute, record.tenant, record.model, record.completion_tokens, record.finish_reason)
            self._alike[alike] = self._alike.get(alike, 0) + 1
        else:
            measured = values(record.completion_tokens, record.finish_reason, found)
            self._drift.note(record.tenant, record.model, measured, record.at)

    def turn(self, now: float) -> None:
        """After each batch: counts it; from time to time reads the distributions, and keeps them. `now`: Unix
        seconds."""
        self._count()
        if abs(now - self._read_at) >= _READ_SECONDS:
            self.readings, self._read_at = self._drift.read(), now
        if abs(now - self._kept_at) >= _KEEP_SECONDS:
            self.keep()
            self._kept_at = now

    def _count(self) -> None:
        for (minute, tenant, model, tokens, finish), times in self._alike.items():
            self._drift.note(tenant, model, values(tokens, finish, None), minute * 60.0, times)
        self._alike.clear()

    def restore(self) -> None:
        """Goes on with what was kept; a file that is none is left behind, and said."""
        if self._file is None or not self._file.exists():
            return
        try:
            self._drift.restore(_decode(self._file.read_bytes()))
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            _log.warning(
                "distributions of answers begin anew: %s cannot be read (%s)", self._file, type(error).__name__
            )
        self.readings = self._drift.read()

    def keep(self) -> None:
        """Lost by a crash it does no harm, and on a full disk it is not written."""
        self._count()
        if self._file is None or not len(self._drift):
            return
        fresh = self._file.with_suffix(".new")
        with contextlib.suppress(OSError):
            fresh.write_bytes(_encode(self._drift.kept()))
            os.replace(fresh, self._file)
