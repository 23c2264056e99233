"""When a tenant that is refused hundreds of times a second hears of it: soon, but not at once.

Floor: `policies`, pure. A refusal costs about as much CPU as any small request, and a client that asks again at once
after each makes as many as the machine can: at the expense of every other tenant. Up to a rate refusals go out at
once; beyond it each waits for its turn at that rate, `LONGEST_SECONDS` at most, so that a client's own loop is slowed.
The rate is the virtual scheduling algorithm of ITU-T I.371 (GCRA).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PER_SECOND: Final = 50.0
"""Refusals of one tenant by one process that cost it and others nothing to speak of: some 2 % of a core."""
BURST: Final = 50
"""So many at once go out at once: whoever starts a batch of requests hears of all refusals without a pause."""
LONGEST_SECONDS: Final = 1.0
"""Far below what clients wait for an answer, and below what most refusals ask them to wait."""
HELD_BYTES: Final = 16 * 2**20
HELD_REQUESTS: Final = 1_000
"""What may wait of one tenant, by bodies and by number: whoever comes then is refused at once, as memory is dearer."""


class RefusalPace:
    """The refusals of one tenant by one process. `held`: requests that wait."""

    __slots__ = ("_bytes", "_next", "held")

    def __init__(self) -> None:
        self._next = 0.0
        self.held = 0
        self._bytes = 0

    def delay(self, now: float, size: int) -> float:
        """Seconds that the refusal of a body of `size` bytes is to wait, 0 for none. `now` in monotonic seconds."""
        turn = max(self._next, now - (BURST - 1) / PER_SECOND)
        if turn - now <= LONGEST_SECONDS:
            self._next = turn + 1 / PER_SECOND
        if self.held >= HELD_REQUESTS or self._bytes + size > HELD_BYTES:
            return 0.0
        return min(max(0.0, turn - now), LONGEST_SECONDS)

    @contextmanager
    def holding(self, size: int) -> Iterator[None]:
        """While a request with a body of `size` bytes waits."""
        self.held += 1
        self._bytes += size
        try:
            yield
        finally:
            self.held -= 1
            self._bytes -= size
