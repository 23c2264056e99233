"""What is kept of an answer on its way, to be looked at when it is over: its beginning and its end, within a bound.

Floor: sans-IO. Pieces are kept by reference, as they came from the engine; nothing is read while the answer passes.
"""

from __future__ import annotations

from collections import deque
from typing import Final

HEAD_BYTES: Final = 32 * 1024  # some 130 chunks of vLLM's: a refusal begins there
_TAIL_PIECES: Final = 128  # and as many at the end: where a model repeats itself it does so to the end
_PIECE_BYTES: Final = 4096  # of each of them
WHOLE_BYTES: Final = 256 * 1024  # of an answer in one piece; a longer one is not looked at


class AnswerSample:
    """Of one answer. Feed every piece of a stream in order by `add`, or `keep` it. `body`: None of a stream."""

    __slots__ = ("_cut", "_head", "_left", "_tail", "body")

    def __init__(self) -> None:
        self.body: bytes | None = None
        self._head: list[bytes] = []
        self._left = HEAD_BYTES
        self._tail: deque[bytes] = deque(maxlen=_TAIL_PIECES)
        self._cut = False

    def add(self, piece: bytes) -> None:
        """A piece of a stream. The hot path of those answers that are looked at."""
        if self._left > 0:
            self._head.append(piece)
            self._left -= len(piece)
        elif len(piece) <= _PIECE_BYTES:
            self._tail.append(piece)
        else:
            self._cut = True
            self._tail.append(piece[-_PIECE_BYTES:])

    def keep(self, body: bytes, *, events: bool = False) -> None:
        """An answer that came in one piece; `events`: it is a stream all the same."""
        if events:
            self.add(body)
        else:
            self.body = body if len(body) <= WHOLE_BYTES else b""

    @property
    def empty(self) -> bool:
        """Whether nothing has come."""
        return not (self.body or self._head)

    @property
    def complete(self) -> bool:
        """Whether all pieces are there."""
        return not self._cut and len(self._tail) < _TAIL_PIECES

    @property
    def events(self) -> bytes:
        """All that is there of a stream."""
        return (b"" if self.complete else b"\n\n").join((b"".join(self._head), b"".join(self._tail)))
