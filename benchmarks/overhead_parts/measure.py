"""CPU time and memory of a process tree, read from outside it, and the order statistics of a run."""

import math
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

_PROC = Path("/proc")
_CPUCLOCK_SCHED = 2  # linux/posix-timers.h: the clock of a whole process is (~pid << 3) | 2


def parents() -> dict[int, int]:
    """pid -> parent's pid of everything that runs now."""
    found = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended between the listing and the reading
            found[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])  # the name may hold spaces and brackets
    return found


def tree(roots: Iterable[int]) -> list[int]:
    """The roots and all that descends from them, in no particular order."""
    children: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, ()))
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """CPU time (user and system, ended threads included) that the processes have used so far.

    It is the kernel's sum of the times in /proc/PID/task/*/schedstat, in nanoseconds where /proc/PID/stat has ticks
    of 10 ms. Raises OSError when a process is gone: its time would be missing from the sum.
    """
    return sum(time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids)


def side_seconds(pids: Iterable[int]) -> float:
    """The part of `cpu_seconds` that threads other than the first of each process have used, those that have ended left
    out."""
    others = (task for pid in pids for task in (_PROC / str(pid) / "task").iterdir() if task.name != str(pid))
    return sum(int(_first_line(task / "schedstat").split()[0]) for task in others) / 1e9


def machine_cpu_seconds() -> float:
    """CPU time that all cores spent on anything but idling so far, time stolen by other virtual machines included."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, _first_line(_PROC / "stat").split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _first_line(path: Path) -> str:
    with path.open() as lines:
        return next(lines)


def rss_bytes(pids: Iterable[int]) -> int:
    """Resident memory of the processes, pages that they share counted once per process."""
    total = 0
    for pid in pids:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` (0..1] of the values do not exceed. Raises ValueError when there are none."""
    if not values:
        raise ValueError("no values")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
