"""The usage that the gateway asked an engine for, taken out of a stream again: the client had not asked for it.

Floor: sans-IO. What `include_usage` changes in a stream of vLLM 0.32 is undone, so that the client gets the bytes that
the engine would have sent without it:
- the chunk with `"choices":[]` and `usage` after the last choice disappears, with the whole event it stands in;
- `system_fingerprint`, which moved from the chunks with a `finish_reason` to that chunk, goes back to them. So such
  chunks wait for the next event (with one choice it is that very chunk, sent right behind it). Where other choices go
  on meanwhile, they get the fingerprint that this engine gave before; while it is not known they wait for the end.

Everything else passes as it came: comments, errors, `[DONE]`, and `"usage":null`, which engines that write it write
always. An engine that puts usage into chunks with choices too, although that was not asked for, was started with
`--enable-force-include-usage` and sends it to everybody: then nothing is taken out. An engine that adds a last usage
chunk by itself and nothing else cannot be told from one that was asked: its chunk goes, as we did ask.

A JSON string has its quotes escaped, so a key with bare quotes is never text that a model wrote. Pieces may be cut
anywhere; most hold whole events without either key, and are only searched for the two.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from router.wire.shapes import UsageChunk

_USAGE: Final = b'"usage":'
_FINISH: Final = b'"finish_reason":"'
_FINGERPRINT: Final = b'"system_fingerprint":'
_CHOICES: Final = b'"choices":'
_BLANK: Final = re.compile(rb"\n\r?\n")  # what ends an event, also at lines that end in CR LF
# Bytes of one event that are kept back at most: a chunk has some hundred, but one that echoes a long prompt may have as
# many as the prompt. A longer one passes as it is.
EVENT_BYTES: Final = 1024 * 1024
# Bytes that may wait behind a finished choice for a fingerprint: some 250 chunks. Beyond, the other choices would
# stand still for longer than the field is worth, and the finished ones go without it.
BEHIND_BYTES: Final = 64 * 1024

_decode = msgspec.json.Decoder(UsageChunk).decode


class UsageRemover:
    """Undoes `include_usage` in one stream. Feed every piece in order, then `flush`, or `give_up` if it broke.

    `fingerprint`: what this engine's chunks get besides, as an earlier remover's attribute had it at its end; None when
    that is not known. `removed` is the event that was taken out, empty until then. `forced`: the engine sends usage to
    everybody, and nothing is changed any more.
    """

    __slots__ = ("_behind", "_finished", "_inside", "_part", "_quiet", "fingerprint", "forced", "removed")

    def __init__(self, fingerprint: bytes | None = None) -> None:
        self.fingerprint = fingerprint
        self.removed = b""
        self.forced = False
        self._part = bytearray()  # of an event whose end has not come
        self._finished: list[bytes] = []  # an event that finished a choice, and those behind it
        self._behind = 0  # bytes in _finished but the first's
        self._inside = False  # in an event too long to hold, of which a part is out
        self._quiet = True  # nothing is held: a piece of whole events may pass at once

    @property
    def inside_event(self) -> bool:
        """Whether what came out so far ends within an event."""
        return self._inside

    def feed(self, piece: bytes) -> bytes:
        """The piece as the client gets it: empty while something is held back, more when that is let go."""
        # From the right: on the few hundred bytes of a chunk that takes less than half of what `in` takes.
        if self._quiet and piece[-2:] == b"\n\n" and piece.rfind(_USAGE) < 0 and piece.rfind(_FINISH) < 0:
            return piece
        return piece if self.forced else self._examine(piece)

    def flush(self) -> bytes:
        """What was held back when the stream ended."""
        out = self._let_go() + bytes(self._part)
        self._part.clear()
        return out

    def give_up(self) -> bytes:
        """The whole events that were held back when the stream broke. The beginning of one is nobody's use."""
        self._part.clear()
        return self._let_go()

    def _examine(self, piece: bytes) -> bytes:
        part = self._part
        search_from, at = max(0, len(part) - 2), 0
        part += piece
        out: list[bytes] = []
        ends = [blank.end() for blank in _BLANK.finditer(part, search_from)]
        for end in ends:
            out.append(self._event(bytes(part[at:end])))
            at = end
        del part[:at]
        if self.forced:
            out.append(self.flush())
        elif self._inside or len(part) > EVENT_BYTES:
            out.append(self._pass_part())
        self._quiet = not (part or self._finished or self._inside)
        return b"".join(out)

    def _pass_part(self) -> bytes:
        """Of an event too long to hold all but what may be the beginning of its end."""
        self._inside = True
        out = self._let_go(self.fingerprint) + bytes(self._part[:-2])
        del self._part[:-2]
        return out

    def _event(self, event: bytes) -> bytes:
        """What goes out for one whole event, or for the rest of one that was too long."""
        if self.forced or self._inside:
            self._inside = False
            return event
        if _USAGE in event and (chunk := _read(event)) is not None:
            if not chunk.choices:
                return self._end(event, chunk)
            self.forced = True
            return self._let_go() + event
        if _FINISH in event and _FINGERPRINT not in event:
            return self._hold(event)
        return self._follow(event) if self._finished else event

    def _end(self, event: bytes, chunk: UsageChunk) -> bytes:
        self.removed = event
        fingerprint = bytes(chunk.system_fingerprint)
        self.fingerprint = b"" if fingerprint == b"null" else b',"system_fingerprint":' + fingerprint
        return self._let_go(self.fingerprint) + event[: event.index(b"data:")]  # an empty line too many, if anything

    def _follow(self, event: bytes) -> bytes:
        """What goes out for an event behind a finished choice that is not the usage chunk."""
        if _CHOICES in event or event.startswith(b":"):  # another choice goes on, or the engine says it is alive
            if self.fingerprint is None:
                return self._hold(event)
            return self._let_go(self.fingerprint) + event
        if b"[DONE]" in event and self.fingerprint is None:
            self.fingerprint = b""  # it sends no usage on request, so its chunks have what they always have
        return self._let_go() + event

    def _hold(self, event: bytes) -> bytes:
        self._behind += len(event) if self._finished else 0
        self._finished.append(event)
        return b"" if self._behind <= BEHIND_BYTES else self._let_go(self.fingerprint)

    def _let_go(self, fingerprint: bytes | None = None) -> bytes:
        held, self._finished, self._behind = self._finished, [], 0
        return b"".join([_stamped(event, fingerprint) for event in held] if fingerprint else held)


def _read(event: bytes) -> UsageChunk | None:
    """A chunk whose top level has choices, none or some, and a usage; None for anything else."""
    data = event.strip()
    if not data.startswith(b"data:"):
        return None
    try:
        chunk = _decode(data.removeprefix(b"data:"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return chunk if chunk.choices is not None and bytes(chunk.usage).startswith(b"{") else None


def _stamped(event: bytes, fingerprint: bytes) -> bytes:
    """A finished choice's chunk with the fingerprint where the engine would have put it: at its end."""
    end = event.rfind(b"}")
    if end < 0 or _FINISH not in event or _FINGERPRINT in event:
        return event
    return b"".join((event[:end], fingerprint, event[end:]))
