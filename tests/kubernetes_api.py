"""A Kubernetes API server as far as clients see it: lists, watches, patches and the scale subresource, over sockets.

Floor: tests only. It speaks the real protocol: one version for all objects, pages with `continue`, watches of chunked
JSON lines from a version on, by selector (what matches no more is DELETED), bookmarks, `timeoutSeconds`, 410 for what
was compacted, bearer tokens and rights. And it fails as real ones do: it is killed, cuts lines, hangs, answers slowly.

    with FakeKubernetes() as api:
        api.apply("/api/v1", "pods", "acme", {"metadata": {"name": "a", "labels": {"app": "vllm"}}})
        ... GET {api.url}/api/v1/namespaces/acme/pods?watch=1&labelSelector=app%3Dvllm
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import re
import ssl
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.kubernetes_store import Collection, Labels, Object, Refused, Store, event, stamp

CALL_SECONDS = 60.0
_PATH = re.compile(
    r"(?P<api>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>[a-z]+))?"
)


@dataclass(frozen=True)
class Call:
    """A request that came in. `verb`: as rights name it."""

    verb: str
    path: str
    params: dict[str, str]
    token: str | None


@dataclass(eq=False)
class _Watch:
    collection: Collection
    namespace: str | None
    selector: str
    writer: asyncio.StreamWriter
    bookmarks: bool
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    seen: int = 0
    due: bool = False  # a bookmark, once all that it stands for was told
    end: bytes | None = None  # what is written last, before the connection is cut


class FakeKubernetes:
    """One API server on a thread. `tokens`: who may call, None for everybody; `rights`: (verb, plural or
    plural/subresource, namespace) that are granted, None for all."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, tokens: set[str] | None = None) -> None:
        self.tokens = tokens
        self.rights: set[tuple[str, str, str]] | None = None
        self.calls: list[Call] = []
        self.refuse: tuple[int, str] | None = None  # status and further headers of every answer
        self.hangs = False
        self.expire_pages = 0  # so many further pages are too old when they are asked for
        self.piece = 0  # bytes in one write of a watch; 0: whole lines
        self._tls = tls
        self._store = Store(self._wake)
        self._watches: set[_Watch] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FakeKubernetes:
        self._thread.start()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def page(self) -> int:
        """Objects in one answer at most."""
        return self._store.page

    @page.setter
    def page(self, objects: int) -> None:
        self._store.page = objects

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls is not None else ''}://localhost:{self.port}"

    # -- objects

    def apply(self, api: str, plural: str, namespace: str, wanted: Object) -> Object:
        """Makes an object, or merges this into it as a patch does."""
        name = wanted["metadata"]["name"]
        return self._do(lambda: self._store.merge((api, plural), namespace, name, wanted, make=True))

    def delete(self, api: str, plural: str, namespace: str, name: str) -> None:
        """It is gone."""
        self._do(lambda: self._store.delete((api, plural), namespace, name))

    def get(self, api: str, plural: str, namespace: str, name: str) -> Object:
        return self._do(lambda: copy.deepcopy(self._store.objects[api, plural][namespace, name]))

    def pod(
        self, name: str, namespace: str = "acme", *, port: int | None = None, ip: str = "127.0.0.1", ready: bool = True,
        labels: Labels | None = None, annotations: Labels | None = None, ending: bool = False,
    ) -> Object:  # fmt: skip
        """A pod of the label app=vllm, made or changed; `port`: of its container, by the name `http`."""
        wanted: Object = {
            "metadata": {"name": name, "labels": {"app": "vllm", **(labels or {})}, "annotations": annotations or {}},
            "status": {
                "phase": "Running",
                "podIP": ip,
                "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
            },
        }
        if port is not None:
            wanted["spec"] = {"containers": [{"name": "engine", "ports": [{"name": "http", "containerPort": port}]}]}
        if ending:
            wanted["metadata"]["deletionTimestamp"] = stamp(0)
        return self.apply("/api/v1", "pods", namespace, wanted)

    def remove_pod(self, name: str, namespace: str = "acme") -> None:
        self.delete("/api/v1", "pods", namespace, name)

    def compact(self) -> None:
        """What lies behind is forgotten: who asks for it gets 410."""
        self._do(self._store.compact)

    # -- faults

    def kill(self) -> None:
        """Nobody listens any more, and all connections break."""

        async def work() -> None:
            if self._server is not None:
                self._server.close()
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

        self._run(work())

    def start(self) -> None:
        """It listens, at the port where it did before."""

        async def work() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
            self.port = self._server.sockets[0].getsockname()[1]

        self._run(work())

    def cut(self) -> None:
        """Breaks every watch, in the middle of a line."""
        self._end_watches(b'{"type":"ADDED","object":{"metadata":{"na')

    def expire(self) -> None:
        """Compacts, and says so on every watch."""
        self.compact()
        status = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}
        self._end_watches(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")

    def babble(self) -> None:
        """Says something on every watch that no API says."""
        self._end_watches(b'{"type":"ADDED","object":[1,2]}\n')

    def bookmark(self) -> None:
        """Tells every watch that wants it which version it has."""

        def work() -> None:
            self._store.version += 1
            for watch in self._watches:
                watch.due = watch.bookmarks
                watch.wake.set()

        self._do(work)

    @property
    def watching(self) -> int:
        """Watches that are open."""
        return self._do(lambda: len(self._watches))

    # -- inside: connections

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                while await self._one(reader, writer):
                    pass
            writer.close()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._tasks.discard(task)

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, target, _ = first.split(" ")
        parts = urlsplit(target)
        params = {name: values[0] for name, values in parse_qs(parts.query).items()}
        token = headers["authorization"].removeprefix("Bearer ") if "authorization" in headers else None
        verb = {"PATCH": "patch", "DELETE": "delete", "POST": "create", "PUT": "update"}.get(method, "list")
        verb = "watch" if params.get("watch") in ("1", "true") else verb
        self.calls.append(Call(verb, unquote(parts.path), params, token))
        while self.hangs:  # noqa: ASYNC110  # tests set it from their own thread
            await asyncio.sleep(0.01)
        try:
            return await self._answer(Call(verb, unquote(parts.path), params, token), headers, body, writer)
        except Refused as no:
            said = {"kind": "Status", "status": "Failure", "code": no.code, "reason": no.reason, "message": no.message}
            _whole(writer, no.code, said, no.headers)
        await writer.drain()
        return True

    async def _answer(self, call: Call, headers: Labels, body: bytes, writer: asyncio.StreamWriter) -> bool:
        if self.refuse is not None:
            raise Refused(self.refuse[0], "ServerError", "not now", self.refuse[1])
        if self.tokens is not None and call.token not in self.tokens:
            raise Refused(401, "Unauthorized", "Unauthorized")
        if self.expire_pages and "continue" in call.params:
            self.expire_pages -= 1
            raise Refused(410, "Expired", "The provided continue parameter is too old")
        found = _PATH.fullmatch(call.path)
        if found is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        collection, namespace = (found["api"], found["plural"]), found["namespace"]
        verb = "get" if call.verb == "list" and found["name"] else call.verb
        resource = "/".join(filter(None, (found["plural"], found["part"])))
        if self.rights is not None and (verb, resource, namespace or "") not in self.rights:
            raise Refused(403, "Forbidden", f'cannot {verb} resource "{resource}" in the namespace "{namespace}"')
        if verb == "watch":
            await self._watch(call, collection, namespace, writer)
            return False
        if verb == "list":
            _whole(writer, 200, self._store.list(call.params, collection, namespace))
        elif verb == "get":
            one = self._store.objects.get(collection, {}).get((namespace or "", found["name"]))
            if one is None:
                raise Refused(404, "NotFound", f'{found["plural"]} "{found["name"]}" not found')
            _whole(writer, 200, one)
        elif verb == "patch":
            if headers.get("content-type") != "application/merge-patch+json":
                raise Refused(415, "UnsupportedMediaType", "the body of the request was in an unknown format")
            patch = json.loads(body)
            _whole(writer, 200, self._store.merge(collection, namespace or "", found["name"], patch))
        else:
            raise Refused(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
        await writer.drain()
        return True

    async def _watch(
        self, call: Call, collection: Collection, namespace: str | None, writer: asyncio.StreamWriter
    ) -> None:
        asked = int(call.params.get("resourceVersion") or 0)
        if asked < self._store.oldest:
            raise Refused(410, "Expired", f"too old resource version: {asked} ({self._store.oldest})")
        bookmarks = call.params.get("allowWatchBookmarks") == "true"
        watch = _Watch(collection, namespace, call.params.get("labelSelector", ""), writer, bookmarks, seen=asked)
        # A connection that ends without a word may have the client's next request on it already.
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\n"
        writer.write(head + b"transfer-encoding: chunked\r\n\r\n")
        self._watches.add(watch)
        try:
            async with asyncio.timeout(float(call.params.get("timeoutSeconds", 3600))):
                while watch.end is None:
                    await self._send(watch)
                    self._mark(watch)
                    await watch.wake.wait()
                    watch.wake.clear()
            writer.write(b"%x\r\n%b" % (len(watch.end) + (not watch.end.endswith(b"\n")), watch.end))
            await writer.drain()
        except TimeoutError:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            self._watches.discard(watch)

    def _mark(self, watch: _Watch) -> None:
        if watch.due and next(self._store.since(watch.collection, watch.seen), None) is None:
            watch.due, meta = False, {"resourceVersion": str(self._store.version)}
            line = json.dumps({"type": "BOOKMARK", "object": {"kind": "Pod", "metadata": meta}}).encode()
            _chunk(watch.writer, line + b"\n")

    async def _send(self, watch: _Watch) -> None:
        """What has changed since it last was told."""
        for change in self._store.since(watch.collection, watch.seen):
            watch.seen = change.version
            told = event(change, watch.namespace, watch.selector)
            if told is None:
                continue
            line = json.dumps(told).encode() + b"\n"
            size = self.piece or len(line)
            for start in range(0, len(line), size):
                _chunk(watch.writer, line[start : start + size])
                await watch.writer.drain()
                if self.piece:
                    await asyncio.sleep(0.001)

    def _end_watches(self, last: bytes) -> None:
        def work() -> None:
            for watch in self._watches:
                watch.end = last
                watch.wake.set()

        self._do(work)

    # -- inside: the thread

    def _wake(self) -> None:
        for watch in self._watches:
            watch.wake.set()

    def _do(self, work: Callable[[], Any]) -> Any:
        async def run() -> Any:
            return work()

        return self._run(run())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_SECONDS)


def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def _whole(writer: asyncio.StreamWriter, status: int, body: Object, headers: str = "") -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n{headers}\r\n"
    writer.write(head.encode() + data)
