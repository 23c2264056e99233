"""A process's own folder below `ledger.spool_dir`: its name is the replica's, and a lock keeps other processes out.

Floor: an adapter around a directory; blocks. The lock is the kernel's (flock): it is gone with the process, whatever
ends it, so the next one takes the folder over and goes on with its chain. A name begins with the fingerprint of the key
that its chain is made by: with another secret another chain begins.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

_LOCK = "lock"


class SpoolFolder:
    """Locked until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor

    @property
    def replica(self) -> str:
        return self.path.name

    def release(self) -> None:
        """Others may have it now."""
        os.close(self._descriptor)


def take_folder(root: Path, fingerprint: str) -> SpoolFolder:
    """The first folder of that key that is nobody's, or a new one. Raises OSError."""
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in folders(root):
        if path.name.startswith(f"{fingerprint}-") and (found := lock_folder(path)) is not None:
            return found
    while True:
        path = root / f"{fingerprint}-{secrets.token_hex(6)}"
        path.mkdir(mode=0o700)
        sync_folder(root)
        if (made := lock_folder(path)) is not None:  # else another process that starts now was faster
            return made


def lock_folder(path: Path) -> SpoolFolder | None:
    """None where another process has it. Raises OSError."""
    with contextlib.ExitStack() as undo:
        descriptor = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        undo.callback(os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        undo.pop_all()
    return SpoolFolder(path, descriptor)


def folders(root: Path) -> Iterator[Path]:
    """Every replica's, whoever has it. Raises OSError."""
    yield from sorted(path for path in root.iterdir() if path.is_dir() and "-" in path.name)


def sync_folder(path: Path) -> None:
    """Names of files made or deleted in it are on disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
