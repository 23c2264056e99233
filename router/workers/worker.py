"""A worker's surroundings: everything that it needs was made by its supervisor, which also tells it what to do.

Floor: beside the supervisor, in another process; over `router.serve`. SIGTERM ends it as any gateway process; orders to
reload come over its operator plane. A supervisor that was killed has closed its end of the socket pair: then the worker
ends in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from router.config import Config, ConfigError, loads
from router.process import Worker
from router.secret import SecretUnavailable
from router.serve import serve_in
from router.surroundings import CannotServe
from router.workers.assignment import Assignment, Failed, Leaving, Note, Ready, tell

_log = logging.getLogger("promptlane.workers")


class AsWorker:
    """`end`: of the socket pair."""

    def __init__(self, end: socket.socket, assignment: Assignment) -> None:
        self._end = end
        self._assignment = assignment
        self.worker: Worker | None = Worker(assignment.index, assignment.count, Path(assignment.folder))

    def secret(self) -> bytes:
        return self._assignment.secret

    def tenants(self) -> socket.socket:
        listening = socket.socket(fileno=self._assignment.listening)
        listening.setblocking(False)
        return listening

    def operators(self) -> str:
        return self._assignment.operators

    def config(self, said: bytes) -> Config:
        return loads(said, name=self._assignment.name)

    def follow(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        """A terminal sends its signals to all processes at once: SIGHUP is the supervisor's, which tells us."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            self._say(Leaving())
            stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)

        def heard() -> None:
            loop.remove_reader(self._end)  # it never says anything more: this is its end
            _log.warning("the supervisor is gone: this worker ends")
            stop()

        loop.add_reader(self._end, heard)

    def begun(self, tenants: socket.socket, operators: socket.socket | str) -> None:
        self._say(Ready())

    def _say(self, note: Note) -> None:
        with contextlib.suppress(OSError):  # the supervisor's end is noticed by `follow`
            tell(self._end, note)


def work(end: socket.socket, assignment: Assignment) -> int:
    """Runs one worker to its end; its exit status. What keeps it from serving is told to the supervisor, which has all
    of them say the same."""
    folder = Path(assignment.folder)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_SH)
    try:
        first = loads(assignment.first, name=assignment.name)
        config = first if assignment.config == assignment.first else loads(assignment.config, name=assignment.name)
        serve_in(AsWorker(end, assignment), first, config)
    except ConfigError as error:
        return _failed(end, [str(problem) for problem in error.problems])
    except (CannotServe, SecretUnavailable) as error:
        return _failed(end, [str(error)])
    finally:
        _leave(folder, held)
    return 0


def _failed(end: socket.socket, lines: list[str]) -> int:
    with contextlib.suppress(OSError):
        tell(end, Failed(lines))
    return 1


def _leave(folder: Path, held: int) -> None:
    """The supervisor removes the folder; where it was killed, the last worker does. Everybody holds a shared lock."""
    with contextlib.suppress(OSError):  # others are there
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    os.close(held)
