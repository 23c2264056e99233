"""A worker's surroundings: everything that it needs was made by its supervisor, which also tells it what to do.

Floor: beside the supervisor, in another process; over `router.serve`. SIGTERM ends it as any gateway process; orders to
reload come over its operator plane, and over the socket pair from whose sockets to accept. A supervisor that was killed
has closed its end of that: then the worker ends in the same way.
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
from collections.abc import Callable, Sequence
from pathlib import Path

from policies.heartbeats import BEAT_SECONDS
from router.config import Config, ConfigError, loads
from router.process import Worker
from router.secret import SecretUnavailable
from router.serve import serve_in
from router.surroundings import CannotServe
from router.workers.assignment import Alive, Assignment, Failed, Last, Leaving, Note, Orders, Ready, Stand, tell

_log = logging.getLogger("promptlane.workers")


# Seconds that one that leaves waits to be relieved: where no other worker serves its successor has to take what waits.
_RELIEF_SECONDS = 1.0
_READ_BYTES = 65536


class AsWorker:
    """`end`: of the socket pair."""

    def __init__(self, end: socket.socket, assignment: Assignment) -> None:
        self._end = end
        self._assignment = assignment
        self._orders = Orders()
        self._sockets = [socket.socket(fileno=one) for one in dict.fromkeys(assignment.listening)]
        self._last = False
        self._dismissed = asyncio.Event()
        self.worker: Worker | None = Worker(assignment.index, assignment.count, Path(assignment.folder))

    def secret(self) -> bytes:
        return self._assignment.secret

    def tenants(self) -> socket.socket:
        listening = self._of(self._assignment.index).dup()
        listening.setblocking(False)
        return listening

    def operators(self) -> str:
        return self._assignment.operators

    def config(self, said: bytes) -> Config:
        return loads(said, name=self._assignment.name)

    def follow(
        self, stop: Callable[[], None], reload: Callable[[], None], stand: Callable[[Sequence[socket.socket]], None]
    ) -> None:
        """A terminal sends its signals to all processes at once: SIGHUP is the supervisor's, which tells us."""
        loop = asyncio.get_running_loop()

        def leave() -> None:
            self._say(Leaving())
            stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)

        def heard() -> None:
            data = self._hear()
            if not data:
                loop.remove_reader(self._end)
                _log.warning("the supervisor is gone: this worker ends")
                self._dismiss(last=True)
                stop()
            for order in self._orders.feed(data):
                if isinstance(order, Stand):
                    stand([self._of(index) for index in order.absent if index != self._assignment.index])
                else:
                    self._dismiss(last=isinstance(order, Last))

        loop.add_reader(self._end, heard)

    def begun(self, tenants: socket.socket, operators: socket.socket | str) -> None:
        self._say(Ready())
        self._beat(asyncio.get_running_loop())

    async def relieved(self) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RELIEF_SECONDS):
                await self._dismissed.wait()
        return self._last

    def closed(self) -> None:
        for one in self._sockets:
            one.close()

    def _of(self, index: int) -> socket.socket:
        return self._sockets[index] if len(self._sockets) > 1 else self._sockets[0]

    def _dismiss(self, *, last: bool) -> None:
        self._last = self._last or last
        self._dismissed.set()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._say(Alive())
        loop.call_later(BEAT_SECONDS, self._beat, loop)

    def _hear(self) -> bytes:
        """Nothing where the supervisor has gone."""
        try:
            return self._end.recv(_READ_BYTES)
        except OSError:
            return b""

    def _say(self, note: Note) -> None:
        """A supervisor that has been stopped reads nothing: whatever it is not told it learns by our end."""
        with contextlib.suppress(OSError):  # that it is gone is noticed by `follow`
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
