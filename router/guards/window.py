"""One text that comes in pieces: what may leave of it, with what must not leave taken out.

Floor: sans-IO. A character leaves when no match of a rule that acts can begin at it or cover it any more. So no more is
kept from a reader than the longest match may have, mostly much less: what a match could have begun with. However the
text is cut, what leaves is the same, as each decision hangs on the same characters (`router.guards.finder`); a whole
text is one that comes in one piece.

Several matches that overlap are taken out together, and the first one's label stands for all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from typing import Final

from router.guards.finder import BEHIND, Finder, TooSlow
from router.guards.folding import RUN, Folding, Squeezer
from router.guards.rules import Action, Findings, Search

# Characters that have left, kept for what a finder may look back at: `BEHIND` and the unseen ones between them.
_CONTEXT: Final = (BEHIND + 1) * (RUN + 1)


class Quotes:
    """Whether a piece of JSON ends inside a string."""

    __slots__ = ("_escaped", "inside")

    def __init__(self) -> None:
        self.inside = False
        self._escaped = False

    def pass_by(self, text: str) -> None:
        """The next characters."""
        for character in text:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = self.inside
            elif character == '"':
                self.inside = not self.inside


class Window:
    """`stopped`: a rule that blocks has found something; all before it has left, and nothing more does. `quotes`: the
    text is JSON, of which a label in the place of a number must be a string."""

    __slots__ = ("_findings", "_left", "_pending", "_quotes", "_searches", "_spans", "_squeezer", "_text", "stopped")

    def __init__(self, searches: Sequence[Search], findings: Findings, *, quotes: bool = False) -> None:
        self._quotes = Quotes() if quotes else None
        self._searches = searches
        self._findings = findings
        self._squeezer = Squeezer()
        self._text = ""
        self._left = 0  # what is before this in _text has left, or has been taken out
        self._pending = [0] * len(searches)  # of each search, from where on it is undecided
        self._spans: list[tuple[int, int, int]] = []  # decided, not yet reached: beginning, search, end
        self.stopped = False

    @property
    def held(self) -> int:
        """Characters that are kept from the reader now."""
        return max(0, len(self._text) - self._left)

    def feed(self, piece: str, *, final: bool = False) -> str:
        """What may leave now. `final`: this is the text's end."""
        if self.stopped:
            return ""
        self._text += self._squeezer.feed(piece)
        self._decide(final=final)
        out = self._leave(self._limit(final=final))
        self._forget()
        return out

    def spans(self, text: str) -> list[tuple[int, int, Search]]:
        """All matches in a whole text, in its own indices; nothing is counted and nothing leaves."""
        self._text = text
        self._decide(final=True, count=False)
        return [(begin, end, self._searches[search]) for begin, search, end in self._spans]

    def _decide(self, *, final: bool, count: bool = True) -> None:
        text = self._text
        folded: dict[Folding, tuple[str, list[int] | None]] = {}
        for number, (rule, finder) in enumerate(self._searches):
            start = self._pending[number]
            if start >= len(text):
                continue
            if finder.folding not in folded:
                one = finder.folding.fold(text)
                folded[finder.folding] = one, finder.folding.places(text, one)
            spelled, places = folded[finder.folding]
            try:
                first = start if places is None else bisect_left(places, start)
                for begin, end in finder.decide(spelled, first, final=final):
                    if begin == end:
                        self._pending[number] = begin if places is None else places[begin]
                    else:
                        self._note(number, begin, end, places, count=count)
            except TooSlow:
                self._pending[number] = len(text)
                self._findings.fail(rule, "timeout")
                if rule.fails_closed and rule.acts:
                    insort(self._spans, (start, number, start))

    def _note(self, number: int, begin: int, end: int, places: list[int] | None, *, count: bool) -> None:
        if places is not None:
            begin, end = places[begin], places[end - 1] + 1
        rule = self._searches[number].rule
        if rule.acts or not count:
            insort(self._spans, (begin, number, end))
        else:
            self._findings.add(rule)

    def _limit(self, *, final: bool) -> int:
        """Nothing that acts can begin before this."""
        end = len(self._text)
        if final:
            return end
        acting = (at for at, search in zip(self._pending, self._searches, strict=True) if search.rule.acts)
        return min(acting, default=end)

    def _leave(self, limit: int) -> str:
        text, left, out = self._text, self._left, []
        spans, self._spans = self._spans, []
        for place, (begin, number, end) in enumerate(spans):
            if begin >= limit and begin < len(text):
                self._spans = spans[place:]
                break
            rule, finder = self._searches[number]
            out.append(text[left:begin])
            if self._quotes is not None:
                self._quotes.pass_by(text[left:begin])
            if rule.action is Action.BLOCK or begin == end:
                if begin != end:
                    self._findings.add(rule)
                self.stopped = True
                return "".join(out)
            self._findings.add(rule)
            if begin >= left:
                out.append(self._label(finder))
            if self._quotes is not None:
                self._quotes.pass_by(text[max(left, begin) : end])
            left = max(left, begin, end)
        if limit > left:
            out.append(text[left:limit])
            if self._quotes is not None:
                self._quotes.pass_by(text[left:limit])
            left = limit
        self._left = left
        return "".join(out)

    def _label(self, finder: Finder) -> str:
        bare = self._quotes is not None and not self._quotes.inside
        return f'"[{finder.label}]"' if bare else f"[{finder.label}]"

    def _forget(self) -> None:
        """What neither leaves any more nor is looked at."""
        low = min(*self._pending, self._left) if self._pending else self._left
        cut = low - _CONTEXT
        if cut <= 0:
            return
        self._text = self._text[cut:]
        self._left -= cut
        self._pending = [at - cut for at in self._pending]
        self._spans = [(begin - cut, number, end - cut) for begin, number, end in self._spans]
