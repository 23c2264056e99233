"""A Redis or Valkey by its URL: every call ends in time, and what one turn asks for travels together.

Floor: an adapter over redis-py. The URL is redis://, rediss:// (TLS) or unix://, as redis-py reads it, with the user of
an ACL before the host if there is one; or

    redis+sentinel://user:password@host1:26379,host2:26379/SERVICE?db=0&sentinel_username=u&sentinel_password=p
    redis+cluster://user:password@host1:7000,host2:7000

and the same with rediss+. `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_check_hostname` may follow as a query.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio import Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from router.coordination.store import BadStoreUrl, StoreLost

_log = logging.getLogger("promptlane.coordination")

# Seconds for a call, its connection included: three of them fit in a lease, so one that hangs costs none.
TIMEOUT_SECONDS = 0.5
_KINDS = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_TLS_WORDS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")
_PORTS = {"sentinel": 26379, "cluster": 6379}

Command = tuple[str | bytes | int, ...]


class _Client(Protocol):
    """What the kinds of redis-py's clients have in common, as far as it is used."""

    def pipeline(self, transaction: Any = None) -> Any: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """A URL of several hosts. `rest`: the service of a sentinel URL."""

    tls: bool
    kind: str
    hosts: tuple[tuple[str, int], ...]
    username: str | None
    password: str | None
    rest: str
    query: dict[str, str]


class RedisClient:
    """Calls made within one turn of the event loop become one pipeline, in their order. Nothing is sent twice: what a
    call did that failed is not known. Connects at the first call. Raises BadStoreUrl."""

    def __init__(self, url: str, *, timeout: float = TIMEOUT_SECONDS) -> None:
        if urlsplit(url).scheme not in _KINDS:
            raise BadStoreUrl(f"a URL {', '.join(kind + '://…' for kind in _KINDS[:-1])} or {_KINDS[-1]}://… is needed")
        self.timeout = timeout
        self._url = url
        self._parts = _split(url) if "+" in url.split(":", 1)[0] else None
        self._client: _Client | None = None
        self._sentinels: list[_Client] = []
        self._batch: list[tuple[Command, asyncio.Future[Any]]] = []
        self._sending: set[asyncio.Task[None]] = set()
        if self._parts is None:
            self._client = self._connect()  # makes no connection yet, and says what is wrong with the URL

    async def call(self, *command: str | bytes | int) -> Any:
        """The server's answer. Raises StoreLost."""
        answer = asyncio.get_running_loop().create_future()
        if not self._batch:
            asyncio.get_running_loop().call_soon(self._send)
        self._batch.append((command, answer))
        return await answer

    async def close(self) -> None:
        clients, self._client, self._sentinels = [self._client, *self._sentinels], None, []
        for client in clients:
            if client is not None:
                await client.aclose()

    def _send(self) -> None:
        batch, self._batch = self._batch, []
        task = asyncio.create_task(self._exchange(batch), name="redis")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _exchange(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        answers: list[Any] = [StoreLost("the call ended before its answer")] * len(batch)  # a fault of ours, or the end
        try:
            answers = await self._execute([command for command, _ in batch])
        except (RedisError, OSError, TimeoutError) as error:
            answers = [error] * len(batch)
        finally:
            self._tell(batch, answers)

    def _tell(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]], answers: Sequence[Any]) -> None:
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue  # nobody waits any more
            if isinstance(answer, Exception):
                future.set_exception(StoreLost(_reason(answer, self.timeout)))
            else:
                future.set_result(answer)

    async def _execute(self, commands: Sequence[Command]) -> list[Any]:
        async with asyncio.timeout(self.timeout):
            if self._client is None:
                self._client = self._connect()
            pipeline = self._client.pipeline(transaction=False) if self._plain else self._client.pipeline()
            for command in commands:
                pipeline.execute_command(*command)
            answers: list[Any] = await pipeline.execute(raise_on_error=False)
            return answers

    @property
    def _plain(self) -> bool:
        return self._parts is None or self._parts.kind == "sentinel"

    def _connect(self) -> _Client:
        # A call is never sent again by the library: one that was executed late could then be executed twice.
        settings: dict[str, Any] = {
            "socket_timeout": self.timeout,
            "socket_connect_timeout": self.timeout,
            "retry": Retry(NoBackoff(), 0),
        }
        if self._parts is None:
            try:
                # No CLIENT SETINFO: that is nothing that an ACL user should need.
                client: _Client = Redis.from_url(self._url, driver_info=None, **settings)
            except (ValueError, TypeError) as error:
                raise BadStoreUrl(f"the store's URL cannot be read: {_safe(str(error), self._url)}") from None
            return client
        return self._cluster(self._parts, settings) if self._parts.kind == "cluster" else self._sentinel(settings)

    def _cluster(self, parts: _Parts, settings: dict[str, Any]) -> _Client:
        nodes = [ClusterNode(host, port) for host, port in parts.hosts]
        settings = {**settings, **_access(parts)}
        client: _Client = RedisCluster(startup_nodes=nodes, require_full_coverage=False, **settings)
        return client

    def _sentinel(self, settings: dict[str, Any]) -> _Client:
        parts = self._parts
        assert parts is not None  # noqa: S101  # asked for by `_connect`
        query = parts.query
        # A dead sentinel must leave time to ask the next one.
        each = self.timeout / (len(parts.hosts) + 1)
        asking = {**settings, **_tls(parts), "socket_timeout": each, "socket_connect_timeout": each}
        asking["username"], asking["password"] = query.get("sentinel_username"), query.get("sentinel_password")
        sentinel: Any = Sentinel(  # type: ignore[no-untyped-call]  # redis-py gives it no types
            parts.hosts, sentinel_kwargs=asking, db=int(query.get("db", "0")), **settings, **_access(parts)
        )
        self._sentinels = list(sentinel.sentinels)
        client: _Client = sentinel.master_for(parts.rest, redis_class=Redis)
        return client


