"""What the supervisor hands a worker that it starts, and what it hears of it.

Floor: bytes over one socket pair, whose worker's end is inherited. The supervisor says the assignment, once; the worker
says `Ready` or `Failed`, and `Leaving` when it begins to end. The end of either process is the end of the stream: so a
worker learns that its supervisor was killed.
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
    """`index`: from 0; `count`: of all workers. `listening`: the inherited descriptor of tenants' socket. `operators`:
    where this worker's operator plane listens. `first`: the configuration with which the supervisor has started, which
    says what no reload changes; `config`: the one of now. `name`: what problems of them as a whole are called by."""

    index: int
    count: int
    listening: int
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
    """It takes no more connections soon."""


Note = Ready | Failed | Leaving


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
    os.set_inheritable(assignment.listening, False)
    return end, assignment


def tell(end: socket.socket, note: Note) -> None:
    """Of this worker, to its supervisor. Raises OSError where there is none any more."""
    end.sendall(_framed(msgspec.msgpack.encode(note)))


def framed(assignment: Assignment) -> bytes:
    """What the supervisor writes to a worker that it has started."""
    return _framed(msgspec.msgpack.encode(assignment))


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
