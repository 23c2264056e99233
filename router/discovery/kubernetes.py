"""Endpoints by the pods of a namespace that a label selector finds: listed once, then watched.

Floor: an adapter over the API.

    list, page by page -> watch from its version -> its time is over, or it broke: watch again from the last version
          ^                                      -> that version is too old (410), or nonsense: ----+
          +----------------------------------------------------------------------------------------+

A pod is an endpoint from the moment at which it is ready; one that is not ready any more gets nothing new, and neither
does one that ends. It is forgotten when the API says that it is gone, and only then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from policies.discovery import Found
from router.discovery.source import Source
from router.kubernetes_api import ApiFailed, KubernetesApi
from router.wire.kubernetes import (
    EXPIRED,
    Ended,
    Event,
    Lines,
    Malformed,
    Pod,
    PodRules,
    endpoint_of,
    read_event,
    read_list,
)

_log = logging.getLogger("promptlane.discovery")

_PAGE = 500  # pods in one answer
_LATE_SECONDS = 10.0  # after its time a watch is taken for dead
_SHORT_SECONDS = 1.0  # watches that end sooner are followed by a pause, or they would be asked for all the time


@dataclass(frozen=True, slots=True)
class Watched:
    """Which pods. `watch_seconds`: for how long one watch lasts."""

    namespace: str
    selector: str
    watch_seconds: float


class KubernetesSource(Source):
    """`api` is its own: nobody else uses it."""

    def __init__(
        self,
        pool: str,
        watched: Watched,
        rules: PodRules,
        api: KubernetesApi,
        clock: Callable[[], float],
        random: Random,
    ) -> None:
        super().__init__(pool, f"pods {watched.selector} in namespace {watched.namespace}", clock, random)
        self._watched = watched
        self._rules = rules
        self._api = api
        self._path = f"/api/v1/namespaces/{watched.namespace}/pods"
        self._pods: dict[str, Found] = {}  # by pod
        self._version: str | None = None  # None: to be listed
        self._warned: dict[str, str] = {}  # by pod

    async def stop(self) -> None:
        await super().stop()
        await self._api.renew()

    async def _look(self) -> None:
        began = self._clock()
        try:
            if self._version is None:
                self._version = await self._list()
                self._well()
            await self._watch()
        except Ended as ended:
            expired = ended.code == EXPIRED
            self._version = None
            self._failed("expired" if expired else "ended", "the watch was ended: what it knew is too old" if expired
                         else f"the watch was ended with {ended.code}")  # fmt: skip
            await self._rest()
        except Malformed as error:
            self._version = None
            self._failed("malformed", str(error))
            await self._rest()
        except ApiFailed as failed:
            if failed.status:
                self._version = None  # it refuses: begin again when it does not
            self._failed(failed.cause, str(failed))
            await self._api.renew()
            await self._rest(failed.retry_after)
        else:
            if self._clock() - began < _SHORT_SECONDS:
                await self._rest()

    async def _list(self) -> str:
        """All pods, and the version that they have together."""
        pods: dict[str, Found] = {}
        listed: set[str] = set()
        more = ""
        while True:
            params: dict[str, str | int] = {"labelSelector": self._watched.selector, "limit": _PAGE}
            if more:
                params["continue"] = more
            page = read_list(await self._api.call("GET", self._path, params=params))
            for pod in page.items or ():
                listed.add(_key(pod))
                self._note(pod, pods)
            more = page.metadata.more
            if not more:
                break
        self._pods = pods
        self._warned = {key: said for key, said in self._warned.items() if key in listed}
        self._told(pods.values())
        return page.metadata.resourceVersion

    async def _watch(self) -> None:
        """Until its time is over or it breaks."""
        seconds = max(1, round(self._watched.watch_seconds * self._random.uniform(0.8, 1.0)))
        params: dict[str, str | int] = {
            "labelSelector": self._watched.selector,
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version or "",
            "timeoutSeconds": seconds,
        }
        lines = Lines()
        async with self._api.stream("GET", self._path, seconds + _LATE_SECONDS, params=params) as pieces:
            self._right()
            async for piece in pieces:
                changed = False
                for line in lines.feed(piece):
                    changed = self._take(read_event(line)) or changed
                if changed:
                    self._told(self._pods.values())
                self._right()
                self._well()

    def _take(self, event: Event) -> bool:
        """Whether it says something of a pod."""
        self._version = event.pod.metadata.resourceVersion or self._version
        if event.kind == "DELETED":
            self._warned.pop(_key(event.pod), None)
            return self._pods.pop(_key(event.pod), None) is not None
        if event.kind not in ("ADDED", "MODIFIED"):
            return False
        self._note(event.pod, self._pods)
        return True

    def _note(self, pod: Pod, pods: dict[str, Found]) -> None:
        """What the pod is now, among `pods`."""
        key, found = _key(pod), endpoint_of(pod, self._rules)
        known = self._pods.get(key)
        if isinstance(found, str):
            if self._warned.get(key) != found:
                _log.warning("pod %s is no endpoint of pool %s: %s", pod.metadata.name, self.pool, found)
                self.failures["unusable"] += 1
            self._warned[key] = found
            found = None
        else:
            self._warned.pop(key, None)
        # One that was never ready is still loading its model; where it was known before, it only gets nothing new.
        if found is None or not (found.ready or known is not None) or (found.leaving and known is None):
            pods.pop(key, None)
        else:
            pods[key] = found


def _key(pod: Pod) -> str:
    return pod.metadata.uid or pod.metadata.name
