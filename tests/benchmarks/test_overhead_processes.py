"""The benchmark's processes: CPU time is read from the whole tree, and nothing survives, however the parent ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.overhead_parts.measure import cpu_seconds, rss_bytes, tree
from benchmarks.overhead_parts.processes import OWN_MODULES, Child, Failed, cores, free_port, run_to_end

BOUND_SECONDS = 60.0
"""How long a process may take to come or go before a test fails."""

SLEEPS = "import time; time.sleep(3600)"
WITH_CHILD = f"""
import json, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {SLEEPS!r}])
print(json.dumps(child.pid), flush=True)
time.sleep(3600)
"""
BURNS = """
import json, time
while time.process_time() < 0.2:
    pass
print(json.dumps(time.process_time()), flush=True)
time.sleep(3600)
"""
PARENT = f"""
import json, os, pathlib, sys, time
from benchmarks.overhead_parts.processes import Child
child = Child([sys.executable, "-c", {SLEEPS!r}], os.sched_getaffinity(0), pathlib.Path("child.log").resolve())
print(json.dumps(child.pid), flush=True)
time.sleep(3600)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def becomes(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + BOUND_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def python(program: str, folder: Path) -> Child:
    return Child([sys.executable, "-c", program], os.sched_getaffinity(0), folder / "log", piped=True, env=OWN_MODULES)


def test_a_tree_holds_the_children_of_the_children_and_nobody_else(tmp_path: Path) -> None:
    with python(WITH_CHILD, tmp_path) as child:
        grandchild = child.hear(BOUND_SECONDS)
        assert set(tree([child.pid])) == {child.pid, grandchild}
        assert {os.getpid(), child.pid, grandchild} <= set(tree([os.getpid()]))


def test_cpu_seconds_agree_with_what_a_process_says_of_itself(tmp_path: Path) -> None:
    with python(BURNS, tmp_path) as child:
        own = child.hear(BOUND_SECONDS)
        assert 0.2 <= own <= cpu_seconds([child.pid]) < own + 0.1  # it sleeps now: only the printing is in between
        assert cpu_seconds([child.pid, child.pid]) >= 2 * own


def test_cpu_seconds_of_a_process_that_is_gone_are_an_error(tmp_path: Path) -> None:
    with python("", tmp_path) as child:
        child.wait(BOUND_SECONDS)
        with pytest.raises(OSError, match="Invalid argument"):
            cpu_seconds([child.pid])


def test_resident_memory_is_that_of_an_interpreter_at_least(tmp_path: Path) -> None:
    with python(BURNS, tmp_path) as child:
        child.hear(BOUND_SECONDS)
        assert 2e6 < rss_bytes([child.pid]) < 1e9


def test_stopping_a_child_ends_what_it_started(tmp_path: Path) -> None:
    with python(WITH_CHILD, tmp_path) as child:
        grandchild = child.hear(BOUND_SECONDS)
    assert not alive(child.pid)
    assert becomes(lambda: not alive(grandchild))


def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    with python(PARENT, tmp_path) as parent:
        orphan = parent.hear(BOUND_SECONDS)
        assert alive(orphan)
        os.kill(parent.pid, signal.SIGKILL)
        assert becomes(lambda: not alive(orphan))


def test_a_child_runs_on_the_cores_it_was_given(tmp_path: Path) -> None:
    program = "import json, os; print(json.dumps(sorted(os.sched_getaffinity(0))), flush=True)"
    gateway, others = cores()
    for cpus in (gateway, others):
        with Child([sys.executable, "-c", program], cpus, tmp_path / "log", piped=True) as child:
            assert child.hear(BOUND_SECONDS) == sorted(cpus)
    assert len(os.sched_getaffinity(0)) == 1 or not gateway & others


def test_a_program_that_ends_without_a_word_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with python("import sys; sys.exit('\\x1b[31mno such option\\x1b[0m')", tmp_path) as child:
        child.wait(BOUND_SECONDS)
        with pytest.raises(Failed, match=r"^ended no such option$"):
            child.hear(BOUND_SECONDS)


def test_a_failed_installation_says_which_and_why(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no network"):
        run_to_end([sys.executable, "-c", "import sys; sys.exit('no network')"], tmp_path / "log", BOUND_SECONDS)
    with pytest.raises(Failed, match="not done within"):
        run_to_end([sys.executable, "-c", SLEEPS], tmp_path / "log", 0.01)


def test_a_free_port_can_be_bound_by_a_server(tmp_path: Path) -> None:
    port = free_port()
    listens = f"import socket; s = socket.create_server(('127.0.0.1', {port}))"
    assert subprocess.run([sys.executable, "-c", listens], timeout=BOUND_SECONDS, check=False).returncode == 0
