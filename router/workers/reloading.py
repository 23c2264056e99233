"""A reload of all workers: none of them has reloaded where one of them could not.

Floor: beside the supervisor. One worker builds the new configuration for a trial; only if it is good, all take it, the
same bytes. A worker that then does not take it all the same is replaced by one that begins with it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from router.config import Config, ConfigError, Problem
from router.errors import WorkerUnavailable
from router.workers.asking import Voice
from router.workers.metrics import SupervisorMetrics

_log = logging.getLogger("promptlane.workers")

RELOAD_SECONDS = 60.0  # to build the largest configuration there is on a busy machine


class Crew(Protocol):
    """The supervisor, as its reloads know it."""

    metrics: SupervisorMetrics

    @property
    def data(self) -> bytes: ...

    def voices(self) -> list[Voice]: ...

    def read(self) -> tuple[bytes, Config]: ...

    def take(self, data: bytes, config: Config) -> None: ...

    def given(self, voice: Voice, data: bytes) -> None: ...

    def replace(self, voice: Voice) -> None: ...


class Reloading:
    """One at a time."""

    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._one_at_a_time = asyncio.Lock()

    async def run(self, dry_run: bool) -> list[Problem]:
        """Warnings. Raises ConfigError, and nobody has reloaded."""
        crew = self._crew
        async with self._one_at_a_time:
            try:
                data, config = await asyncio.to_thread(crew.read)
                found = await self._trial(data)
            except ConfigError as error:
                if not dry_run:
                    crew.metrics.reloads["refused"] += 1
                    _log.error("the configuration was not reloaded: %s", error)
                raise
            if dry_run:
                return found
            crew.take(data, config)
            await asyncio.gather(*(self._order(voice, data) for voice in crew.voices()))
            crew.metrics.reloads["ok"] += 1
            return found

    async def catch_up(self, voice: Voice) -> None:
        """A worker that was starting meanwhile."""
        async with self._one_at_a_time:
            await self._order(voice, self._crew.data)

    async def _trial(self, data: bytes) -> list[Problem]:
        """What one worker finds. Raises ConfigError, also where nobody can try."""
        why = "no worker serves"
        for voice in self._crew.voices():
            try:
                status, said = await _ask(voice, data, dry_run=True)
            except WorkerUnavailable as error:
                why = error.message
                continue
            if status == 200:
                return [_problem(line) for line in said.get("warnings", ())]
            raise ConfigError([_problem(line) for line in said.get("problems", ())])
        raise ConfigError([Problem("server.workers", f"the configuration cannot be tried: {why}", None)])

    async def _order(self, voice: Voice, data: bytes) -> None:
        try:
            status, said = await _ask(voice, data, dry_run=False)
        except WorkerUnavailable as error:
            status, said = 503, {"problems": [error.message]}
        if status == 200:
            self._crew.given(voice, data)
            return
        _log.error("worker %d did not reload and is replaced: %s", voice.index, "; ".join(said.get("problems", ())))
        self._crew.replace(voice)


async def _ask(voice: Voice, data: bytes, *, dry_run: bool) -> tuple[int, dict[str, Any]]:
    """Status and answer. Raises WorkerUnavailable."""
    params = {"dry_run": "true"} if dry_run else None
    answer = await voice.ask("POST", "/admin/reload", params=params, content=data, seconds=RELOAD_SECONDS)
    try:
        said = answer.json()
    except ValueError:
        said = {}
    return answer.status_code, said if isinstance(said, dict) else {}


def _problem(line: str) -> Problem:
    """As a worker has written it: what stands before the first colon is its place."""
    path, _, message = line.partition(": ")
    return Problem(path, message, None)
