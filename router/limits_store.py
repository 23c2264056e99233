"""The store of limits that workers of one machine share without Redis: the same script, over hashes in memory.

Floor: an adapter over Lua 5.1, the Lua of Redis. There is one text of the rules, `limits_lua.SCRIPT`; what is here
instead of Redis are the eight commands that it calls, and msgpack. A call is carried out as a whole, as there: the
supervisor has one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from router.limits_lua import SCRIPT

# Seconds between two looks for hashes whose time is over; whoever asks for one finds none as soon as it is.
_SWEEP_SECONDS: Final = 10.0

Hash = dict[bytes, bytes]


class Hashes:
    """Redis' commands on hashes, as far as the script needs them. Words come and go as bytes, numbers as numbers.
    `now`: Unix seconds, set for each call: a script sees one moment."""

    def __init__(self) -> None:
        self.now = 0.0
        self._hashes: dict[bytes, Hash] = {}
        self._ends: dict[bytes, float] = {}
        self._sweep_at = 0.0
        self.commands: dict[bytes, Callable[..., Any]] = {
            b"TIME": self._time, b"HGETALL": self._hgetall, b"HGET": self._hget, b"HSET": self._hset,
            b"HDEL": self._hdel, b"HINCRBY": self._hincrby, b"PEXPIRE": self._pexpire, b"INFO": self._info,
        }  # fmt: skip

    def begin(self, now: float) -> None:
        """A call begins at this moment."""
        self.now = now
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_SECONDS
            for key in [key for key, end in self._ends.items() if end <= now]:
                self._drop(key)

    def content(self) -> dict[bytes, tuple[Hash, float]]:
        """All hashes, each with the moment of its end."""
        return {key: (dict(found), self._ends.get(key, float("inf"))) for key, found in self._hashes.items()}

    def __len__(self) -> int:
        return len(self._hashes)

    def _found(self, key: bytes) -> Hash | None:
        if self._ends.get(key, self.now + 1) <= self.now:
            self._drop(key)
        return self._hashes.get(key)

    def _drop(self, key: bytes) -> None:
        self._hashes.pop(key, None)
        self._ends.pop(key, None)

    def _time(self) -> list[bytes]:
        micro = round(self.now * 1_000_000)
        return [b"%d" % (micro // 1_000_000), b"%d" % (micro % 1_000_000)]

    def _hgetall(self, key: bytes) -> list[bytes]:
        return [word for pair in (self._found(key) or {}).items() for word in pair]

    def _hget(self, key: bytes, field: bytes) -> bytes | bool:
        return (self._found(key) or {}).get(field, False)

    def _hset(self, key: bytes, field: bytes, value: bytes) -> int:
        found = self._found(key)
        if found is None:
            found = self._hashes[key] = {}
        fresh = field not in found
        found[field] = value
        return int(fresh)

    def _hdel(self, key: bytes, *fields: bytes) -> int:
        found = self._found(key)
        if found is None:
            return 0
        gone = sum(found.pop(field, None) is not None for field in fields)
        if not found:
            self._drop(key)
        return gone

    def _hincrby(self, key: bytes, field: bytes, change: bytes) -> int:
        value = int((self._found(key) or {}).get(field, b"0")) + int(change)
        self._hset(key, field, b"%d" % value)
        return value

    def _info(self, section: bytes) -> bytes:
        """Nothing of its age: what it knew ends with the supervisor, and so do all who could tell it again."""
        return b""

    def _pexpire(self, key: bytes, milliseconds: bytes) -> int:
        if self._found(key) is None:
            return 0
        self._ends[key] = self.now + int(milliseconds) / 1000
        return 1


class LuaStore:
    """`clock`: Unix seconds. `script`: what is run; another one only for tests."""

    def __init__(self, clock: Callable[[], float] = time.time, script: str = SCRIPT) -> None:
        from lupa import lua51  # only the supervisor of workers, and only without Redis, needs it

        self._clock = clock
        self.hashes = Hashes()
        self._lua: Any = lua51.LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
        self._globals: Any = self._lua.globals()
        for name in (b"python", b"io", b"os", b"package", b"require", b"debug", b"dofile", b"loadfile"):
            self._globals[name] = None  # a script of Redis has none of them either
        self._globals[b"redis"] = self._lua.table_from({b"call": self._call, b"pcall": self._call})
        self._globals[b"cmsgpack"] = self._lua.table_from({b"pack": self._pack, b"unpack": self._unpack})
        self._script: Any = self._lua.compile(script.encode())

    def run(self, keys: Sequence[bytes], arguments: Sequence[bytes]) -> bytes:
        """The script's answer. Raises LuaError of lupa, and what a command does not take: both are faults of ours."""
        self.hashes.begin(self._clock())
        self._globals[b"KEYS"] = self._lua.table_from(keys)
        self._globals[b"ARGV"] = self._lua.table_from(arguments)
        answer: bytes = self._script()
        return answer

    def _call(self, command: bytes, *words: bytes) -> Any:
        answer = self.hashes.commands[command](*words)
        return self._lua.table_from(answer) if isinstance(answer, list) else answer

    def _pack(self, value: Any) -> bytes:
        return msgspec.msgpack.encode(self._from_lua(value))

    def _unpack(self, data: bytes) -> Any:
        return self._to_lua(msgspec.msgpack.decode(data))

    def _from_lua(self, value: Any) -> Any:
        """Tables here are lists, all of them; text is text, as Redis' own cmsgpack writes it."""
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, int | float):
            return value
        return [self._from_lua(value[at]) for at in range(1, len(value) + 1)]

    def _to_lua(self, value: Any) -> Any:
        if isinstance(value, list):
            return self._lua.table_from([self._to_lua(one) for one in value])
        return value.encode() if isinstance(value, str) else value
