"""A Redis or Valkey by its URL: every call ends in time, and what one turn of the event loop asks for travels together.

Floor: an adapter over redis-py. The URL is redis://, rediss:// (TLS) or unix://, as redis-py reads it, with the user of
an ACL before the host if there is one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

# Seconds for a call, its connection included.
TIMEOUT_SECONDS: Final = 0.5

Command = tuple[str | bytes | int, ...]


class RedisLost(Exception):
    """Redis cannot be reached, did not answer in time or refuses; nothing is known of what it did."""


def connect(url: str, timeout: float = TIMEOUT_SECONDS) -> RedisClient:
    """A client that connects at its first call."""
    return RedisClient(url, timeout)


class RedisClient:
    """Calls made within one turn become one pipeline, in their order. Nothing is sent twice: a call that was executed
    late could then be executed twice."""

    def __init__(self, url: str, timeout: float) -> None:
        settings: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "driver_info": None,  # CLIENT SETINFO is nothing that an ACL user should need
        }
        self.timeout = timeout
        self._client: Redis = Redis.from_url(url, **settings)
        self._batch: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()

    async def call(self, *command: str | bytes | int) -> Any:
        """The server's answer. Raises RedisLost."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        if not self._batch:
            asyncio.get_running_loop().call_soon(self._send)
        self._batch.append((command, answer))
        return await answer

    async def close(self) -> None:
        """Lets go of the connections."""
        await self._client.aclose()

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        task = asyncio.create_task(self._exchange(batch), name="redis")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _exchange(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        answers: list[Any] = [RedisLost("the call was given up")] * len(batch)
        try:
            answers = await self._execute([command for command, _ in batch])
        except (RedisError, OSError, TimeoutError) as error:
            answers = [error] * len(batch)
        finally:  # whatever it was, nobody waits for ever
            self._tell(batch, answers)

    def _tell(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]], answers: Sequence[Any]) -> None:
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue  # nobody waits any more
            if isinstance(answer, Exception):
                future.set_exception(RedisLost(str(answer) or f"no answer within {self.timeout:g} s"))
            else:
                future.set_result(answer)

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        async with asyncio.timeout(self.timeout):
            pipeline = self._client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers
