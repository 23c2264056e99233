"""For how long processes stood still because the machine gave them no processor: what is not the gateway's doing.

Floor: tests only; Linux's `/proc/PID/schedstat` (seconds that the main thread was ready to run and did not) and, of a
virtual machine, the time that its host took. Elsewhere nothing is known, and nothing is excused.
"""

from __future__ import annotations

import asyncio
import os
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

EVERY_SECONDS = 0.01
_STRIDE = 10
_STEAL = 8  # the field of the first line of /proc/stat
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
HARNESS, HOST = "the harness", "the machine's host"


class Stalls:
    """`pids`: the processes by name as they are now, as engines are started anew. `run` notes until it is cancelled."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self._pids = pids
        self._times: list[float] = []
        self._stood: list[dict[str, float]] = []  # at these times, in all

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._times.append(loop.time())
            self._stood.append(_stood(self._pids()))
            await asyncio.sleep(EVERY_SECONDS)

    def seconds(self, began: float, ended: float, names: Iterable[str]) -> float:
        """For how long these, the harness and the whole machine stood still in that time, one after the other."""
        if not self._times:
            return 0.0
        first = self._stood[max(0, bisect_right(self._times, began) - 1)]
        last = self._stood[min(len(self._times) - 1, bisect_left(self._times, ended))]
        return sum(max(0.0, last.get(name, 0.0) - first.get(name, 0.0)) for name in {*names, HARNESS, HOST})

    def worst(self, window: float, names: Iterable[str]) -> float:
        """The most of `seconds` within a while of so many seconds."""
        names = tuple(names)
        return max([self.seconds(at, at + window, names) for at in self._times[::_STRIDE]], default=0.0)


def _stood(pids: Mapping[str, int]) -> dict[str, float]:
    found = {name: waited(pid) for name, pid in {**pids, HARNESS: os.getpid()}.items()}
    found[HOST] = _stolen()
    return found


def waited(pid: int) -> float:
    """Seconds in all that its main thread could have run and did not."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):  # it has ended, or this system does not say
        return 0.0


def _stolen() -> float:
    try:
        with open("/proc/stat") as stat:
            return int(stat.readline().split()[_STEAL]) * _TICK_SECONDS
    except (OSError, IndexError, ValueError):
        return 0.0
