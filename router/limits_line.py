"""The way from a worker's limits to the store that its supervisor has (`limits_store`): a Unix socket in their folder.

Floor: an adapter, both ends. A frame is four bytes of length and msgpack: `[number, keys, arguments]`, and back
`[number, answer]`, which is nil where the store has failed. A call that has no answer in time, or whose connection
breaks, is StoreLost, as with a Redis that is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from router.coordination.store import StoreLost
from router.limits_lua import SCRIPT

_log = logging.getLogger("promptlane.limits")

TIMEOUT_SECONDS: Final = 0.5  # as of a call to Redis
_LENGTH: Final = 4
# Bytes of a frame: a tenant with 10,000 limited keys asks with some 2 MB.
_MAX_BYTES: Final = 32 * 1024 * 1024

Run = Callable[[Sequence[bytes], Sequence[bytes]], bytes]


class _Call(msgspec.Struct, array_like=True):
    number: int
    keys: list[bytes]
    arguments: list[bytes]


class _Answer(msgspec.Struct, array_like=True):
    number: int
    answer: bytes | None


class StoreServer:
    """The supervisor's end. `run`: what carries out one call."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, path: Path) -> None:
        """Raises OSError."""
        self._server = await asyncio.start_unix_server(self._serve, path)
        os.chmod(path, 0o600)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a connection is a task
        self._tasks.add(task)
        try:
            while (data := await _frame(reader)) is not None:
                writer.write(_framed(self._answer(msgspec.msgpack.decode(data, type=_Call))))
                await writer.drain()
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("a worker's connection to the limits broke: %s", error)
        except asyncio.CancelledError:
            pass  # the supervisor ends; the stream's own callback would report it as a failure
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    def _answer(self, call: _Call) -> _Answer:
        try:
            return _Answer(call.number, self._run(call.keys, call.arguments))
        except Exception:  # a guard: one odd call must not cost a worker its limits
            _log.exception("a call to the limits failed")
            return _Answer(call.number, None)


class LineStore:
    """The worker's end; connects at the first call, and anew after a failure. A `limits_redis.Store`."""

    def __init__(self, path: Path, timeout: float = TIMEOUT_SECONDS) -> None:
        self.timeout = timeout
        self._path = path
        self._line: _Line | None = None
        self._connecting = asyncio.Lock()

    async def call(self, *command: str | bytes | int) -> Any:
        """Runs the script of limits, the only thing that can be asked for. Raises StoreLost."""
        if command[:2] != ("EVAL", SCRIPT):
            raise ValueError("only the script of limits can be called")
        count = int(command[2])
        words = [word if isinstance(word, bytes) else str(word).encode() for word in command[3:]]
        try:
            async with asyncio.timeout(self.timeout):
                line = await self._connected()
                return await line.ask(words[:count], words[count:])
        except TimeoutError:
            raise StoreLost(f"no answer within {self.timeout:g} s") from None
        except OSError as error:
            raise StoreLost(f"the supervisor cannot be reached: {error.strerror or error}") from None

    async def close(self) -> None:
        if self._line is not None:
            self._line.close()

    async def _connected(self) -> _Line:
        async with self._connecting:
            if self._line is None or self._line.over:
                self._line = _Line(*await asyncio.open_unix_connection(self._path))
            return self._line


class _Line:
    """One connection, and who waits for what on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._calls = 0
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self.over = False
        self._task = asyncio.create_task(self._listen(reader), name="limits of the supervisor")

    async def ask(self, keys: list[bytes], arguments: list[bytes]) -> bytes:
        self._calls += 1
        number = self._calls
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            self._writer.write(_framed(_Call(number, keys, arguments)))
            return await answer
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        self.over = True
        self._task.cancel()
        self._writer.transport.abort()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        why = "it has closed the connection"
        try:
            while (data := await _frame(reader)) is not None:
                said = msgspec.msgpack.decode(data, type=_Answer)
                waiting = self._waiting.get(said.number)
                if waiting is None or waiting.done():
                    continue  # too late
                if said.answer is None:
                    waiting.set_exception(StoreLost("the call failed there"))
                else:
                    waiting.set_result(said.answer)
        except (OSError, msgspec.MsgspecError) as error:
            why = str(error)
        finally:
            self.over = True
            self._writer.transport.abort()
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(StoreLost(f"the supervisor cannot be reached: {why}"))


def _framed(message: msgspec.Struct) -> bytes:
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(_LENGTH, "big") + data


async def _frame(reader: asyncio.StreamReader) -> bytes | None:
    """None at the end. Raises OSError."""
    with contextlib.suppress(asyncio.IncompleteReadError):
        length = int.from_bytes(await reader.readexactly(_LENGTH), "big")
        if length > _MAX_BYTES:
            raise OSError(f"a frame of {length} bytes")
        return await reader.readexactly(length)
    return None
