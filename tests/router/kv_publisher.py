"""The event sockets of an engine, as vLLM's publisher binds them: a PUB and a ROUTER that replays what it remembers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from policies.kv_tree import BlockRemoved, BlockStored, CacheEvent

END = (-1).to_bytes(8, "big", signed=True)


def encode(events: Sequence[CacheEvent], stamp: float = 0.0) -> bytes:
    return msgspec.msgpack.encode([stamp, [as_map(event) for event in events], 0])


def as_map(event: CacheEvent) -> dict[str, Any]:
    if isinstance(event, BlockStored):
        return {
            "type": "BlockStored",
            "block_hashes": event.hashes,
            "parent_block_hash": event.parent,
            "token_ids": [1] * (len(event.hashes) * event.block_size),
            "block_size": event.block_size,
            "lora_id": None,
            "medium": "GPU",
            "session_id": event.session,
        }
    if isinstance(event, BlockRemoved):
        return {"type": "BlockRemoved", "block_hashes": event.hashes, "medium": "GPU"}
    return {"type": "AllBlocksCleared"}


class Publisher:
    """One engine process. `lost` messages are remembered but not sent; `remembers` bounds what a replay finds."""

    def __init__(self, stamp: float = 0.0, remembers: int = 10_000, host: str = "127.0.0.1") -> None:
        self.host = host
        self.stamp = stamp
        self.sequence = 0
        self.buffer: deque[tuple[int, bytes]] = deque(maxlen=remembers)
        self.replays: list[int] = []
        self.drops: set[int] = set()  # numbers that the next replay leaves out, as a full send queue does

    async def open(self, events: int = 0, replay: int | None = 0) -> None:
        self.context = zmq.asyncio.Context()
        self.pub = self.context.socket(zmq.XPUB)
        self.port = _bind(self.pub, events, self.host)
        self.replay_port: int | None = None
        self.task: asyncio.Task[None] | None = None
        if replay is not None:
            self.router = self.context.socket(zmq.ROUTER)
            self.replay_port = _bind(self.router, replay, self.host)
            self.task = asyncio.create_task(self._serve())

    async def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
        self.context.destroy(linger=0)

    @property
    def url(self) -> str:
        return f"tcp://{self.host}:{self.port}"

    @property
    def replay_url(self) -> str | None:
        return None if self.replay_port is None else f"tcp://{self.host}:{self.replay_port}"

    async def subscribed(self) -> None:
        """Returns once a subscription has arrived: what is sent from now on will be heard."""
        await self.pub.recv()

    async def left(self) -> None:
        """Returns once the last subscriber is gone."""
        assert await self.pub.recv() == b"\x00"

    async def publish(self, *events: CacheEvent, lost: bool = False, payload: bytes | None = None) -> None:
        payload = encode(events, self.stamp) if payload is None else payload
        number = self.sequence.to_bytes(8, "big")
        self.buffer.append((self.sequence, payload))
        self.sequence += 1
        if not lost:
            await self.pub.send_multipart([b"kv-events", number, payload])

    async def _serve(self) -> None:
        while True:
            client, _, start = await self.router.recv_multipart()
            first = int.from_bytes(start, "big")
            self.replays.append(first)
            drops, self.drops = self.drops, set()
            for number, payload in list(self.buffer):
                if number >= first and number not in drops:
                    await self.router.send_multipart([client, b"", b"kv-events", number.to_bytes(8, "big"), payload])
            await self.router.send_multipart([client, b"", b"", END, b""])


def _bind(socket: zmq.asyncio.Socket, port: int, host: str) -> int:
    if port:
        socket.bind(f"tcp://{host}:{port}")
        return port
    return socket.bind_to_random_port(f"tcp://{host}", min_port=20000, max_port=32000)
