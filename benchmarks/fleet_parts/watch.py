"""Whether the machine kept up: CPU time of the gateway, the engines and the client, and of everything else.

Floor: reads clocks of the kernel once a second. A fleet on a machine that is busy all the time is slower than what it
simulates, and its figures then say more of the machine than of the routing.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter

from benchmarks.overhead_parts.measure import cpu_seconds, machine_cpu_seconds, percentile

INTERVAL_SECONDS = 1.0
BUSY_PERCENT = 90.0
"""Of all cores: a second above it is one in which something waited for a core."""
MOST_BUSY_PERCENT = 10.0
"""Of the seconds of a run that may be so: a short burst is caught up with, as engines keep to their own times."""
MOST_ONE_CORE_PERCENT = 80.0
"""Of the one core that a gateway process or the client can use."""
LATE_MS = 50.0
"""A request that is sent so much after its time was not sent by a client that keeps up."""


@dataclass(frozen=True)
class Look:
    """Seconds of CPU time so far, and the time of day of the look."""

    at: float
    machine: float
    gateway: float
    engines: float
    client: float


@dataclass(frozen=True)
class Load:
    """A run's use of the machine: percent of one core, `busy`: percent of the seconds in which all cores were busy;
    `late_p99_ms`: how late the client sent."""

    cores: int
    seconds: float
    gateway: float
    engines: float
    client: float
    others: float
    busy: float
    late_p99_ms: float

    def excess(self) -> list[str]:
        """Why the run says more of the machine than of the routing; empty when it does not."""
        found = []
        if self.busy > MOST_BUSY_PERCENT:
            found.append(f"all cores were busy in {self.busy:.0f} % of the seconds, others took {self.others:.0f} %")
        one_core = {"gateway": self.gateway, "client": self.client}
        full = [(name, used) for name, used in one_core.items() if used > MOST_ONE_CORE_PERCENT]
        found += [f"the {name} used {used:.0f} % of its core" for name, used in full]
        if self.late_p99_ms > LATE_MS:
            found.append(f"the client sent up to {self.late_p99_ms:.0f} ms late (p99)")
        return found


class Watch:
    """Looks each second while it runs. `gateways`, `engines`: pids."""

    def __init__(self, gateways: Sequence[int], engines: Sequence[int]) -> None:
        self._gateways = tuple(gateways)
        self._engines = tuple(engines)
        self.looks: list[Look] = []

    def look(self) -> None:
        """Raises OSError when a process is gone."""
        self.looks.append(
            Look(
                at=perf_counter(),
                machine=machine_cpu_seconds(),
                gateway=cpu_seconds(self._gateways),
                engines=cpu_seconds(self._engines),
                client=cpu_seconds([os.getpid()]),
            )
        )

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(INTERVAL_SECONDS)


def load_of(looks: Sequence[Look], lateness: Sequence[float], cores: int) -> Load:
    """`lateness`: seconds per request between its time and when it was sent. Needs two looks at different times."""
    first, last = looks[0], looks[-1]
    seconds = last.at - first.at
    percents = {
        name: 100 * (getattr(last, name) - getattr(first, name)) / seconds
        for name in ("machine", "gateway", "engines", "client")
    }
    ours = percents["gateway"] + percents["engines"] + percents["client"]
    pairs = list(pairwise(looks))
    busy = sum(100 * (b.machine - a.machine) > BUSY_PERCENT * cores * (b.at - a.at) for a, b in pairs)
    return Load(
        cores=cores,
        seconds=seconds,
        gateway=percents["gateway"],
        engines=percents["engines"],
        client=percents["client"],
        others=max(0.0, percents["machine"] - ours),
        busy=100 * busy / len(pairs),
        late_p99_ms=1000 * percentile(lateness, 0.99) if lateness else 0.0,
    )