def _split(url: str) -> _Parts:
    scheme, _, after = url.partition("://")
    place, _, query = after.partition("?")
    authority, _, rest = place.partition("/")
    user, _, hosts = authority.rpartition("@")
    name, _, password = user.partition(":")
    tls, _, kind = scheme.partition("+")
    words = {key: values[-1] for key, values in parse_qs(query).items()}
    allowed = {*_TLS_WORDS, "ssl_check_hostname", "db", "sentinel_username", "sentinel_password"}
    if unknown := sorted(set(words) - allowed):
        raise BadStoreUrl(f"the store's URL says {unknown[0]}, which is none of {', '.join(sorted(allowed))}")
    if not words.get("db", "0").isdecimal() or (kind == "cluster" and words.get("db", "0") != "0"):
        raise BadStoreUrl("db in the store's URL must be a number, and 0 for a cluster")
    if kind == "sentinel" and not rest:
        raise BadStoreUrl("a sentinel's URL ends with the service's name: redis+sentinel://host:26379/SERVICE")
    found = tuple(_host(one, _PORTS[kind]) for one in hosts.split(",") if one)
    if not found:
        raise BadStoreUrl("the store's URL names no host")
    return _Parts(tls == "rediss", kind, found, unquote(name) or None, unquote(password) or None, unquote(rest), words)


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "localhost", parts.port or port
    except ValueError:
        raise BadStoreUrl("a host in the store's URL is not host:port") from None


def _tls(parts: _Parts) -> dict[str, Any]:
    if not parts.tls:
        return {}
    checks = parts.query.get("ssl_check_hostname", "true").lower() not in ("false", "0", "no")
    words = {word: parts.query[word] for word in _TLS_WORDS if word in parts.query}
    return {"ssl": True, "ssl_check_hostname": checks, **words}


def _access(parts: _Parts) -> dict[str, Any]:
    return {"username": parts.username, "password": parts.password, **_tls(parts)}


def _reason(error: Exception, timeout: float) -> str:
    """Why, for an operator; nothing that redis-py says repeats a password."""
    if isinstance(error, TimeoutError) and not str(error):
        return f"no answer within {timeout:g} s"
    return str(error) or type(error).__name__


def _safe(text: str, url: str) -> str:
    return text.replace(url, "…")
