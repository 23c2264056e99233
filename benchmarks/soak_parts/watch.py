"""The gateway's memory, files and CPU time while the load runs, read from outside it once a second."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import linear_regression
from time import perf_counter

from benchmarks.overhead_parts.measure import cpu_seconds, rss_bytes

INTERVAL_SECONDS = 1.0


@dataclass(frozen=True)
class Sample:
    """One look. `at`: seconds since the watch began; the CPU times are sums since the processes began, in seconds."""

    at: float
    open: int
    rss_mb: float
    files: int
    gateway_cpu: float
    engines_cpu: float
    load_cpu: float


class Watch:
    """Looks at one gateway and its surroundings. `streams`: how many are under way now."""

    def __init__(self, gateway: int, engines: Iterable[int], streams: Callable[[], int]) -> None:
        self.samples: list[Sample] = []
        self._gateway = gateway
        self._engines = tuple(engines)
        self._streams = streams
        self._began = perf_counter()

    def look(self) -> Sample:
        """Raises OSError when a process is gone."""
        sample = Sample(
            at=perf_counter() - self._began,
            open=self._streams(),
            rss_mb=rss_bytes([self._gateway]) / 1e6,
            files=len(os.listdir(f"/proc/{self._gateway}/fd")),
            gateway_cpu=cpu_seconds([self._gateway]),
            engines_cpu=cpu_seconds(self._engines),
            load_cpu=cpu_seconds([os.getpid()]),
        )
        self.samples.append(sample)
        return sample

    async def during(self, seconds: float, stopped: asyncio.Event) -> list[Sample]:
        """Looks at once, every second and at the end; ends early when `stopped` is set. Returns these samples."""
        first = len(self.samples)
        end = self.look().at + seconds
        while not stopped.is_set() and (left := end - (perf_counter() - self._began)) > 0:
            await asyncio.sleep(min(left, INTERVAL_SECONDS))
            self.look()
        return self.samples[first:]


def slope_per_minute(samples: Sequence[Sample]) -> float:
    """Growth of the gateway's memory in MB a minute, by least squares; 0 for fewer than two samples."""
    if len(samples) < 2:
        return 0.0
    return linear_regression([one.at for one in samples], [one.rss_mb for one in samples]).slope * 60


def cpu_percent(samples: Sequence[Sample], field: str) -> float:
    """Of one core, between the first sample and the last."""
    first, last = samples[0], samples[-1]
    used: float = getattr(last, field) - getattr(first, field)
    return used / (last.at - first.at) * 100 if last.at > first.at else 0.0
