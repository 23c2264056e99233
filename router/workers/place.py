"""One of the N places: the worker that has it now, from its start to its end.

Floor: over processes; what follows from what it says, or from its end, is the supervisor's affair. A worker that says
nothing any more is killed here: a process that was stopped takes SIGKILL too.
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
from typing import Protocol

from policies.heartbeats import LOOK_SECONDS, Heartbeats
from policies.restarts import Restarts
from router.workers.assignment import VARIABLE, Alive, Assignment, Failed, Leaving, Order, Ready, framed, note_of

_log = logging.getLogger("promptlane.workers")

# Seconds until a worker serves: it imports, reads its configuration, asks the database. Beyond, it is another's turn.
START_SECONDS = 60.0


class Stage(StrEnum):
    """Where a place stands."""

    STARTING = "starting"
    SERVING = "serving"
    PAUSED = "paused"  # its worker ended early, again: the next one starts later


class Listener(Protocol):
    """Who hears of it: the supervisor."""

    def serves(self, place: Place) -> None:
        """Its worker has begun to."""

    def changed(self, place: Place) -> None:
        """Whether it `stands` is otherwise than before."""

    def hangs(self, place: Place) -> None:
        """Its worker is killed as it has said nothing for too long."""

    @property
    def patience(self) -> float:
        """Seconds of silence after which a worker is killed."""


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
        self.leaving = False
        self._late = False
        self._command = command
        self._environ = environ
        self._clock = clock
        self._process: asyncio.subprocess.Process | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._unsaid: signal.Signals | None = None  # to a worker that is being started at this moment

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    @property
    def stands(self) -> bool:
        """Whether its worker accepts connections, and goes on to."""
        return self.stage is Stage.SERVING and not self.leaving and not self._late

    def say(self, order: Order) -> None:
        """To its worker, if there is one that reads."""
        if self._writer is not None and self.stage is Stage.SERVING:
            self._writer.write(framed(order))

    def next_operators(self, folder: Path) -> str:
        """Where the operator plane of the next worker here is: another one each time, so that a client of the one
        before never talks to it."""
        self.lives += 1
        self.operators = str(folder / f"operators-{self.index}-{self.lives}")
        return self.operators

    async def live(self, assignment: Assignment, listener: Listener) -> float:
        """A worker from its start to its end. Returns for how many seconds it served. Raises OSError where none can be
        started."""
        self.stage, self.why, self.given, self._unsaid = Stage.STARTING, [], assignment.config, None
        self.leaving = self._late = False
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            try:
                self._process = await self._start(*sorted(set(assignment.listening)), theirs.fileno())
            finally:
                if self._process is None:
                    ours.close()
        if self._unsaid is not None:
            self.signal(self._unsaid)
        reader, self._writer = await asyncio.open_connection(sock=ours)
        try:
            await self._begin(reader, self._writer, assignment, listener)
            status = await self._until_its_end(reader, self._process, listener)
        finally:
            self._writer.close()
            self._process = self._writer = None
        served = self._clock() - self.began if self.stage is Stage.SERVING else 0.0
        self.stage = Stage.STARTING  # there is none, and soon another
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
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, assignment: Assignment, listener: Listener
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
            listener.serves(self)
            listener.changed(self)
        elif isinstance(note, Failed):
            self.why = note.lines
        elif not self.why:
            self.why = ["it ended before it served"]

    async def _until_its_end(
        self, reader: asyncio.StreamReader, process: asyncio.subprocess.Process, listener: Listener
    ) -> int:
        """Its exit status. What it says is heard meanwhile, and how long it says nothing."""
        beats = Heartbeats()
        ended = asyncio.create_task(process.wait(), name=f"end of worker {self.index}")
        hearing = asyncio.create_task(self._hear(reader, beats, listener), name=f"notes of worker {self.index}")
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=LOOK_SECONDS)
                if self.stage is Stage.SERVING and not ended.done():
                    self._look(beats, listener)
            return ended.result()
        finally:
            ended.cancel()
            hearing.cancel()
            await asyncio.gather(ended, hearing, return_exceptions=True)

    async def _hear(self, reader: asyncio.StreamReader, beats: Heartbeats, listener: Listener) -> None:
        while (note := await note_of(reader)) is not None:
            beats.heard()
            if isinstance(note, Leaving):
                self.leaving = True
                listener.changed(self)
            elif isinstance(note, Alive) and self._late:
                self._late = False
                _log.warning("worker %d is there again", self.index)
                listener.changed(self)

    def _look(self, beats: Heartbeats, listener: Listener) -> None:
        beats.look(self._clock())
        if beats.late and not self._late:
            self._late = True
            _log.warning("worker %d gives no sign of life: others take what comes in for it", self.index)
            listener.changed(self)
        if beats.silent >= listener.patience:
            beats.heard()  # nobody is killed twice
            listener.hangs(self)
            _log.error("worker %d has given no sign of life for %g s and is killed", self.index, listener.patience)
            self.signal(signal.SIGKILL)


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
