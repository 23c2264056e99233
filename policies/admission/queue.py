"""The waiting requests of a pool, kept in order.

Floor: `policies`, pure. Each tenant and lane has a line of its own, sorted by a key that never changes; what does
change for all of a line at once (how far its tenant is ahead of its share, what its lane may use now) is added when the
lines are merged. So a pass over thousands of waiting requests looks at a window of them only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from itertools import count, islice
from typing import NamedTuple

from policies.admission.order import ShortestPrefillFirst
from policies.endpoint_state import EndpointState
from policies.types import Lane
from policies.view import View
from policies.waiting import Waiting


class Entry(NamedTuple):
    """A place in a line. `key`: standing + own prefill as predicted on arrival; `number` tells equals apart."""

    key: float
    number: int
    standing: float
    waiting: Waiting


# Seconds that are added to all keys of a tenant's lane now; None leaves its requests out of the pass.
Offset = Callable[[str, Sequence[Entry]], float | None]


class Queue:
    """Requests by `order`, the next one first. `waiting`: how many there are of each lane."""

    def __init__(self, order: ShortestPrefillFirst) -> None:
        self._order = order
        self._lines: dict[tuple[str, Lane], list[Entry]] = {}
        self._entries: dict[int, Entry] = {}  # by identity: clients may send the same request id twice at once
        self._numbers = count()
        self.waiting = dict.fromkeys(Lane, 0)
        self.retries: dict[int, Waiting] = {}  # those that have failed at an endpoint, by identity

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Waiting]:
        """In order of arrival."""
        return (entry.waiting for entry in self._entries.values())

    def has_line(self, tenant: str, lanes: Sequence[Lane]) -> bool:
        """Whether a request of the tenant waits in one of these lanes."""
        return any((tenant, lane) in self._lines for lane in lanes)

    def add(self, waiting: Waiting, states: Sequence[EndpointState]) -> int:
        """A request begins to wait. Returns how many stand before it, tenants' shares and lanes' ceilings apart."""
        request = waiting.request
        waiting.predict(states, tuple([state.index.version for state in states]), range(len(states)))
        standing = self._order.standing(request)
        entry = Entry(standing + waiting.least, next(self._numbers), standing, waiting)
        ahead = sum([bisect_left(line, entry) for line in self._lines.values()])
        self._entries[id(waiting)] = entry
        insort(self._lines.setdefault((request.tenant, request.lane), []), entry)
        self.waiting[request.lane] += 1
        if waiting.excluded:
            self.retries[id(waiting)] = waiting
        return ahead

    def remove(self, waiting: Waiting) -> bool:
        """The request waits no longer; False when it did not."""
        entry = self._entries.pop(id(waiting), None)
        if entry is None:
            return False
        self.retries.pop(id(waiting), None)
        name = (waiting.request.tenant, waiting.request.lane)
        line = self._lines[name]
        del line[bisect_left(line, entry)]
        if not line:
            del self._lines[name]
        self.waiting[waiting.request.lane] -= 1
        return True

    def last_of_worse(self, lane: Lane, tier_priority: int) -> Waiting | None:
        """Of the lane's requests of tiers behind this one: of the worst tier the one that would go last."""
        lasts = [line[-1] for (_, one), line in self._lines.items() if one is lane]
        worse = [entry for entry in lasts if entry.waiting.request.tier_priority > tier_priority]
        last = max(worse, key=lambda entry: (entry.waiting.request.tier_priority, entry.key), default=None)
        return None if last is None else last.waiting

    def soonest(self, count: int) -> Iterator[Waiting]:
        """So many that hardly go last: by their keys, tenants' shares and lanes' ceilings apart."""
        return (entry.waiting for entry in islice(merge(*self._lines.values()), count))

    def next(self, view: View, window: int, offset: Offset | None = None) -> Sequence[Waiting]:
        """At most `window` requests, the next one first, own prefills predicted anew.

        Which of more than `window` are looked at is decided by the predictions made on their arrival: matching every
        prompt of a long queue with every endpoint would cost more than the order gains.
        """
        keyed, versions, columns = [], view.versions, view.open
        for added, entry in self._first(window, offset):
            waiting = entry.waiting
            if waiting.versions is not versions:
                view.refresh(waiting)
            keyed.append((added + entry.standing + waiting.least_own(columns), entry.number, waiting))
        keyed.sort()  # no two have the same number
        return [waiting for _, _, waiting in keyed]

    def _first(self, window: int, offset: Offset | None) -> list[tuple[float, Entry]]:
        lines = []
        for (tenant, _), line in self._lines.items():
            added = offset(tenant, line) if offset is not None else 0.0
            if added is not None:
                lines.append((added, line))
        if len(lines) == 1:
            added, line = lines[0]
            return [(added, entry) for entry in line[:window]]
        if len(self._entries) <= window:  # all of them, and they are put in order afterwards
            return [(added, entry) for added, line in lines for entry in line]
        merged = merge(*(_keyed(added, line) for added, line in lines))
        return [(added, entry) for _, _, added, entry in islice(merged, window)]


def _keyed(added: float, line: Sequence[Entry]) -> Iterator[tuple[float, int, float, Entry]]:
    return ((entry.key + added, entry.number, added, entry) for entry in line)
