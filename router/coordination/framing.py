"""Frames in a stream of bytes: four bytes of length, big-endian, then msgpack.

Floor: sans-IO. What is read is checked against the frames that this side may get; whatever else comes is a `BadFrame`,
after which the stream means nothing any more. At most one frame is kept that has not come whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Generic, TypeVar

from msgspec import MsgspecError, Struct
from msgspec.msgpack import Decoder, Encoder

from router.coordination.frames import CarriedSeat, Carry, FromFollower, FromOwner

# Bytes of a frame. The longest, an Ask with all its 4,096 prefix blocks, has 33,000; whoever claims more wants our
# memory.
MAX_FRAME_BYTES = 4 * 1024 * 1024
# Bytes of carried seats in one frame: the owner gives its loop back between two of them.
CARRY_BYTES = 256 * 1024
_LENGTH = 4

F = TypeVar("F")

_encode = Encoder().encode


class BadFrame(Exception):
    """The peer does not keep to the protocol; the message says in what. It quotes nothing of the frame."""


class Unsayable(Exception):
    """This side would say what no frame can hold: too much, half a character, or a number beyond 64 bits."""


def from_follower() -> Decoder[FromFollower]:
    return Decoder(FromFollower)


def from_owner() -> Decoder[FromOwner]:
    return Decoder(FromOwner)


def encode(frame: Struct) -> bytes:
    """The frame with its length. Raises Unsayable."""
    try:
        body = _encode(frame)
    except (UnicodeEncodeError, OverflowError) as error:
        raise Unsayable(f"a {type(frame).__name__} that cannot be written ({type(error).__name__})") from None
    size = len(body)
    if size > MAX_FRAME_BYTES:
        raise Unsayable(f"a {type(frame).__name__} of {size} bytes; a frame may have {MAX_FRAME_BYTES}")
    return size.to_bytes(_LENGTH, "big") + body


def carries(pool: str, seats: Sequence[CarriedSeat]) -> Iterator[Carry]:
    """All seats, in frames of a bearable size; the last one says that it is. At least one frame, also without seats."""
    some: list[CarriedSeat] = []
    size = 0
    for seat in seats:
        length = len(_encode(seat))
        if some and size + length > CARRY_BYTES:
            yield Carry(pool, tuple(some), more=True)
            some, size = [], 0
        some.append(seat)
        size += length
    yield Carry(pool, tuple(some))


class FrameReader(Generic[F]):
    """Cuts a stream into frames, however it comes in pieces."""

    __slots__ = ("_decode", "_need", "_rest")

    def __init__(self, decoder: Decoder[F]) -> None:
        self._decode = decoder.decode
        self._rest = bytearray()
        self._need = _LENGTH  # bytes without which there is nothing to be read in `_rest`

    def feed(self, data: bytes) -> Iterator[F]:
        """The frames that are whole now, each decoded when it is asked for: those before a bad one are good.

        To be read to its end before the next piece is fed. Raises BadFrame.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            rest.clear()
        at, end = 0, len(data)
        self._need = _LENGTH
        while end - at >= _LENGTH:
            body = at + _LENGTH
            size = int.from_bytes(data[at:body], "big")
            if size > MAX_FRAME_BYTES:
                raise BadFrame(f"a frame of {size} bytes; {MAX_FRAME_BYTES} are allowed")
            if end - body < size:
                self._need = _LENGTH + size
                break
            at = body + size
            yield self._frame(data[body:at])
        if at < end:
            rest += data[at:]

    def _frame(self, body: bytes) -> F:
        try:
            return self._decode(body)
        except (MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(f"a frame that cannot be read ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """What is wrong, without the values that msgspec may quote."""
    text = str(error)
    if text.startswith("Expected"):
        return text
    return "of an unknown kind" if text.startswith("Invalid value") else "not msgpack, or a word that nobody knows"
