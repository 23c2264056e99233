"""What the supervisor hands a worker that it starts, and what the two say to each other from then on.

Floor: bytes over one socket pair, whose worker's end is inherited. The supervisor says the assignment, once, and then
from which sockets to accept; the worker says `Ready` or `Failed`, that it is `Alive`, and `Leaving` when it begins to
end. The end of either process is the end of the stream: so a worker learns that its supervisor was killed.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import MutableMapping

import msgspec

VARIABLE = "PROMPTLANE_SUPERVISOR_FD"
"""Environment variable with the number of the inherited descriptor; only the supervisor sets it."""
_LENGTH = struct.Struct(">I")
_MAX_NOTE_BYTES = 64 * 1024  # a note is a sentence


class Assignment(msgspec.Struct, frozen=True):
    """`index`: from 0; `count`: of all workers. `listening`: inherited descriptors of tenants' sockets, by the indexes
    of the workers whose own they are (elsewhere than on Linux one socket, for all). `operators`:
    where this worker's operator plane listens. `first`: the configuration with which the supervisor has started, which
    says what no reload changes; `config`: the one of now. `name`: what problems of them as a whole are called by."""

    index: int
    count: int
    listening: tuple[int, ...]
    folder: str
    operators: str
    secret: bytes
    first: bytes
    config: bytes
    name: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """It serves."""


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It cannot start; `lines` say why, for people."""

    lines: list[str]


class Leaving(msgspec.Struct, frozen=True, tag=True):
    """It is about to end, and takes no more connections when it is `Relieved`, or nobody can do that."""


class Alive(msgspec.Struct, frozen=True, tag=True):
    """Its loop turns."""


Note = Ready | Failed | Leaving | Alive


class Stand(msgspec.Struct, frozen=True, tag=True):
    """To accept also from the sockets of these workers, which do not now, and from no others but its own."""

    absent: tuple[int, ...]


class Relieved(msgspec.Struct, frozen=True, tag=True):
    """To a worker that leaves: others accept in its place."""


class Last(msgspec.Struct, frozen=True, tag=True):
    """To all at the end: nobody accepts after them, so none may be left behind in the sockets' queues."""


Order = Stand | Relieved | Last


def take(environ: MutableMapping[str, str]) -> tuple[socket.socket, Assignment] | None:
    """The worker's end, and what it is to do; None in a process that no supervisor has started. The variable is taken
    away: what a worker starts is no worker. Raises OSError where the supervisor has gone meanwhile."""
    number = environ.pop(VARIABLE, "")
    if not number.isdecimal():
        return None
    end = socket.socket(fileno=int(number))
    os.set_inheritable(end.fileno(), False)
    try:
        length = _LENGTH.unpack(_read(end, _LENGTH.size))[0]
        assignment = msgspec.msgpack.decode(_read(end, length), type=Assignment)
    except OSError:
        end.close()
        raise
    for descriptor in assignment.listening:
        os.set_inheritable(descriptor, False)
    return end, assignment


def tell(end: socket.socket, note: Note) -> None:
    """Of this worker, to its supervisor. Raises OSError where there is none any more, or it reads nothing."""
    end.sendall(_framed(msgspec.msgpack.encode(note)), socket.MSG_DONTWAIT)  # it is small: it goes whole or not at all


def framed(said: Assignment | Order) -> bytes:
    """What the supervisor writes to a worker that it has started."""
    return _framed(msgspec.msgpack.encode(said))


class Orders:
    """What the supervisor says to a worker after its assignment, cut from the stream."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Order]:
        """Those that are whole now."""
        self._rest += data
        found: list[Order] = []
        while len(self._rest) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._rest)[0]
            if len(self._rest) < end:
                break
            found.append(msgspec.msgpack.decode(self._rest[_LENGTH.size : end], type=Order))
            self._rest = self._rest[end:]
        return found


async def note_of(reader: asyncio.StreamReader) -> Note | None:
    """What a worker says; None where it has ended without a word."""
    try:
        length = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))[0]
        if length > _MAX_NOTE_BYTES:
            return None
        note: Note = msgspec.msgpack.decode(await reader.readexactly(length), type=Note)
        return note
    except (asyncio.IncompleteReadError, OSError, msgspec.MsgspecError):
        return None


def _framed(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _read(end: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = end.recv(length - len(data))
        if not piece:
            raise ConnectionError("the supervisor has gone")
        data += piece
    return bytes(data)
