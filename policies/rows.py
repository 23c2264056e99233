"""Endpoints in order: each change costs a few comparisons, and the first are at hand.

Floor: `policies`, pure; under `policies.shortlist`. A row is a sorted list: what a change moves in memory is nothing
beside its comparisons for as many endpoints as a pool may have.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Sequence
from typing import NamedTuple

HASH_BITS = 64

Spot = tuple[float, float, int]
"""Where an endpoint stands in an order; equals are told apart by its number."""


class Row:
    """Endpoints of one rank that may be sent to, or may not for the same reason, in order."""

    __slots__ = ("busy", "by_cost", "by_wait", "in_flight", "open", "weight")

    def __init__(self, *, open_: bool) -> None:
        self.open = open_
        self.by_cost: list[Spot] = []
        self.by_wait: list[Spot] = []
        self.in_flight = self.busy = 0
        self.weight = 0.0

    def put(self, entry: Entry) -> None:
        insort(self.by_cost, entry.by_cost)
        insort(self.by_wait, entry.by_wait)
        self._count(entry, 1)

    def take(self, entry: Entry) -> None:
        del self.by_cost[bisect_left(self.by_cost, entry.by_cost)]
        del self.by_wait[bisect_left(self.by_wait, entry.by_wait)]
        self._count(entry, -1)
        if not self.by_cost:
            self.weight = 0.0  # what is left is float drift

    def _count(self, entry: Entry, by: int) -> None:
        self.in_flight += by * entry.in_flight
        self.weight += by * entry.weight
        self.busy += by * entry.busy


class Entry(NamedTuple):
    """One endpoint's places in a row."""

    row: Row
    by_cost: Spot
    by_wait: Spot
    in_flight: int
    weight: float
    busy: bool


def first(row: Sequence[Spot], most: int, key: int, *, in_turn: bool = False) -> Sequence[Spot]:
    """The first of a row. Of the last ones that are equal the key decides who, a hash or a number `in_turn`: in an idle
    pool all are equal, and not always the same must be looked at."""
    if len(row) <= most:
        return row
    equal = row[most - 1][:-1]
    start, end = bisect_left(row, equal), bisect_right(row, (*equal, float("inf")))
    wanted, size = most - start, end - start
    begin = start + (key % size if in_turn else (key % 2**HASH_BITS) * size >> HASH_BITS)
    chosen = row[begin : min(end, begin + wanted)]
    return [*row[:start], *chosen, *row[start : start + wanted - len(chosen)]]
