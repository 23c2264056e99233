"""The store of several workers of one machine, without Redis: files in one folder.

Floor: an adapter over the file system. A worker that is there holds an exclusive lock (`flock`) on its file
`NAME.replica`, which the kernel takes from a dead one at once; in the file is its address. A lease is a file of the
pool: it counts while its owner is there and has renewed it in time, so one that is merely stopped loses it too. It is
read and written under a lock of its own that nobody holds for longer than that. Every file is small, and nothing here
waits longer than `_PATIENCE_SECONDS`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import quote, unquote

import msgspec
from xxhash import xxh3_64_hexdigest

from policies.coordination.ownership import Lease
from router.coordination.store import Snapshot, StoreLost

# A lock that is not had by then is held by a worker that was stopped in the middle: told as a store that is lost.
_PATIENCE_SECONDS = 0.05
_POLL_SECONDS = 0.002


class _Held(msgspec.Struct, array_like=True):
    """`renewed`: by the machine's clock since it started, which all its processes share. `ttl` 0: released."""

    term: int
    replica: str
    address: str
    renewed: float
    ttl: float

    @property
    def lease(self) -> Lease:
        return Lease(self.replica, self.address, self.term)


class LocalStore:
    """`folder`: the same for all workers, on a file system of this machine; made if it is missing. `clock`: monotonic
    seconds that all workers share."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._mine: dict[str, int] = {}  # our names, and the descriptors that hold their locks
        with folder_errors():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def look(self, pools: Sequence[str]) -> Snapshot:
        """Who owns these pools, and who is there."""
        with folder_errors():
            replicas = self._replicas()
            held = {pool: self._read(pool) for pool in pools}
        now = self._clock()
        leases = {pool: one.lease for pool, one in held.items() if one is not None and _counts(one, replicas, now)}
        return Snapshot(leases, replicas)

    async def acquire(self, pool: str, me: str, address: str, ttl: float, above: int = 0) -> Lease | None:
        """Takes a free lease; None where it is not free. `me` has been announced."""
        with folder_errors(), self._locked(pool):
            before, now = self._read(pool), self._clock()
            if before is not None and _counts(before, self._replicas(), now):
                return None
            term = max(above + 1, (before.term if before is not None else 0) + 1, time.time_ns() // 1000)
            self._write(pool, _Held(term, me, address, now, ttl))
            return Lease(me, address, term)

    async def renew(self, lease: Lease, pool: str, ttl: float) -> bool:
        """Lengthens this lease. False: it is gone."""
        return self._change(lease, pool, ttl)

    async def release(self, lease: Lease, pool: str) -> None:
        """Frees the pool if this lease still holds it."""
        self._change(lease, pool, 0.0)

    async def settle(self, pool: str, home: str, ttl: float) -> None:
        """Nothing: workers share the machine's port, and nobody sends one host's requests to one of them."""

    async def announce(self, me: str, address: str, ttl: float) -> None:
        """Says that this worker is there, for as long as it lives; with a `ttl` of 0, that it is no longer."""
        with folder_errors():
            if ttl <= 0:
                self._withdraw(me)
            elif me not in self._mine or not self._file(me).exists():
                self._withdraw(me)
                self._enter(me, address)

    async def close(self) -> None:
        """Lets go of its files; to the others this worker is gone."""
        for descriptor in self._mine.values():
            os.close(descriptor)
        self._mine.clear()

    def _change(self, lease: Lease, pool: str, ttl: float) -> bool:
        with folder_errors(), self._locked(pool):
            held, now = self._read(pool), self._clock()
            if held is None or held.lease != lease or not 0 <= now - held.renewed < held.ttl:
                return False
            self._write(pool, _Held(lease.term, lease.replica, lease.address, now, ttl))
            return True

    def _replicas(self) -> dict[str, str]:
        found = {}
        for file in self._folder.glob("*.replica"):
            address = _address(file)
            if address is not None:
                found[unquote(file.stem)] = address
        return found

    def _enter(self, me: str, address: str) -> None:
        """Locked before it has its name: nobody sees our file without its lock."""
        descriptor, aside = tempfile.mkstemp(dir=self._folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.write(descriptor, address.encode())
        os.replace(aside, self._file(me))
        self._mine[me] = descriptor

    def _withdraw(self, me: str) -> None:
        descriptor = self._mine.pop(me, None)
        if descriptor is not None:
            self._file(me).unlink(missing_ok=True)
            os.close(descriptor)

    def _file(self, me: str) -> Path:
        return self._folder / f"{quote(me, safe='')}.replica"

    def _lease_file(self, pool: str) -> Path:
        return self._folder / f"{xxh3_64_hexdigest(pool.encode())}.lease"

    def _read(self, pool: str) -> _Held | None:
        try:
            return msgspec.msgpack.decode(self._lease_file(pool).read_bytes(), type=_Held)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None  # half a file after a crash of the machine: its owner is no more either

    def _write(self, pool: str, held: _Held) -> None:
        descriptor, aside = tempfile.mkstemp(dir=self._folder)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.msgpack.encode(held))
        os.replace(aside, self._lease_file(pool))

    @contextlib.contextmanager
    def _locked(self, pool: str) -> Iterator[None]:
        descriptor = os.open(self._lease_file(pool).with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _lock(descriptor)
            yield
        finally:
            os.close(descriptor)  # and the lock with it


def _counts(held: _Held, replicas: dict[str, str], now: float) -> bool:
    """Whether the lease holds: a clock that stands before the renewal is that of a machine started since."""
    return 0 <= now - held.renewed < held.ttl and held.replica in replicas


def _address(file: Path) -> str | None:
    """Of a worker that is there; the file of a dead one is removed. Only its owner ever locks it for long."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 4096).decode("utf-8", "replace")
    else:
        file.unlink(missing_ok=True)
        return None
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    end = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > end:
                raise StoreLost("another worker holds a lease's file and does not let go") from None
            time.sleep(_POLL_SECONDS)
        else:
            return


@contextlib.contextmanager
def folder_errors() -> Iterator[None]:
    """A folder that cannot be used is a store that is lost."""
    try:
        yield
    except OSError as error:
        raise StoreLost(f"the workers' folder cannot be used: {error.strerror}") from None
