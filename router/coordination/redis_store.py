"""The store of replicas in Redis 6.2 to 8 or Valkey.

Floor: an adapter. Keys of a pool share a hash tag, so that a script's keys lie in one slot of a cluster:

    promptlane:{POOL}:lease    "TERM REPLICA ADDRESS", ends with the lease
    promptlane:{POOL}:term     the last term given out, kept for 30 days after it
    promptlane:replicas        who is there: name -> "UNTIL ADDRESS", in the server's milliseconds

A term is above the last one, above all that the asker knows of, and not below the server's clock in microseconds: so a
server that has lost its memory, or a replica of it that has not got the last write, still gives out none twice.
An ACL user needs `~promptlane:* +eval +time +get +mget +set +del +pexpire +hset +hdel +hgetall`, for the journal also
`+xadd +xrange +xrevrange +xtrim`, for limits `+hget +hincrby +info`, in a cluster also `+cluster|slots +cluster|shards
+cluster|nodes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policies.coordination.ownership import Lease
from router.coordination.redis_client import TIMEOUT_SECONDS, RedisClient
from router.coordination.store import PREFIX, Snapshot, StoreLost, together

# So long is a pool's last term remembered; the server's clock has long passed it by then.
_TERM_MILLISECONDS = 30 * 86_400_000

# Scripts are sent whole: they are short, servers keep them compiled, and one that has restarted needs no second call.
_ACQUIRE = """
if redis.call('GET', KEYS[1]) then return false end
local time = redis.call('TIME')
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local term = math.max(last + 1, tonumber(ARGV[3]) + 1, tonumber(time[1]) * 1000000 + tonumber(time[2]))
local text = string.format('%.0f', term)
redis.call('SET', KEYS[2], text, 'PX', ARGV[4])
redis.call('SET', KEYS[1], text .. ' ' .. ARGV[1], 'PX', ARGV[2])
return text
"""
_RENEW = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end return 0"
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"
_ANNOUNCE = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  if tonumber(string.match(all[i + 1], '^%d+') or '0') <= now then redis.call('HDEL', KEYS[1], all[i]) end
end
if tonumber(ARGV[3]) <= 0 then return redis.call('HDEL', KEYS[1], ARGV[1]) end
return redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', now + tonumber(ARGV[3])) .. ' ' .. ARGV[2])
"""
_REPLICAS = """
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local all, found = redis.call('HGETALL', KEYS[1]), {}
for i = 1, #all, 2 do
  local till, address = string.match(all[i + 1], '^(%d+) (.*)$')
  if till and tonumber(till) > now then found[#found + 1] = all[i]; found[#found + 1] = address end
end
return found
"""


class RedisStore:
    """`url`: see `redis_client`. `prefix`: before every key; the same for all replicas, and for nobody else."""

    def __init__(self, url: str, *, prefix: str = PREFIX, timeout: float = TIMEOUT_SECONDS) -> None:
        self.client = RedisClient(url, timeout=timeout)
        self.prefix = prefix

    async def look(self, pools: Sequence[str]) -> Snapshot:
        """Who owns these pools, and who is there. One round trip, whatever their number."""
        reads = [self.client.call("MGET", self.key(pool, "lease"), self.key(pool, "home")) for pool in pools]
        replicas, *seen = await together([self._eval(_REPLICAS, self._replicas), *reads])
        found = list(zip(pools, seen, strict=True))
        names = [_text(word) for word in replicas]
        return Snapshot(
            {pool: lease for pool, (text, _) in found if (lease := _lease(text)) is not None},
            dict(zip(names[::2], names[1::2], strict=True)),
            {pool: _text(home) for pool, (_, home) in found if home is not None},
        )

    async def acquire(self, pool: str, me: str, address: str, ttl: float, above: int = 0) -> Lease | None:
        """Takes a free lease; None where it is not free."""
        keys = (self.key(pool, "lease"), self.key(pool, "term"))
        term = await self._eval(_ACQUIRE, *keys, args=(_words(me, address), _ms(ttl), above, _TERM_MILLISECONDS))
        return Lease(me, address, int(term)) if term is not None else None

    async def renew(self, lease: Lease, pool: str, ttl: float) -> bool:
        """Lengthens this lease. False: it is gone."""
        return bool(await self._eval(_RENEW, self.key(pool, "lease"), args=(_value(lease), _ms(ttl))))

    async def release(self, lease: Lease, pool: str) -> None:
        """Frees the pool if this lease still holds it."""
        await self._eval(_RELEASE, self.key(pool, "lease"), args=(_value(lease),))

    async def settle(self, pool: str, home: str, ttl: float) -> None:
        """Says where the pool is at home, for so long."""
        await self.client.call("SET", self.key(pool, "home"), home, "PX", _ms(ttl))

    async def announce(self, me: str, address: str, ttl: float) -> None:
        """Says that this replica is there; with a `ttl` of 0, that it is no longer."""
        _words(me, address)
        await self._eval(_ANNOUNCE, self._replicas, args=(me, address, _ms(ttl)))

    async def close(self) -> None:
        """Lets go of connections, not of leases."""
        await self.client.close()

    def key(self, pool: str, what: str) -> str:
        """The name of one of a pool's keys."""
        return f"{self.prefix}{{{pool}}}:{what}"

    @property
    def _replicas(self) -> str:
        return f"{self.prefix}replicas"

    async def _eval(self, script: str, *keys: str, args: Sequence[str | int] = ()) -> Any:
        return await self.client.call("EVAL", script, len(keys), *keys, *args)


def _lease(value: bytes | None) -> Lease | None:
    if value is None:
        return None
    term, _, rest = _text(value).partition(" ")
    replica, _, address = rest.partition(" ")
    if not term.isdecimal() or not address:
        raise StoreLost("a lease in Redis is none of Promptlane's: does somebody else use its prefix?")
    return Lease(replica, address, int(term))


def _value(lease: Lease) -> str:
    return f"{lease.term} {_words(lease.replica, lease.address)}"


def _words(me: str, address: str) -> str:
    """Both are ours, not a client's: a space in them is a mistake that must not become another's lease."""
    if not me or not address or len(f"{me} {address}".split()) != 2:
        raise ValueError("a replica's name and its address are words without spaces")
    return f"{me} {address}"


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))
