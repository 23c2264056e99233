"""One engine's KV events, followed: in order, without gaps, and known to be of one process.

Floor: an adapter over ZeroMQ (pyzmq), under `router.kv_events`. Messages are numbered: one that is missing is asked for
at the engine's replay socket, and what cannot be had again means that the index starts anew from here
(`ExactIndex.lost`). A number that was used before, or a message that reads differently when it is asked for again, is
another engine process. Nothing here waits for an engine longer than `_REPLAY_SECONDS`, and the event loop is given back
after every `_SLICE` blocks.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

import zmq
import zmq.asyncio
from xxhash import xxh3_128_digest
from zmq.utils.monitor import parse_monitor_message

from policies.kv_tree import AllBlocksCleared, CacheEvent
from router.kv_events import Feed
from router.wire.kv_events import MAX_PAYLOAD_BYTES, EndOfReplay, EventBatch, Malformed, read_message, replay_request

_log = logging.getLogger("promptlane.kv_events")

# Engine blocks between two chances for other tasks: about 2 ms of work.
_SLICE = 1_000
# Messages taken at once; each costs some 20 µs to read.
_MESSAGES = 64
# Seconds without a message after which the engine is asked whether there was one: a message lost just before the engine
# fell idle would otherwise be missed for as long as it idles.
_IDLE_SECONDS = 5.0
# Seconds between two messages of a replay. Engines answer within 0.1 s, a stalled one should not keep us.
_REPLAY_SECONDS = 3.0
# An engine's replay socket drops what does not fit in its send queue (1,000 messages) and remembers 10,000 by default.
_REPLAY_ROUNDS = 32
# Messages that may wait here; the engine drops further ones, and they are asked for again.
_QUEUE = 10_000
# Seconds after which a silent peer is taken for gone: a machine that vanished closes no connection.
_HEARTBEAT_SECONDS, _GONE_SECONDS = 2.0, 6.0


class Follower:
    """One subscription. `_applied`: the last message that the index knows, and `_digest` what it read like; `_live`:
    the last one that came by itself. Both numbers are -1 before the first. `_begun`: there is something to go on from.
    """

    def __init__(self, context: zmq.asyncio.Context, feed: Feed) -> None:
        self._context = context
        self._feed = feed
        self._index = feed.index
        self._applied = self._live = -1
        self._digest = b""
        self._begun = self._connected = self._broken = False
        self._worked = 0

    async def run(self) -> None:
        subscriber = self._context.socket(zmq.SUB)
        _shape(subscriber)
        subscriber.subscribe(b"")
        monitor = subscriber.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        poller = zmq.asyncio.Poller()
        poller.register(subscriber, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        try:
            subscriber.connect(self._feed.events_url)
            while True:
                ready = dict(await poller.poll(int(_IDLE_SECONDS * 1000)))
                if subscriber in ready and not await self._drain(subscriber):
                    continue  # what came before a connection broke is read before that is noticed
                if monitor in ready:
                    await self._connection(await monitor.recv_multipart())
                if self._connected and (self._index.doubtful or not ready):
                    await self._catch_up()
        finally:
            subscriber.disable_monitor()
            monitor.close(linger=0)
            subscriber.close(linger=0)

    async def _connection(self, frames: Sequence[bytes]) -> None:
        self._connected = parse_monitor_message(list(frames))["event"] == zmq.EVENT_HANDSHAKE_SUCCEEDED
        if self._connected:
            if not await self._catch_up() and self._broken:
                self._index.lost()  # whether it is the process that we knew cannot be told
            self._broken = False
        else:
            self._broken = True
        self._index.listen(self._connected)
        _log.info("%s the KV events of %s", "following" if self._connected else "no longer hear", self._feed.name)

    async def _drain(self, subscriber: zmq.asyncio.Socket) -> bool:
        """Takes what has come; false when there may be more."""
        for _ in range(_MESSAGES):
            try:
                frames = await subscriber.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return True
            await self._take(frames)
        await asyncio.sleep(0)
        return False

    async def _take(self, frames: Sequence[bytes]) -> None:
        """One message that came by itself."""
        message = read_message(frames)
        if isinstance(message, EndOfReplay):
            return
        if message.sequence is None:
            self._spoiled(message)
            return
        number = message.sequence
        if number <= self._live:
            self._is_another()
            await self._catch_up()
        elif self._applied + 1 < number and self._begun:
            self._feed.count("gaps", 1)
            await self._catch_up()
        self._live = number
        if number <= self._applied:
            return  # a replay has brought it
        if number != self._applied + 1 or not self._begun:
            self._index.lost(complete=number == 0)
        await self._apply(message, frames[-1])

    def _forget(self) -> None:
        self._applied = self._live = -1
        self._digest, self._begun = b"", False

    async def _catch_up(self) -> bool:
        """Asks for what was missed. True when nothing is missing now, and it is the process that we knew, or its
        history has been read from as early as it is kept."""
        if self._index.doubtful:
            self._forget()
        if self._feed.replay_url is None:
            self._index.doubtful = False
            return False
        for _ in range(_REPLAY_ROUNDS):
            before = self._applied
            ended = await self._replay(self._feed.replay_url)
            self._feed.count("replays", self._applied > before)
            if ended is not None and (ended or self._applied <= before):
                return ended
        return False

    async def _replay(self, url: str) -> bool | None:
        """One request at the replay socket. True: all was told; False: nobody answers; None: ask again."""
        with self._context.socket(zmq.DEALER) as dealer:
            _shape(dealer)
            dealer.connect(url)
            await dealer.send_multipart(replay_request(max(0, self._applied)))
            first = True
            while await dealer.poll(int(_REPLAY_SECONDS * 1000)):
                frames = await dealer.recv_multipart()
                message = read_message(frames)
                if isinstance(message, EndOfReplay):
                    return True if not first else self._silent()
                if message.sequence is None:
                    continue
                if first and not self._fits(message.sequence, frames[-1]):
                    return None
                first = False
                if message.sequence > self._applied + 1:
                    return None  # the engine's send queue was full: ask again from here
                if message.sequence == self._applied + 1:
                    await self._apply(message, frames[-1])
        return False

    def _fits(self, number: int, payload: bytes) -> bool:
        """Whether the first message of a replay is one that we can go on from. False: it is another process."""
        if self._begun and number == self._applied and xxh3_128_digest(payload) != self._digest:
            self._is_another()
            return False
        if not self._begun or number > max(0, self._applied):  # what lay before is no longer kept
            self._index.lost(complete=number == 0)
            self._applied, self._begun = number - 1, True
        return True

    def _silent(self) -> bool | None:
        """The engine has no message at or after the one that we know."""
        if self._begun and self._applied >= 0:
            self._is_another()
            return None
        if not self._begun:
            self._index.lost(complete=True)  # it has told nothing yet: all that will be told is to come
            self._begun = True
        return True

    def _is_another(self) -> None:
        """The engine process that we knew is gone, and its cache with it."""
        _log.info("the engine of %s has restarted", self._feed.name)
        self._forget()
        self._index.restarted()

    async def _apply(self, message: EventBatch | Malformed, payload: bytes) -> None:
        assert message.sequence is not None  # noqa: S101  # both callers have looked
        self._applied, self._digest, self._begun = message.sequence, xxh3_128_digest(payload), True
        if isinstance(message, Malformed):
            self._spoiled(message)
            return
        self._feed.count("events", len(message.events))
        for event in message.events:
            self._index.apply(event)
            self._worked += _work(event)
            if self._worked >= _SLICE:
                self._worked = 0
                await asyncio.sleep(0)

    def _spoiled(self, message: Malformed) -> None:
        """What the message told is unknown, as if it had not come."""
        self._feed.count("malformed", 1)
        _log.warning("a KV event message of %s cannot be read: %s", self._feed.name, message.reason)
        self._index.lost()


def _work(event: CacheEvent) -> int:
    return 1 if isinstance(event, AllBlocksCleared) else 1 + len(event.hashes)


def _shape(socket: zmq.asyncio.Socket) -> None:
    for option, value in (
        (zmq.LINGER, 0),
        (zmq.RCVHWM, _QUEUE),
        (zmq.MAXMSGSIZE, MAX_PAYLOAD_BYTES),
        (zmq.HEARTBEAT_IVL, int(_HEARTBEAT_SECONDS * 1000)),
        (zmq.HEARTBEAT_TIMEOUT, int(_GONE_SECONDS * 1000)),
        (zmq.RECONNECT_IVL, 100),
        (zmq.RECONNECT_IVL_MAX, 5_000),
    ):
        socket.setsockopt(option, value)
