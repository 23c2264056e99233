"""An answer as the cache keeps it: what its engine said, compressed, and whose request it was said to.

Floor: sans-IO. The bytes are the engine's own, before usage was taken out, content rules looked and the alias was put
in: all of that is done anew for each client who gets them.
"""

from __future__ import annotations

import re
import zlib
from typing import Final

import msgspec

# Of streams 5 % to 15 % remain; higher levels take several times as long for a tenth of that.
_LEVEL: Final = 1
_FORMAT: Final = 1


class Entry(msgspec.Struct, gc=False, array_like=True):
    """`kind`: its content type; `whole`: it came in one piece; `request_id`: of the request that an engine answered;
    `at`: Unix seconds; `size`: bytes of `packed` before they were compressed."""

    format: int
    kind: bytes
    whole: bool
    request_id: str
    at: float
    size: int
    packed: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Entry).decode


def pack(kind: bytes, body: bytes, request_id: str, at: float, *, whole: bool) -> bytes:
    """The bytes that a store keeps. Compresses, which takes some 5 ms a megabyte."""
    return _encode(Entry(_FORMAT, kind, whole, request_id, at, len(body), zlib.compress(body, _LEVEL)))


def unpack(data: bytes) -> Entry | None:
    """None where these bytes are none of ours, or of another version."""
    try:
        entry = _decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return entry if entry.format == _FORMAT else None


def body_of(entry: Entry, request_id: str, longest: int) -> bytes | None:
    """The answer, for another request: with its id in place of the first one's in the answer's own id, as engines make
    that of the request's. None where the bytes are damaged, or longer than is kept now."""
    if entry.size > longest:
        return None
    try:
        body = zlib.decompressobj().decompress(entry.packed, entry.size + 1)
    except zlib.error:
        return None
    if len(body) != entry.size:
        return None
    own = re.compile(rb'("id": ?"[a-z]{2,16}[-_])' + re.escape(entry.request_id.encode()) + rb'(?=["-])')
    return own.sub(rb"\g<1>" + request_id.encode(), body)  # in a JSON string its quotes would be escaped
