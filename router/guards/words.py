"""A deny-list as one pattern.

Floor: sans-IO. Words are compared by their skeleton (`router.guards.folding`), between spaces and signs any that follow
each other count as one, and a word is found by itself, not inside of another; in scripts that put no spaces between
words it is found anywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

import regex

from router.guards.finder import Finder
from router.guards.folding import SKELETON

# Spaces and signs between two words of a phrase, and as a pattern.
_GAP: Final = 8
_BETWEEN: Final = rf"[\W_]{{1,{_GAP}}}"
_NOT_BEFORE, _NOT_BEHIND = r"(?<![^\W_])", r"(?![^\W_])"
_SPLIT: Final = regex.compile(r"[\W_]+")
_Tree = dict[str, "_Tree"]
_END: Final = ""


def deny_lists(words: Iterable[str], label: str = "redacted") -> list[Finder]:
    """Single words by themselves, as in a stream it is known sooner of them that they end. Raises ValueError as
    `deny_list`."""
    words = list(words)
    groups = ([word for word in words if len(_pieces(word)) == 1], [word for word in words if len(_pieces(word)) != 1])
    return [deny_list(group, label) for group in groups if group]


def deny_list(words: Iterable[str], label: str = "redacted") -> Finder:
    """Finds any of the words and phrases. Raises ValueError where one has no letter and no digit."""
    groups: dict[tuple[bool, bool], _Tree] = {}
    reach, single = 0, True
    for word in words:
        pieces = _pieces(word)
        if not pieces:
            raise ValueError("expected a word with a letter or a digit in it")
        single = single and len(pieces) == 1
        spaced = (_is_spaced(pieces[0][0]), _is_spaced(pieces[-1][-1]))
        tree = groups.setdefault(spaced, {})
        for step in _steps(pieces):
            tree = tree.setdefault(step, {})
        tree[_END] = {}
        reach = max(reach, sum(map(len, pieces)) + _GAP * (len(pieces) - 1) + 1)
    parts = [
        f"{_NOT_BEFORE if before else ''}{_pattern(tree)}{_NOT_BEHIND if behind else ''}"
        for (before, behind), tree in groups.items()
    ]
    stop = regex.compile(r"[\W_]") if single else None
    return Finder(label, regex.compile("|".join(parts)), reach, SKELETON, stop=stop)


def _pieces(word: str) -> list[str]:
    return [piece for piece in _SPLIT.split(SKELETON.fold(word)) if piece]


def _steps(pieces: list[str]) -> list[str]:
    steps = list(pieces[0])
    for piece in pieces[1:]:
        steps += (_BETWEEN, *piece)
    return steps


def _is_spaced(character: str) -> bool:
    """Whether the character's script parts words by spaces: letters of one case only mostly do not."""
    return unicodedata.category(character) != "Lo"


def _pattern(tree: _Tree) -> str:
    """The tree as a pattern, the longest words first."""
    branches = []
    for step, below in tree.items():
        if step != _END:
            own = step if step == _BETWEEN else regex.escape(step)
            branches.append(own + _pattern(below))
    if not branches:
        return ""
    joined = branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"
    return f"(?:{joined})?" if _END in tree else joined
