"""An engine that counts what really reaches it, by tenant."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

MODEL = "chat"
TOKENS = 20
"""Of a request: of its prompt, which is token ids, so that nothing of it is an estimate, and one for the answer."""
_USAGE = {"prompt_tokens": TOKENS - 1, "completion_tokens": 1, "total_tokens": TOKENS}
_CHOICE = {"index": 0, "text": "hi", "finish_reason": "stop"}
_ANSWER = json.dumps(
    {"id": "x", "object": "text_completion", "created": 1, "model": MODEL, "choices": [_CHOICE], "usage": _USAGE}
).encode()


def key(tenant: str) -> str:
    return f"pl-{tenant}-limits-key"


@dataclass
class CountingEngine:
    """Answers after `seconds`. `admitted`, `running`, `most` (at once), `arrivals`: by tenant, which clients write into
    `user`."""

    seconds: float
    port: int = 0
    admitted: Counter[str] = field(default_factory=Counter)
    running: Counter[str] = field(default_factory=Counter)
    most: Counter[str] = field(default_factory=Counter)
    arrivals: dict[str, list[float]] = field(default_factory=dict)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def stop(self) -> None:
        """Gives up what it is doing."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = next((int(one[15:]) for one in head.split(b"\r\n") if one.startswith(b"content-length:")), 0)
                body = await reader.readexactly(length)
                if head.startswith(b"post /v1/completions"):
                    await self._count(json.loads(body)["user"])
                    self._answer(writer, _ANSWER)
                else:
                    self._answer(writer, b"")
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()

    async def _count(self, tenant: str) -> None:
        self.admitted[tenant] += 1
        self.arrivals.setdefault(tenant, []).append(time.monotonic())
        self.running[tenant] += 1
        self.most[tenant] = max(self.most[tenant], self.running[tenant])
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.running[tenant] -= 1

    @staticmethod
    def _answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )


@asynccontextmanager
async def listening(engine: CountingEngine) -> AsyncIterator[CountingEngine]:
    """While it serves, on a free port."""
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, backlog=2048)
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        await engine.stop()
