"""One spelling for characters that look the same, and the way back to the text as it came.

Floor: sans-IO. Each character is folded by itself, so that a text folds the same however it was cut:
- `PLAIN`: compatibility forms become ordinary ones (NFKC: full width, ligatures, mathematical letters), and what is not
  seen is dropped: format characters (zero width, soft hyphens, directions, tags), variation selectors, overlays such as
  a strike-through, control characters. PII and an operator's patterns are looked for in this.
- `SKELETON`: that in lower case, accents gone, and the Cyrillic and Greek letters that are drawn like Latin ones become
  those. Deny-lists and injections are looked for in this.

Not undone: digits and signs in the place of letters, letters that are spelled out one by one, other encodings.
"""

from __future__ import annotations

import unicodedata
from typing import Final

import regex

# Characters that are not seen, as a set of a pattern.
_UNSEEN: Final = (
    r"\p{Cf}\x00-\x08\x0e-\x1f\x7f-\x9f\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\uffa0"
    r"\ufe00-\ufe0f\U000e0100-\U000e01ef\u0334-\u0338\u20d0-\u20f0"
)
# Of a run of them and of marks above and below letters so many stay: nobody can stretch a text that must be held by any
# number of them. The longest that people write are the six of a flag.
RUN: Final = 8
_LONG_RUN: Final = regex.compile(rf"([{_UNSEEN}\p{{M}}]{{{RUN}}})[{_UNSEEN}\p{{M}}]+")
_RUN_AT_END: Final = regex.compile(rf"[{_UNSEEN}\p{{M}}]{{1,{RUN}}}$")
_IS_UNSEEN: Final = regex.compile(f"[{_UNSEEN}]")
_CONTROL: Final = regex.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
# Folded characters that are remembered; a text of all of Unicode should not stay in memory.
_REMEMBERED: Final = 65_536

# Cyrillic, Greek and phonetic letters and those with a stroke, by the code of each: what they are drawn like.
_LOOKS_LIKE: Final = {
    chr(code): letter
    for letter, codes in {
        "a": (0x430, 0x3B1, 0x1D00), "b": (0x432, 0x3B2, 0x299, 0xA7B5), "c": (0x441, 0x1D04), "d": (0x501, 0x111),
        "e": (0x435, 0x3B5), "g": (0x50D, 0x261), "h": (0x4BB, 0x43D, 0x127), "i": (0x456, 0x3B9, 0x131, 0x269),
        "j": (0x458,), "k": (0x43A, 0x3BA), "l": (0x1C0, 0x142), "m": (0x43C,), "n": (0x3B7,),
        "o": (0x43E, 0x3BF, 0xF8), "p": (0x440, 0x3C1), "q": (0x51B,), "s": (0x455,), "t": (0x442, 0x3C4, 0x167),
        "u": (0x3C5, 0x3BC), "v": (0x475, 0x3BD), "w": (0x51D, 0x3C9), "x": (0x445, 0x3C7), "y": (0x443, 0x3B3, 0x28F),
    }.items()
    for code in codes
}  # fmt: skip


class _Table(dict[int, str]):
    """What `str.translate` asks, filled as it asks."""

    def __init__(self, *, skeleton: bool) -> None:
        super().__init__()
        self._skeleton = skeleton

    def __missing__(self, code: int) -> str:
        if len(self) >= _REMEMBERED:
            self.clear()
        folded = self[code] = self._fold(chr(code))
        return folded

    def _fold(self, character: str) -> str:
        if _IS_UNSEEN.match(character):
            return ""
        folded = unicodedata.normalize("NFKC", character)
        if not self._skeleton:
            return folded
        apart = unicodedata.normalize("NFKD", folded.casefold())
        return "".join(_LOOKS_LIKE.get(one, one) for one in apart if not unicodedata.combining(one))


class Folding:
    """One way to fold. `name` is for tests and representations."""

    __slots__ = ("_skeleton", "_table", "name")

    def __init__(self, name: str, *, skeleton: bool) -> None:
        self.name = name
        self._skeleton = skeleton
        self._table = _Table(skeleton=skeleton)

    def fold(self, text: str) -> str:
        """The text in this spelling."""
        if text.isascii() and not _CONTROL.search(text):
            return text.lower() if self._skeleton else text
        return text.translate(self._table)

    def places(self, text: str, folded: str) -> list[int] | None:
        """For each folded character, and for the end, the index in `text` of the one that it came from. None: the
        same."""
        if len(folded) == len(text) and text.isascii():
            return None
        table = self._table
        places = [at for at, character in enumerate(text) for _ in table[ord(character)]]
        places.append(len(text))
        return places


PLAIN: Final = Folding("plain", skeleton=False)
SKELETON: Final = Folding("skeleton", skeleton=True)


class Squeezer:
    """Shortens the runs of unseen characters and marks of one text that comes in pieces."""

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = ""

    def feed(self, piece: str) -> str:
        """The piece without those beyond `RUN` in a row."""
        if piece.isascii() and not _CONTROL.search(piece):
            if piece:
                self._tail = ""
            return piece
        whole = _LONG_RUN.sub(r"\1", self._tail + piece)
        out: str = whole[len(self._tail) :]
        end = _RUN_AT_END.search(whole)
        self._tail = end.group() if end is not None else ""
        return out
