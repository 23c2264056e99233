"""The axes: which sizes, measured how, and how fast a cost may grow along each.

Floor: benchmarks. Each point is measured in processes of its own, so that no size pays for another's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

from benchmarks.scale_parts import objects, processes
from benchmarks.scale_parts.curve import Curve, Growth, Point


@dataclass(frozen=True, slots=True)
class Axis:
    """`measure`: of a size, and with an effort: seconds of load, or rounds of batches."""

    title: str
    unit: str
    sizes: Sequence[int]
    allowed: Growth
    measure: Callable[[int, float], Point]

    def up_to(self, largest: int | None) -> Sequence[int]:
        """The sizes that are not larger, at least two."""
        return self.sizes if largest is None else [size for size in self.sizes if size <= largest] or self.sizes[:2]


def _decades(first: int, last: int) -> Sequence[int]:
    sizes = [first]
    while sizes[-1] < last:
        sizes.append(sizes[-1] * 10)
    return sizes


_ROUNDS_PER_SECOND = 30


def _endpoints(size: int, seconds: float) -> Point:
    return _alone(objects.endpoints, size, seconds)


def _index(size: int, seconds: float) -> Point:
    return _alone(objects.index_entries, size, seconds)


def _alone(measure: Callable[[int, int], Point], size: int, seconds: float) -> Point:
    """In a process of its own, whose memory is nobody else's."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure, size, max(3, round(seconds * _ROUNDS_PER_SECOND))).result()


AXES = {
    "endpoints": Axis("endpoints in a pool", "request", (2, 8, 32, 128, 512), "O(log n)", _endpoints),
    "tenants": Axis("tenants", "request", _decades(10, 100_000), "O(log n)", processes.tenants),
    "keys": Axis("API keys of the database", "request", _decades(10, 1_000_000), "O(log n)", processes.keys),
    "prompt": Axis(
        "characters of a prompt", "request", (*_decades(100, 1_000_000), 2_000_000), "linear", processes.prompt
    ),
    "turns": Axis("turns of a conversation", "request", (1, 3, 10, 30, 100, 200), "linear", processes.turns),
    "index": Axis("prefix-index entries", "lookup", _decades(1_000, 10_000_000), "O(log n)", _index),
    "streams": Axis("open streams", "chunk", _decades(10, 10_000), "O(log n)", processes.streams),
}


def curve(axis: Axis, seconds: float, largest: int | None = None) -> Iterator[Curve]:
    """The axis' curve after each of its points."""
    found = Curve(axis.title, axis.unit, axis.allowed)
    for size in axis.up_to(largest):
        found.points.append(axis.measure(size, seconds))
        yield found
