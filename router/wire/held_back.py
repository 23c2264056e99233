"""The last of what an engine showed of a stream with stop strings: from it follows where another may take it up.

Floor: sans-IO; the decision is `policies.stop_strings`. While a stream runs an event is put on a short list, and is
read only if the stream breaks.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

from policies.stop_strings import Mark, StopRule, turning_point
from router.errors import EngineDiverged
from router.wire.chunks import read_chunk

# Chunks that are kept beyond those that a stop string may reach over: for ends that are no place to go on.
_SPARE: Final = 16


class Seam(NamedTuple):
    """Where a stream is taken up: behind its first `ids`. `again`: what the client has of the text behind them.
    `several`: the last ids may be the beginning of a character, of which nothing is out."""

    ids: int
    again: str = ""
    several: bool = False


class _Piece(NamedTuple):
    """What was shown with one chunk, or the chunk's event. `ids`: of the answer, up to and with this chunk."""

    ids: int
    said: str | bytes
    several: bool

    @property
    def text(self) -> str:
        if isinstance(self.said, str):
            return self.said
        chunk = read_chunk(self.said)
        return (chunk.choices[0].said or "") if chunk is not None and chunk.choices else ""


class HeldBack:
    """Of one stream, over all engines that had part in it. `again`: what the client has, and the engine that is at it
    has still to say again. `told`: ids of the chunks that the client has, with text or without."""

    __slots__ = ("_begun", "_pieces", "again", "rule", "told")

    def __init__(self, rule: StopRule) -> None:
        self.rule = rule
        self.again = ""
        self.told = 0
        self._begun = 0  # ids behind which this engine took the stream up
        self._pieces: deque[_Piece] = deque(maxlen=rule.reach + _SPARE)

    def note(self, ids: int, event: bytes, *, several: bool) -> None:
        """An event that showed text, and the ids so far."""
        self._pieces.append(_Piece(ids, event, several))

    def note_text(self, ids: int, text: str, *, several: bool) -> None:
        """The same of an engine that has something to say again."""
        self._pieces.append(_Piece(ids, text, several))
        self.again = self.again[len(text) :]

    def fresh(self, text: str, *, last: bool) -> str:
        """What of a chunk's text the client does not have. Raises EngineDiverged where it is not what the client has,
        or where the `last` chunk leaves something of that out."""
        again = self.again
        if not (again.startswith(text) if len(text) < len(again) else text.startswith(again)):
            raise EngineDiverged.at_the_seam()
        if last and len(text) < len(again):
            raise EngineDiverged.at_the_seam()
        return text[len(again) :]

    def seam(self) -> Seam | None:
        """Where the stream can be taken up now; None: nowhere."""
        texts = [piece.text for piece in self._pieces]
        marks = [Mark(self._begun, 0)] if len(texts) < (self._pieces.maxlen or 0) else []
        at = self.rule.held
        for piece, text in zip(self._pieces, texts, strict=True):
            at += len(text)
            marks.append(Mark(piece.ids, at, piece.several))
        shown = "".join(texts)
        mark = turning_point(marks, shown, self.rule)
        return None if mark is None else Seam(mark.ids, shown[mark.chars :] + self.again, mark.several)

    def begin(self, seam: Seam, ids: int) -> None:
        """Another engine takes the stream up there. `ids`: those that the one before had told."""
        self.again, self._begun = seam.again, seam.ids
        self.told = max(self.told, ids)
        self._pieces.clear()
