"""The supervisor: it starts the workers and keeps them, and is one gateway to operators.

Floor: over everything of this room. It serves no tenant; what it does take part in are sockets, orders and, without
Redis, the limits. When it is told to end, the workers are, all at once, and it ends after the last of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from router.config import Config, ConfigError, Problem, loads, read
from router.limits_line import StoreServer
from router.limits_store import LuaStore
from router.logs import configure_logging
from router.running import run
from router.server import listener
from router.surroundings import CannotServe, announce, bind, secret_of
from router.workers.asking import Voice
from router.workers.assignment import Assignment, Last
from router.workers.merged_metrics import MergedMetrics
from router.workers.metrics import SupervisorMetrics
from router.workers.place import Place, Stage, environment
from router.workers.plane import plane
from router.workers.reloading import Reloading
from router.workers.sockets import TenantSockets

_log = logging.getLogger("promptlane.workers")

# Seconds beyond their grace after which workers that were told to end are killed.
_LATE_SECONDS = 10.0
# Characters of the private folder's name: a Unix socket's path has about 100 at most on all systems, with its own name.
_MAX_FOLDER = 70


class Supervisor:
    """`command` starts a worker; `data`: the bytes of `config`. A `Crew` to its operator plane."""

    def __init__(self, path: Path, data: bytes, config: Config, command: Sequence[str]) -> None:
        self.config = config
        self.merged = MergedMetrics()
        self.metrics = SupervisorMetrics(lambda: [place.stage for place in self._places])
        self._path = path
        self._first = self._data = data
        self._secret = secret_of(config.server)
        environ, count = environment(), config.server.workers
        self._places = [Place(index, command, environ, time.monotonic) for index in range(count)]
        self._voices: dict[int, Voice] = {}
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()  # somebody serves, or cannot
        self._begun = False
        self._reloading = Reloading(self)
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Until it is told to end. Raises CannotServe."""
        server = self.config.server
        with _private_folder() as folder:
            self._folder = folder
            self._sockets = TenantSockets(server, len(self._places))
            operators = bind(server.admin_host, server.admin_port, "server.admin_port")
            limits = await self._limits()
            admin = listener(plane(self), timeout_graceful_shutdown=1)
            asking = asyncio.create_task(admin.serve([operators]), name="operator plane")
            self._handle_signals()
            keeping = [self._begin(self._keep(place), f"worker {place.index}") for place in self._places]
            try:
                await self._all_serve()
                if self._begun:
                    announce(self._sockets.any, operators, tls=server.tls is not None)
                await self._stopping.wait()
            finally:
                await self._end(keeping)
                admin.should_exit = True
                await asking
                await limits.stop()

    # -- a crew --------------------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._begun and bool(self._voices) and not self._stopping.is_set()

    def voices(self) -> list[Voice]:
        return [self._voices[index] for index in sorted(self._voices)]

    def describe(self) -> dict[int, dict[str, Any]]:
        now = time.monotonic()
        return {
            place.index: {
                "worker": place.index,
                "stage": place.stage.value,
                "pid": place.pid,
                "lives": place.lives,
                "seconds": round(now - place.began, 3) if place.stage is Stage.SERVING else None,
            }
            for place in self._places
        }

    async def reload(self, dry_run: bool) -> list[Problem]:
        return await self._reloading.run(dry_run)

    # -- for a reload --------------------------------------------------------------------------------------------------

    @property
    def data(self) -> bytes:
        """The configuration that all have, or are to have."""
        return self._data

    def read(self) -> tuple[bytes, Config]:
        """The file as it is now. Raises ConfigError."""
        data = read(self._path)
        return data, loads(data, name=str(self._path))

    def take(self, data: bytes, config: Config) -> None:
        """From now on workers are started with this."""
        self._data, self.config = data, config

    def given(self, voice: Voice, data: bytes) -> None:
        """A worker has taken it."""
        self._places[voice.index].given = data

    def replace(self, voice: Voice) -> None:
        """A worker that did not take what it should: its successor begins with it."""
        place = self._places[voice.index]
        if place.operators == voice.life:
            place.signal(signal.SIGTERM)

    # -- workers -------------------------------------------------------------------------------------------------------

    async def _keep(self, place: Place) -> None:
        """Has a worker at this place, until all end."""
        while not self._stopping.is_set():
            served = await self._live(place)
            if self._stopping.is_set():
                return
            if not self._begun and place.why:
                self._changed.set()  # it could not even start: nobody shall
                return
            pause = place.restarts.pause(served)
            self.metrics.restarts[str(place.index)] += 1
            for line in place.why:
                _log.error("worker %d could not start: %s", place.index, line)
            _log.warning("worker %d is started again%s", place.index, f" in {pause:g} s" if pause else "")
            if pause:
                place.stage = Stage.PAUSED
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)

    async def _live(self, place: Place) -> float:
        """One worker's life; seconds that it served."""
        try:
            assignment = Assignment(
                index=place.index,
                count=len(self._places),
                listening=self._sockets.descriptors,
                folder=str(self._folder),
                operators=place.next_operators(self._folder),
                secret=self._secret,
                first=self._first,
                config=self._data,
                name=str(self._path),
            )
            return await place.live(assignment, self)
        except OSError as error:
            place.why = [f"it cannot be started: {error}"]
            return 0.0
        finally:
            voice = self._voices.pop(place.index, None)
            self.merged.left(place.operators)
            self.changed(place)
            if voice is not None:
                await voice.close()

    # -- what places tell ----------------------------------------------------------------------------------------------

    @property
    def patience(self) -> float:
        return self.config.server.worker_timeout

    def serves(self, place: Place) -> None:
        self._voices[place.index] = Voice(place.index, place.operators)
        self._changed.set()
        if place.given != self._data:  # there was a reload while it was starting
            self._begin(self._reloading.catch_up(self._voices[place.index]), f"reload of worker {place.index}")

    def changed(self, place: Place) -> None:
        """What comes in where nobody accepts goes to others; at the end all go on to accept as they do."""
        if not self._stopping.is_set():
            self._sockets.deal(self._places)

    def hangs(self, place: Place) -> None:
        self.metrics.hung[str(place.index)] += 1

    async def _all_serve(self) -> None:
        """Until all do at the start. Raises CannotServe with what they say who cannot."""
        while len(self._voices) < len(self._places) and not self._stopping.is_set():
            await self._changed.wait()
            self._changed.clear()
            failed = {place.index: place.why for place in self._places if place.why}
            if failed and not self._stopping.is_set():
                reasons = dict.fromkeys(line for why in failed.values() for line in why)
                numbers = ", ".join(map(str, failed))
                raise CannotServe("\n".join([f"worker {numbers} could not start:", *(f"  {one}" for one in reasons)]))
        self._begun = not self._stopping.is_set()

    async def _end(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """All workers at once, and nobody after them: those that are late are killed."""
        self._stopping.set()
        self._sockets.close()  # theirs stay open until they close them: so nothing waits where nobody accepts any more
        for place in self._places:
            place.say(Last())
            place.signal(signal.SIGTERM)
        server = self.config.server
        _, late = await asyncio.wait(keeping, timeout=server.shutdown_delay + server.shutdown_grace + _LATE_SECONDS)
        for place in self._places if late else ():
            _log.error("worker %d did not end in time and is killed", place.index)
            place.signal(signal.SIGKILL)
        await asyncio.gather(*keeping)
        for task in list(self._tasks - set(keeping)):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- the rest ------------------------------------------------------------------------------------------------------

    async def _limits(self) -> StoreServer:
        """The limits that workers share, while no Redis has them."""
        server = StoreServer(LuaStore().run)
        await server.start(self._folder / "limits")
        return server

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_end)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._begin(self._reload_by_signal(), "reload by SIGHUP"))

    def _told_to_end(self) -> None:
        self._stopping.set()
        self._changed.set()

    async def _reload_by_signal(self) -> None:
        with contextlib.suppress(ConfigError):  # logged and counted where it was found
            await self.reload(dry_run=False)

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def supervise(path: Path, data: bytes, config: Config, command: Sequence[str]) -> None:
    """Runs all of it to its end. Raises CannotServe, SecretUnavailable or ConfigError before it serves."""
    configure_logging(config.server.log_level, config.server.log_format)
    run(_supervise(path, data, config, command))


async def _supervise(path: Path, data: bytes, config: Config, command: Sequence[str]) -> None:
    await Supervisor(path, data, config, command).run()


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """For this user only, on this machine only; everybody in it holds a shared lock, so that the last one can tell."""
    folder = Path(tempfile.mkdtemp(prefix="promptlane-workers-"))  # 0700
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        if len(str(folder)) > _MAX_FOLDER:
            raise CannotServe(f"server.workers: a folder for sockets has too long a name: {folder}; set TMPDIR")
        yield folder
    finally:
        os.close(held)
        shutil.rmtree(folder, ignore_errors=True)
