"""Whoever reads the texts of one body: each by itself, and those that follow each other as one.

Floor: sans-IO. Most bodies have nothing in them: so all their texts are first looked at in one go (`Collector`), and
one by one (`Examiner`) only where that found something.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from router.guards.finder import TooSlow
from router.guards.folding import Squeezer
from router.guards.rules import Action, Findings, Search
from router.guards.window import Window


class Collector:
    """Changes nothing. `users` and `own`: the texts it saw, of users and of a tenant's own instructions; `names`: of
    members of objects; `joined`: what stands behind each other in the prompt, once more as one."""

    __slots__ = ("joined", "names", "own", "users")

    def __init__(self) -> None:
        self.users: list[str] = []
        self.own: list[str] = []
        self.names: set[str] = set()
        self.joined: list[str] = []

    def name(self, name: str, *, own: bool = False) -> str:
        self.names.add(name)
        return name

    def text(self, text: str, *, own: bool = False) -> str:
        (self.own if own else self.users).append(text)
        return text

    def parts(self, texts: Sequence[str], *, own: bool = False) -> Sequence[str]:
        self.joined.append("".join(texts))
        return texts


def suspicious(texts: Sequence[str], searches: Sequence[Search]) -> bool:
    """Whether one of the texts may have something that is searched for."""
    joined = "\n".join(texts)
    folded = {finder.folding: finder.folding.fold(joined) for _, finder in searches}
    for _, finder in searches:
        if finder.by_itself:
            return True
        text = folded[finder.folding]
        try:
            if any(begin != end for begin, end in finder.decide(text, 0, final=True)):
                return True
        except TooSlow:
            return True
    return False


class Examiner:
    """Looks for `searches` in every text, for `in_own` in those of a tenant's own instructions."""

    __slots__ = ("_findings", "_in_own", "_searches")

    def __init__(self, searches: Sequence[Search], in_own: Sequence[Search], findings: Findings) -> None:
        self._searches = searches
        self._in_own = in_own
        self._findings = findings

    def text(self, text: str, *, own: bool = False) -> str:
        """What may stay of one text. Once one has been blocked, nothing changes any more: nobody will see it."""
        searches = self._in_own if own else self._searches
        if not searches or self._findings.blocked_by is not None:
            return text
        return Window(searches, self._findings).feed(text, final=True)

    def name(self, name: str, *, own: bool = False) -> str:
        """The same of a name."""
        return self.text(name, own=own)

    def parts(self, texts: Sequence[str], *, own: bool = False) -> Sequence[str]:
        """What may stay of texts that stand behind each other, where a match lies over their borders. The very same
        list where none does."""
        searches = self._in_own if own else self._searches
        if not searches or self._findings.blocked_by is not None:
            return texts
        pieces = [Squeezer().feed(text) for text in texts]
        borders = list(accumulate(map(len, pieces)))
        whole = "".join(pieces)
        crossing = [
            (begin, end, search)
            for begin, end, search in Window(searches, self._findings).spans(whole)
            if any(begin < border < end for border in borders)
        ]
        for _, _, search in crossing:
            self._findings.add(search.rule)
        cuts = [one for one in crossing if one[2].rule.action is Action.REDACT]
        return _without(whole, borders, cuts) if cuts else texts


def _without(whole: str, borders: Sequence[int], cuts: Sequence[tuple[int, int, Search]]) -> list[str]:
    """The texts again, with each match's label where it began, and none of it behind."""
    out, at, left = [], 0, list(cuts)
    for border in borders:
        piece = ""
        while left and left[0][0] < border:
            begin, end, search = left.pop(0)
            if begin >= at:
                piece += whole[at:begin] + f"[{search.finder.label}]"
            at = max(at, end)
        piece += whole[at:border]
        at = max(at, border)
        out.append(piece)
    return out
