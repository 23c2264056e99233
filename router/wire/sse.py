"""Server-sent events as bytes: pieces cut anywhere in, whole events out.

Floor: sans-IO. An event is the bytes up to and with the blank line that ends it, as they came.
"""

from __future__ import annotations

import re
from typing import Final

_BLANK: Final = re.compile(rb"\n\r?\n")  # what ends an event, also at lines that end in CR LF
# Bytes of one event that are kept back at most: a chunk has some hundred, but one that echoes a long prompt may have as
# many as the prompt. A longer one is let through in parts.
EVENT_BYTES: Final = 1024 * 1024


class EventSplitter:
    """Cuts a stream into events. `part`: what is kept of one whose end has not come; `inside`: a part of it is out."""

    __slots__ = ("inside", "part")

    def __init__(self) -> None:
        self.part = bytearray()
        self.inside = False

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that end in this piece. The first may be the rest of one that was too long to keep."""
        part = self.part
        if not part and piece.find(b"\n\n") == len(piece) - 2 >= 0 and b"\r" not in piece:
            return [piece]  # as most pieces are
        search_from, at = max(0, len(part) - 2), 0
        part += piece
        events = []
        for blank in _BLANK.finditer(part, search_from):
            events.append(bytes(part[at : blank.end()]))
            at = blank.end()
        del part[:at]
        return events

    def overflow(self) -> bytes:
        """What must go on of an event too long to keep: all but what may be the beginning of its end."""
        if not self.inside and len(self.part) <= EVENT_BYTES:
            return b""
        self.inside = True
        out = bytes(self.part[:-2])
        del self.part[:-2]
        return out

    def rest(self) -> bytes:
        """What is left of an event whose end never came."""
        rest = bytes(self.part)
        self.part.clear()
        return rest


def event_name(event: bytes) -> bytes:
    """What stands behind `event:` at the beginning; empty where it begins otherwise."""
    if not event.startswith(b"event:"):
        return b""
    return event[6 : event.index(b"\n")].strip()


def event_data(event: bytes) -> bytes:
    """The data of an event with one `data:` line, as all that engines send have; empty without one."""
    start = 0 if event.startswith(b"data:") else event.find(b"\ndata:") + 1
    if not start and not event.startswith(b"data:"):
        return b""
    return event[start + 5 : event.index(b"\n", start)].strip()
