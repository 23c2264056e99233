"""One of the N places: the worker that has it now, from its start to its end.

Floor: over processes; what follows from an end is the supervisor's affair.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

from policies.restarts import Restarts
from router.workers.assignment import VARIABLE, Assignment, Failed, Leaving, Ready, framed, note_of

_log = logging.getLogger("promptlane.workers")

# Seconds until a worker serves: it imports, reads its configuration, asks the database. Beyond, it is another's turn.
START_SECONDS = 60.0


class Stage(StrEnum):
    """Where a place stands."""

    STARTING = "starting"
    SERVING = "serving"
    PAUSED = "paused"  # its worker ended early, again: the next one starts later


class Place:
    """`command`: what starts a worker; `environ`: with which variables. `clock` gives monotonic seconds."""

    def __init__(
        self, index: int, command: Sequence[str], environ: Mapping[str, str], clock: Callable[[], float]
    ) -> None:
        self.index = index
        self.restarts = Restarts()
        self.stage = Stage.STARTING
        self.lives = 0
        self.operators = ""  # the path of its worker's operator plane
        self.given = b""  # the configuration that its worker has
        self.why: list[str] = []  # the last one could not start
        self.began = 0.0
        self._command = command
        self._environ = environ
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._unsaid: signal.Signals | None = None  # to a worker that is being started at this moment

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def next_operators(self, folder: Path) -> str:
        """Where the operator plane of the next worker here is: another one each time, so that a client of the one
        before never talks to it."""
        self.lives += 1
        self.operators = str(folder / f"operators-{self.index}-{self.lives}")
        return self.operators

    async def live(self, assignment: Assignment, serves: Callable[[], None], leaves: Callable[[], None]) -> float:
        """A worker from its start to its end; calls `serves` when it does, and `leaves` when it is about not to.
        Returns for how many seconds it served. Raises OSError where none can be started."""
        self.stage, self.why, self.given, self._unsaid = Stage.STARTING, [], assignment.config, None
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            try:
                self._process = await self._start(assignment.listening, theirs.fileno())
            finally:
                if self._process is None:
                    ours.close()
        if self._unsaid is not None:
            self.signal(self._unsaid)
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            await self._begin(reader, writer, assignment, serves)
            if isinstance(await note_of(reader), Leaving):  # else it has died
                leaves()
            status = await self._process.wait()
        finally:
            writer.close()
            self._process = None
        served = self._clock() - self.began if self.stage is Stage.SERVING else 0.0
        _log.log(logging.INFO if status == 0 else logging.ERROR, "worker %d has ended: %s", self.index, _how(status))
        return served

    def signal(self, number: signal.Signals) -> None:
        """To its worker, if there is one or will be at once."""
        self._unsaid = number if self._process is None else None
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _start(self, *handed_down: int) -> asyncio.subprocess.Process:
        environ = {**self._environ, VARIABLE: str(handed_down[-1])}
        return await asyncio.create_subprocess_exec(
            *self._command, env=environ, pass_fds=handed_down, stdin=asyncio.subprocess.DEVNULL
        )

    async def _begin(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        assignment: Assignment,
        serves: Callable[[], None],
    ) -> None:
        """Until it serves, or will not."""
        note = None
        try:
            async with asyncio.timeout(START_SECONDS):
                writer.write(framed(assignment))
                note = await note_of(reader)
        except TimeoutError:
            self.why = [f"it did not serve within {START_SECONDS:g} s"]
            self.signal(signal.SIGKILL)
        if isinstance(note, Ready):
            self.stage, self.began = Stage.SERVING, self._clock()
            _log.info("worker %d serves, process %d", self.index, self.pid)
            serves()
        elif isinstance(note, Failed):
            self.why = note.lines
        elif not self.why:
            self.why = ["it ended before it served"]


def environment() -> dict[str, str]:
    """What workers get of the supervisor's: everything."""
    return dict(os.environ)


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
