"""The stacks of the compiled form, as `perf` sees them, in the form in which py-spy tells those of the other.

py-spy sees interpreted frames alone. `perf` sees functions of C, and mypyc names each by its module and function.
"""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from benchmarks.overhead_parts.processes import Failed

SAMPLES_A_SECOND: Final = 2_500
_STACK_BYTES: Final = 8192  # of each sample: frames are found by what the compiler says of them, not by a register
_BEGIN_SECONDS: Final = 1.0
_FRAME: Final = re.compile(r"\s+[0-9a-f]+ (.+?)(?:\+0x[0-9a-f]+)? \((.*)\)$")
_OURS: Final = "CPyDef_"
_LOOP: Final = "the loop (router/running.py)"


def recorded(pid: int, work: Callable[[], None], out: Path) -> list[str]:
    """What `perf` saw of a process during the work: the symbols of each sample, as `perf script` prints them. Raises
    Failed."""
    if shutil.which("perf") is None:
        raise Failed("perf is not there; on Debian: apt-get install linux-perf")
    command = ["perf", "record", "-F", str(SAMPLES_A_SECOND), "--call-graph", f"dwarf,{_STACK_BYTES}"]
    perf = subprocess.Popen(
        [*command, "-o", out, "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    time.sleep(_BEGIN_SECONDS)
    try:
        work()
    finally:
        perf.send_signal(signal.SIGINT)
        _, said = perf.communicate(timeout=60)
    script = ["perf", "script", "-i", str(out), "-F", "comm,tid,ip,sym,dso", "--no-inline"]
    told = subprocess.run(script, capture_output=True, text=True, check=False)
    if not told.stdout.strip():
        raise Failed(f"perf: {(said + told.stderr).strip()[-300:]}")
    return told.stdout.splitlines()


def collapsed(lines: Iterable[str], files: Iterable[str]) -> Iterator[str]:
    """Each sample as a line of frames, outermost first, and a 1. `files`: those that are compiled. What the loop does
    for somebody counts for that one, as with py-spy."""
    names = {file.removesuffix(".py").replace("/", "___"): file for file in files}
    stack: list[str] = []
    looped = False
    for line in [*lines, ""]:
        found = _FRAME.match(line)
        if found is not None:
            stack.append(_named(found[1], names))
            looped = looped or "/uvloop/" in found[2]
        elif stack:
            yield ";".join([*([_LOOP] if looped else []), *reversed(stack)]) + " 1"
            stack, looped = [], False


def _named(symbol: str, names: dict[str, str]) -> str:
    """A function of ours with its file."""
    if not symbol.startswith(_OURS):
        return symbol.replace(";", ",")
    function = symbol.removeprefix(_OURS)
    return f"{function} ({_file_of(function, names)})"


def _file_of(function: str, names: dict[str, str]) -> str:
    """mypyc begins a name with as much of the module's end as tells it from all other modules."""
    best = ""
    for name in names:
        parts = name.split("___")
        for start in range(len(parts)):
            short = "___".join(parts[start:])
            if function.startswith(short + "___") and len(short) > len(best):
                best, file = short, names[name]
    return file if best else "unknown"
