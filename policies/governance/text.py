"""What is measured of an answer's text: how much it repeats itself, whether it refuses, how often it says some words.

Floor: pure. A heuristic each: that the share of answers in which one is found changes says something, one answer does
not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

_WORDS: Final = 1000  # of a text's end that are compared: where a model gets stuck it stays so to the end
_CHARACTERS: Final = 4000  # where a language writes no spaces
_LONG_WORD: Final = 20  # characters; with longer ones on average a text has no spaces between its words
_WORD_GRAM, _CHARACTER_GRAM = 4, 8
_LEAST_GRAMS: Final = 8  # of fewer nothing is said

_BEGINNING: Final = 300  # characters in which a refusal says so
_REFUSALS: Final = re.compile(
    r"\bi(?:'m| am) (?:sorry|unable|not able)\b"
    r"|\bi (?:can't|cannot|can not|won't|will not|am not able to|must decline|have to decline)\b"
    r"|\bas an ai\b|\bagainst my (?:guidelines|policy|programming)\b"
    r"|\b(?:tut mir leid|ich kann (?:\w+ ){0,3}nicht)\b"
    r"|\b(?:je suis désolée?|je ne peux pas)\b"
    r"|\b(?:lo siento|no puedo)\b|\b(?:mi dispiace|non posso)\b|\b(?:desculpe|não posso)\b"
    r"|\b(?:извините|я не могу)\b|我无法|我不能|抱歉|对不起|申し訳|できません|죄송합니다|할 수 없습니다"
)
# One of these is in whatever the pattern finds: looking for them takes a tenth of its time, and mostly there is none.
_HINTS: Final = (
    "i'm ", "i am ", "i can", "i won't", "i will not", "i must", "i have to", "as an ai", "against my", "tut mir",
    "ich kann", "je suis d", "je ne peux", "lo siento", "no puedo", "mi dispiace", "non posso", "desculpe", "não posso",
    "извините", "я не могу", "我无法", "我不能", "抱歉", "对不起", "申し訳", "できません", "죄송합니다",
    "할 수 없습니다",
)  # fmt: skip


def repetition(text: str) -> float | None:
    """The share of n-grams that were there before: 1 - distinct / all, of four words at the text's end, or of eight
    characters where words have no spaces between them. None for a short text.

    Source: `seq-rep-n` of Welleck et al., Neural Text Generation with Unlikelihood Training, 2019 (arXiv:1908.04319),
    equation 10.
    """
    words = text.split()
    spaced = len(words) * _LONG_WORD >= len(text)
    units, size = (words[-_WORDS:], _WORD_GRAM) if spaced else (list(text[-_CHARACTERS:]), _CHARACTER_GRAM)
    grams = len(units) - size + 1
    if grams < _LEAST_GRAMS:
        return None
    distinct = len(set(zip(*(units[at : at + grams] for at in range(size)), strict=True)))
    return 1 - distinct / grams


def refuses(text: str) -> bool:
    """Whether its beginning has the words in which models decline."""
    beginning = text[:_BEGINNING].casefold().replace("’", "'")  # noqa: RUF001 - what it is about
    return any(hint in beginning for hint in _HINTS) and _REFUSALS.search(beginning) is not None


def occurrences(text: str, words: Iterable[str]) -> dict[str, int]:
    """How often each of them is in the text, whatever its case; those that are not there are left out."""
    folded = text.casefold()
    found = {word: folded.count(word.casefold()) for word in words}
    return {word: count for word, count in found.items() if count}
