"""In which scripts a text is written, and how far another has moved away from it.

Floor: pure. Letters alone count: digits, marks and signs belong to all languages.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from typing import Final

# Characters that are looked at: the shares of more are the same within a percent or two, and cost more.
_MOST: Final = 4096
# First and last character of each script's blocks (Unicode 15.1, Blocks.txt), in order; letters elsewhere are `other`.
_BLOCKS: Final = (
    (0x0041, 0x024F, "latin"), (0x0370, 0x03FF, "greek"), (0x0400, 0x052F, "cyrillic"), (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"), (0x0750, 0x077F, "arabic"), (0x08A0, 0x08FF, "arabic"), (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x0DFF, "indic"), (0x0E00, 0x0E7F, "thai"), (0x1100, 0x11FF, "hangul"), (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"), (0x3040, 0x30FF, "kana"), (0x3130, 0x318F, "hangul"), (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"), (0xAC00, 0xD7AF, "hangul"), (0xF900, 0xFAFF, "han"), (0xFB50, 0xFDFF, "arabic"),
    (0xFE70, 0xFEFF, "arabic"), (0xFF21, 0xFF5A, "latin"), (0xFF66, 0xFF9F, "kana"), (0x20000, 0x3FFFF, "han"),
)  # fmt: skip
_FIRSTS: Final = [first for first, _, _ in _BLOCKS]


def shares(text: str) -> dict[str, float]:
    """The share of each script among the letters of the text's beginning; empty without letters. They add up to 1."""
    text = text[:_MOST]
    if text.isascii():
        return {"latin": 1.0} if any(map(str.isalpha, text)) else {}
    counts: Counter[str] = Counter()
    for character, times in Counter(text).items():
        if character.isalpha():
            counts[_script(ord(character))] += times
    letters = counts.total()
    return {script: count / letters for script, count in counts.items()}


def shift(asked: Mapping[str, float], answered: Mapping[str, float]) -> float | None:
    """How far the answer's shares are from the prompt's: their total variation distance, half the sum of all
    differences. 0: the same; 1: no script in common. None where one of them has no letters."""
    if not asked or not answered:
        return None
    scripts = asked.keys() | answered.keys()
    return sum(abs(asked.get(one, 0.0) - answered.get(one, 0.0)) for one in scripts) / 2


def _script(code: int) -> str:
    at = bisect_right(_FIRSTS, code) - 1
    return _BLOCKS[at][2] if at >= 0 and code <= _BLOCKS[at][1] else "other"
