"""What an operator has configured to start and stop cold standbys: a command, a call of a URL, or a scale.

Floor: an adapter around processes and httpx. A command gets no secret: of the environment only what is named here and
by the operator, and of the gateway's own variables none. It runs in a process group of its own, which ends with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import httpx2

from router.kubernetes_api import ApiFailed
from router.scaling import Scale

# What programs such as kubectl need to find themselves, their home and the cluster that they run in.
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "TZ", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT")
_SHOWN_BYTES = 400  # of a failed command's standard error


class HookFailed(Exception):
    """The hook did not do it. Its text is for the log."""


@dataclass(frozen=True, slots=True)
class Hook:
    """Exactly one of `command` (a program and its arguments), `url` (gets a POST) and `scale`. `seconds`: how long it
    may run; `pass_env`: variables that the command gets too."""

    command: tuple[str, ...] = ()
    url: str | None = None
    seconds: float = 60.0
    pass_env: tuple[str, ...] = ()
    scale: Scale | None = None

    async def run(self, action: str, pool: str, endpoints: Sequence[str]) -> None:
        """Raises HookFailed. `action`: start or stop."""
        if self.scale is not None:
            await self._scale(self.scale, action)
            return
        if self.url is not None:
            async with _within(self.seconds):
                await self._post(self.url, action, pool, endpoints)
            return
        ours = {"PROMPTLANE_ACTION": action, "PROMPTLANE_POOL": pool, "PROMPTLANE_ENDPOINTS": " ".join(endpoints)}
        await execute(self.command, self.seconds, kept_variables(*self.pass_env) | ours)

    async def _scale(self, scale: Scale, action: str) -> None:
        async with _within(self.seconds):
            try:
                await scale.run(action)
            except ApiFailed as failed:
                raise HookFailed(f"{scale.kind} {scale.name} was not scaled: {failed}") from None

    async def _post(self, url: str, action: str, pool: str, endpoints: Sequence[str]) -> None:
        body = {"action": action, "pool": pool, "endpoints": list(endpoints)}
        try:
            async with httpx2.AsyncClient(trust_env=False, timeout=self.seconds) as http:
                answer = await http.post(url, json=body)
        except httpx2.HTTPError as error:
            raise HookFailed(f"the URL could not be called ({type(error).__name__})") from None
        if not answer.is_success:
            raise HookFailed(f"the URL answered {answer.status_code}")


def kept_variables(*others: str) -> dict[str, str]:
    """Of our own environment what a command may have: what programs need, and what the operator names."""
    return {name: os.environ[name] for name in (*KEPT_VARIABLES, *others) if name in os.environ}


async def execute(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> None:
    """Runs a program to its end, which must be a good one. Raises HookFailed; one that takes too long is killed with
    all that it has started."""
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    async with _within(seconds):
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=nothing, stdout=nothing, stderr=pipe, env=environment, start_new_session=True
            )
        except OSError as error:
            raise HookFailed(f"{command[0]} cannot be run: {error.strerror}") from None
        try:
            said = await _tail(process.stderr)
            status = await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            raise
    if status != 0:
        raise HookFailed(f"{command[0]} ended with {status}: {said.decode('utf-8', 'replace').strip()}")


@contextlib.asynccontextmanager
async def _within(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise HookFailed(f"it took longer than {seconds:g} seconds") from None


async def _tail(stream: asyncio.StreamReader | None) -> bytes:
    """The end of what is said there, read to its end so that nobody waits for room."""
    said = b""
    while stream is not None and (piece := await stream.read(4096)):
        said = (said + piece)[-_SHOWN_BYTES:]
    return said
