"""Answers in Redis 6.2 to 8 or Valkey, shared by replicas and kept over their restarts.

Floor: an adapter. A tenant's keys share a hash tag, so that a script's keys lie in one slot of a cluster:

    promptlane:{TENANT}:cache:KEY      a sealed answer, until its time is over
    promptlane:{TENANT}:cache          the keys there are, by the millisecond at which they end
    promptlane:{TENANT}:cache-sizes    the bytes of each, and of all under the empty name
    promptlane:{TENANT}:cache-age      drawn anew by each purge

Where there is no more room those that end first go first. The seal is made by the tenant's secret over key and answer:
who can write to Redis can neither make an answer nor put one tenant's, or one request's, in the place of another's. An
ACL user needs, beside what replicas do, `+zadd +zcard +zrange +zrangebyscore +zrem`.
"""

from __future__ import annotations

import hmac
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from secrets import token_hex
from typing import Any, Final

from policies.answer_shelf import ENTRY_BYTES
from policies.breaker import Breaker
from router.coordination.redis_client import RedisClient
from router.coordination.store import StoreLost
from router.metrics import Metrics
from router.response_cache.store import ANSWERS, Age, StoreAway

_log = logging.getLogger("promptlane.cache")

_SEAL_BYTES: Final = 16
# Longer than any answer is kept: what is said of answers must not end before they do.
_KEPT_MILLISECONDS: Final = 32 * 86_400_000
# Entries that one call drops at most: some milliseconds of the server, for which others wait.
_AT_ONCE: Final = 1000
_AGE_CHANGED, _TOO_LARGE = -1, -2

_SIZES = """
local total = tonumber(redis.call('HGET', KEYS[2], '') or '0')
local function drop(name)
  total = total - tonumber(redis.call('HGET', KEYS[2], name) or '0')
  redis.call('HDEL', KEYS[2], name)
  redis.call('ZREM', KEYS[1], name)
end
"""
_PUT = (
    """
if (redis.call('GET', KEYS[3]) or '') ~= ARGV[6] then return {-1, 0, 0} end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
"""
    + _SIZES
    + """
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[7])) do drop(name) end
drop(ARGV[1])
local size, room, evicted = #ARGV[2] + tonumber(ARGV[8]), true, 0
while total + size > tonumber(ARGV[4]) or redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[5]) do
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not oldest or evicted >= tonumber(ARGV[7]) then room = false break end
  redis.call('DEL', KEYS[1] .. ':' .. oldest)
  drop(oldest)
  evicted = evicted + 1
end
if room then
  redis.call('SET', KEYS[4], ARGV[2], 'PX', ARGV[3])
  redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], size)
  total = total + size
else
  redis.call('DEL', KEYS[4])
end
redis.call('HSET', KEYS[2], '', total)
redis.call('PEXPIRE', KEYS[1], ARGV[9])
redis.call('PEXPIRE', KEYS[2], ARGV[9])
return {room and evicted or -2, redis.call('ZCARD', KEYS[1]), total, evicted}
"""
)
_PURGE = (
    """
redis.call('SET', KEYS[3], ARGV[1], 'PX', ARGV[3])
"""
    + _SIZES
    + """
local found = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)
for _, name in ipairs(found) do
  redis.call('DEL', KEYS[1] .. ':' .. name)
  drop(name)
end
if redis.call('ZCARD', KEYS[1]) == 0 then redis.call('DEL', KEYS[2]) else redis.call('HSET', KEYS[2], '', total) end
return #found
"""
)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one tenant's answers. `ttl`: seconds."""

    max_bytes: int
    max_entries: int
    ttl: float


class SharedAnswers:
    """The Redis of all tenants of this process, and whether it is there. `clock`: monotonic seconds."""

    def __init__(self, client: RedisClient, clock: Callable[[], float], metrics: Metrics, prefix: str) -> None:
        self.prefix = prefix
        self.metrics = metrics
        self._client = client
        self._clock = clock
        self._breaker = Breaker()

    @property
    def away(self) -> bool:
        return self._breaker.open

    async def call(self, *command: str | bytes | int) -> Any:
        """The server's answer. Raises StoreAway, at once where it was away a moment ago."""
        if not self._breaker.allows(self._clock()):
            self.metrics.add("promptlane_cache_calls", "skipped")
            raise StoreAway("Redis was away a moment ago")
        try:
            answer = await self._client.call(*command)
        except StoreLost as error:
            self._ended(well=False)
            raise StoreAway(str(error)) from None
        self._ended(well=True)
        return answer

    def _ended(self, *, well: bool) -> None:
        before = self._breaker.open
        self._breaker.ended(self._clock(), well=well)
        self.metrics.add("promptlane_cache_calls", "ok" if well else "failed")
        if before and well:
            _log.info("Redis keeps answers again")
        elif self._breaker.open and not before:
            _log.warning("Redis is away: answers are neither found nor kept")

    async def close(self) -> None:
        await self._client.close()


class RedisStore:
    """Of one tenant. `secret`: its own, that seals are made by."""

    kind = "redis"

    def __init__(self, tenant: str, shared: SharedAnswers, bounds: Bounds, secret: bytes) -> None:
        self._tenant = tenant
        self._shared = shared
        self._bounds = bounds
        self._secret = secret
        index = f"{shared.prefix}{{{tenant}}}:cache"
        self._index, self._sizes, self._age = index, f"{index}-sizes", f"{index}-age"
        self._entries = self._bytes = 0

    async def get(self, key: bytes) -> tuple[bytes | None, Age | None]:
        try:
            sealed, age = await self._shared.call("MGET", self._place(key), self._age)
        except StoreAway:
            return None, None
        return self._opened(key, sealed), age or b""

    async def put(self, key: bytes, data: bytes, age: Age) -> None:
        bounds, keys = self._bounds, (self._index, self._sizes, self._age, self._place(key))
        says = (
            key.hex(), self._seal(key, data) + data, math.ceil(bounds.ttl * 1000), bounds.max_bytes,
            bounds.max_entries, age, _AT_ONCE, ENTRY_BYTES, _KEPT_MILLISECONDS,
        )  # fmt: skip
        try:
            result, entries, size, *evicted = await self._shared.call("EVAL", _PUT, len(keys), *keys, *says)
        except StoreAway:
            self._count("failed")
            return
        if result == _AGE_CHANGED:
            return
        self._entries, self._bytes = entries, size
        self._count("too_long" if result == _TOO_LARGE else "stored")
        if evicted[0]:
            self._count("evicted", evicted[0])

    async def purge(self) -> int:
        age, purged = token_hex(8), 0
        keys = (self._index, self._sizes, self._age)
        while True:
            dropped: int = await self._shared.call("EVAL", _PURGE, len(keys), *keys, age, _AT_ONCE, _KEPT_MILLISECONDS)
            purged += dropped
            if dropped < _AT_ONCE:
                self._entries = self._bytes = 0
                return purged

    def describe(self) -> dict[str, Any]:
        return {"entries": self._entries, "bytes": self._bytes, "away": self._shared.away}

    def _count(self, result: str, amount: int = 1) -> None:
        self._shared.metrics.add(ANSWERS, self._tenant, result, amount=amount)

    def _place(self, key: bytes) -> str:
        return f"{self._index}:{key.hex()}"

    def _seal(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(self._secret, b"seal:" + key + data, "sha256")[:_SEAL_BYTES]

    def _opened(self, key: bytes, sealed: bytes | None) -> bytes | None:
        if sealed is None:
            return None
        data = sealed[_SEAL_BYTES:]
        return data if hmac.compare_digest(sealed[:_SEAL_BYTES], self._seal(key, data)) else None
