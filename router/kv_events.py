"""Listens to the KV events of a pool's engines, so that each endpoint's index knows what its cache really holds.

Floor: an adapter. pyzmq is an optional dependency, needed once a listener starts (`installed` tells before).
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.exact_index import ExactIndex

if TYPE_CHECKING:
    import zmq.asyncio

_log = logging.getLogger("promptlane.kv_events")

_RETRY_SECONDS = 1.0  # after a fault of our own


@dataclass(frozen=True, slots=True)
class Feed:
    """Where one engine tells its KV events. `count` adds to `events`, `gaps`, `replays` or `malformed`."""

    name: str
    index: ExactIndex
    events_url: str
    replay_url: str | None
    count: Callable[[str, int], None]


def installed() -> bool:
    """Whether pyzmq is there."""
    return importlib.util.find_spec("zmq") is not None


class KvEventListener:
    """Follows the feeds of one pool until `stop`. `feeds`: those of now, asked for again by `refresh`. `predecessor`:
    who followed them before a reload; it is stopped first, as an event told twice would be counted twice."""

    def __init__(
        self, pool: str, feeds: Callable[[], Sequence[Feed]], predecessor: KvEventListener | None = None
    ) -> None:
        self._pool = pool
        self._feeds = feeds
        self._predecessor = predecessor
        self._changed = asyncio.Event()
        self._following: dict[int, asyncio.Task[None]] = {}  # by the index's id: another index is another engine
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins listening, in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"kv events {self._pool}")

    def refresh(self) -> None:
        """Follows the feeds that there are now, and no others."""
        self._changed.set()

    async def stop(self) -> None:
        """Ends listening and closes the sockets; may be called again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        import zmq.asyncio  # only here, so that a gateway without such pools needs no pyzmq

        if self._predecessor is not None:
            await self._predecessor.stop()
            self._predecessor = None
        context = zmq.asyncio.Context()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    self._changed.clear()
                    await self._bring_in_line(context, group)
                    await self._changed.wait()
        finally:
            context.destroy(linger=0)

    async def _bring_in_line(self, context: zmq.asyncio.Context, group: asyncio.TaskGroup) -> None:
        wanted = {id(feed.index): feed for feed in self._feeds()}
        gone = [self._following.pop(index) for index in self._following.keys() - wanted.keys()]
        for task in gone:
            task.cancel()
        await asyncio.gather(*gone, return_exceptions=True)
        for index in wanted.keys() - self._following.keys():
            feed = wanted[index]
            task = group.create_task(self._follow(context, feed), name=f"kv events {feed.name}")
            self._following[index] = task

    async def _follow(self, context: zmq.asyncio.Context, feed: Feed) -> None:
        from router.kv_feed import Follower

        feed.index.followed = True
        try:
            while True:
                try:
                    await Follower(context, feed).run()
                except Exception:  # a background loop ends with its process, not with one odd message
                    _log.exception("following the KV events of %s failed", feed.name)
                    feed.count("malformed", 1)
                feed.index.listen(False)
                feed.index.lost()
                await asyncio.sleep(_RETRY_SECONDS)
        finally:
            feed.index.listen(False)
            feed.index.followed = False
