"""`make bench-stages`: where the CPU of a request goes: microseconds by stage, and by file of the code.

A sampling profiler (py-spy, in a venv of its own; of the compiled form `perf`) looks at a gateway under the load of
`make bench-overhead`; the CPU that the kernel counted is shared out by what it saw. How to read the table:
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.command import at_least_1, in_order
from benchmarks.overhead_parts import installs
from benchmarks.overhead_parts.gateways import Promptlane, PromptlaneInterpreted
from benchmarks.overhead_parts.measure import cpu_seconds, tree
from benchmarks.overhead_parts.processes import ROOT, Failed, cores
from benchmarks.overhead_parts.rounds import Bench, bench
from benchmarks.overhead_parts.traffic import REQUESTS
from benchmarks.stages_parts import native
from deploy.compiled.modules import compiled_files

PROFILER: Final = ("py-spy", "0.4.3")
SAMPLES_A_SECOND: Final = 250
WARM_REQUESTS: Final = 3_000

LOOP: Final = "event loop and its calls of the kernel"
REST: Final = "threads and libraries outside our files"
# The first pattern that matches the path of a file of ours says what the work is for.
STAGES: Final[tuple[tuple[str, str], ...]] = (
    (r"router/running", LOOP),
    (r"router/(request_records|finished|charging|output_metrics)|(router|policies)/ledger/|router/database/", "record"),
    (r"policies/governance/|router/wire/(parameters|said|draft|answer_sample)", "record: parameters and answers"),
    (r"router/metrics|router/exposition", "metrics"),
    (r"router/routing_headers", "headers that say why"),
    (r"router/limits|policies/admission/(limits|window|counting)", "limits"),
    (r"router/(tenants|origin|keys)", "who asks"),
    (r"router/wire/(usage|events|framing|alias|tokens|stream)|router/(relay|passage)", "the answer: relay, usage"),
    (
        r"router/(measure|counting)|router/wire/|policies/(prefix_blocks|tokens|lanes)",
        "the request: fields, blocks",
    ),
    (r"router/(upstream|connection|attempts|timeouts)", "HTTP to the engine"),
    (r"router/(server|guarded|exchange|client|response|app|errors)", "HTTP to the client"),
    (r"policies/|router/(pools|lanes|tickets|coordination|pool_)", "routing: decision, reservation, learning"),
    (r"router/", "the list of steps: gateway.py, calls.py, and others"),
)
_OURS: Final = re.compile(r"\((?:.*/)?((?:router|policies)/[^:)]+\.py)")
# A thread that waits for work or for the lock of the interpreter is no CPU.
_WAITS: Final = re.compile(r"^(Condition\.)?wait \(threading\.py|^_worker \(concurrent/|^_?wait_for_tstate_lock ")


@dataclass(frozen=True)
class Profile:
    """`us`: of a request, all of it; `files`: samples by stage and file (or library)."""

    us: float
    files: Counter[tuple[str, str]]

    def microseconds(self, samples: int) -> float:
        return self.us * samples / max(1, self.files.total())


def stage_of(file: str) -> str:
    return next(stage for pattern, stage in STAGES if re.match(pattern, file))


def read(stacks: Iterable[str]) -> Counter[tuple[str, str]]:
    """Samples by (stage, file) of collapsed stacks, `outermost;…;innermost count` a line. What a library does counts
    for the file of ours that called it."""
    found: Counter[tuple[str, str]] = Counter()
    for line in stacks:
        frames, _, count = line.rstrip().rpartition(" ")
        names = frames.split(";")
        if not frames or _WAITS.match(names[-1]):
            continue
        own = [match[1] for name in names if (match := _OURS.search(name))]
        where = (stage_of(own[-1]), own[-1]) if own else (REST, names[-1])
        if own and own[-1].startswith("router/running"):
            where = LOOP, "uvloop"
        found[where] += int(count)
    return found


def profiled(here: Bench, gateway: PromptlaneInterpreted, requests: int, folder: Path) -> Profile:
    """Raises Failed."""
    here.count(gateway, REQUESTS, WARM_REQUESTS)
    before = cpu_seconds(tree(gateway.pids))
    here.count(gateway, REQUESTS, requests)
    us = (cpu_seconds(tree(gateway.pids)) - before) / requests * 1e6  # without the profiler, which stops it to look
    pid = gateway.pids[0]

    def work() -> None:
        here.count(gateway, REQUESTS, requests)

    if isinstance(gateway, Promptlane):
        seen = native.recorded(pid, work, folder / "perf.data")
        return Profile(us, read(native.collapsed(seen, compiled_files(ROOT))))
    return Profile(us, read(interpreted(pid, work, folder / "stacks.txt")))


def interpreted(pid: int, work: Callable[[], None], out: Path) -> list[str]:
    """What py-spy saw during the work. Raises Failed."""
    program = installs.venv_python(*PROFILER).with_name("py-spy")
    command: list[str | Path] = [program, "record", "--rate", str(SAMPLES_A_SECOND), "--format", "raw", "--output", out]
    spy = subprocess.Popen([*command, "--pid", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        work()
    finally:
        spy.send_signal(signal.SIGINT)
        _, said = spy.communicate(timeout=60)
    if not out.exists():
        raise Failed(f"py-spy: {said.decode(errors='replace').strip()[-300:]}")
    return out.read_text().splitlines()


def table(profile: Profile, files: int) -> str:
    """By stage, the most expensive first; below each the `files` that cost most."""
    stages: Counter[str] = Counter()
    for (stage, _), samples in profile.files.items():
        stages[stage] += samples
    rows = [f"{'CPU of a request':<58}{'us':>7}{'share':>8}"]
    for stage, samples in stages.most_common():
        rows.append(f"{stage:<58}{profile.microseconds(samples):>7.1f}{samples / stages.total():>8.1%}")
        own = Counter({file: count for (of, file), count in profile.files.items() if of == stage})
        rows += [f"    {file:<54}{profile.microseconds(count):>7.1f}" for file, count in own.most_common(files)]
    rows.append(f"{'all':<58}{profile.us:>7.1f}   of {stages.total()} samples")
    return "\n".join(rows)


def as_json(profile: Profile) -> str:
    found = profile.files.items()
    files = [{"stage": stage, "file": file, "us": profile.microseconds(samples)} for (stage, file), samples in found]
    return json.dumps({"us": profile.us, "files": files}) + "\n"


def run(options: argparse.Namespace) -> int:
    with bench(cores()) as here, ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="promptlane-stages-")))
        gateway = Promptlane() if options.compiled else PromptlaneInterpreted()
        gateway.install()
        stack.callback(gateway.stop)
        gateway.start(here.urls, folder, here.gateway_cpus)
        profile = profiled(here, gateway, options.requests, folder)
    print(table(profile, options.files))
    if options.json:
        options.json.write_text(as_json(profile))
    return 0


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("--compiled", action="store_true", help="the compiled form, by perf (as root)")
    parser.add_argument("--requests", type=at_least_1, default=30_000, help="that are looked at (default 30,000)")
    parser.add_argument("--files", type=int, default=3, help="shown of each stage (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all of it to this file")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    return in_order(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
