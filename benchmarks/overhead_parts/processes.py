"""Child processes that end with their parent, pinned to cores; free ports; venvs.

Every child gets a session of its own (Ctrl-C reaches the parent alone, which ends its children in order) and the
kernel's promise to kill it when the parent dies in any other way.
"""

import contextlib
import ctypes
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
OWN_MODULES = {"PYTHONPATH": str(ROOT)}
"""Environment in which this project's modules are found from any folder."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_STOP_SECONDS = 5.0  # for a gateway to end by itself after SIGTERM
_PORTS = range(10_000, 20_000)  # below the kernel's ephemeral ports, and none that tests hand out
_PORT_TRIES = 100
_LOG_LINES = 2  # of a log that go into a reason
_LOG_WIDTH = 160  # characters of each
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LIBC = ctypes.CDLL(None)


class Failed(Exception):
    """A program could not be installed or started, or it answers wrongly. The message is the reason, for the report."""


class NotStarted(Failed):
    """A gateway did not come up, so that nothing was measured."""


def cores() -> tuple[set[int], set[int]]:
    """The gateway's cores and everyone else's: one each when there are two, else the same."""
    available = sorted(os.sched_getaffinity(0))
    return {available[0]}, {available[1 % len(available)]}


def free_port() -> int:
    """A port of the loopback that was free a moment ago. Raises Failed when there is none."""
    for port in random.sample(_PORTS, k=_PORT_TRIES):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise Failed(f"no free port between {_PORTS[0]} and {_PORTS[-1]}")


def _before_exec(cpus: set[int]) -> Callable[[], None]:
    def prepare() -> None:
        os.sched_setaffinity(0, cpus)  # before exec: a runtime sizes its thread pools by the cores that it sees
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    return prepare


class Child:
    """A running program; its output goes to a log file. Use as a context manager, or call `stop`."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        cpus: set[int],
        log: Path,
        *,
        piped: bool = False,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        pipe = subprocess.PIPE if piped else None
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=pipe or subprocess.DEVNULL,
                stdout=pipe or output,
                stderr=output,
                cwd=log.parent,
                env={**os.environ, **(env or {})},
                start_new_session=True,
                preexec_fn=_before_exec(cpus),
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the program alone."""
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """Its exit status. Raises Failed when it does not end in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failed(f"not done within {seconds:.0f} s {self.last_words()}".strip()) from None

    def say(self, line: str) -> None:
        """Writes a line to the program's standard input (made with `piped`)."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def hear(self, seconds: float) -> Any:
        """The JSON of the next line of its standard output. Raises Failed when none comes in time."""
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise Failed(f"{'no answer' if self.running else 'ended'} {self.last_words()}".strip())
        return json.loads(line)

    def last_words(self) -> str:
        """The end of its log, in one line without colours."""
        lines = _COLOUR.sub("", self._log.read_text(errors="replace")).strip().splitlines()
        return " / ".join(line[-_LOG_WIDTH:] for line in lines[-_LOG_LINES:])

    def stop(self) -> None:
        """Ends the program and what it started: by SIGTERM, and by SIGKILL when that takes too long."""
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(self.pid, signal.SIGTERM)
            self._process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def run_to_end(command: Sequence[str | os.PathLike[str]], log: Path, seconds: float) -> None:
    """Runs a program until it ends. Raises Failed with the end of its output when it fails or takes too long."""
    with Child(command, os.sched_getaffinity(0), log) as child:
        if child.wait(seconds) != 0:
            raise Failed(f"{' '.join(map(str, command[:4]))} …: {child.last_words()}")
