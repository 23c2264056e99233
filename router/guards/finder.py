"""What one thing that may be found looks like: a pattern of bounded length, and what proves a match.

Floor: sans-IO. `reach` is what makes streams possible: whether a match begins at a character is decided by that
character, the `BEHIND` before it and the `reach` from it on, whatever follows; earlier, where a character comes that no
match has in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from re import _parser as _syntax  # type: ignore[attr-defined]  # private, and the only one that knows widths
from typing import Any, Final

import regex

from router.guards.folding import PLAIN, Folding

# Characters before a match that it may look at.
BEHIND: Final = 4
# Characters that an operator's pattern may match or look at: what of a stream is held back can be that long.
MAX_REACH: Final = 512
# What one search with an operator's pattern may take, in seconds. One that needs more is not answered for.
PATTERN_SECONDS: Final = 0.05
# Characters from which on a search lets other threads run; to let them costs a microsecond.
LONG_TEXT: Final = 4096
_REFUSED: Final = {
    "AT_BEGINNING": "^", "AT_BEGINNING_STRING": r"\A", "AT_BEGINNING_LINE": "^", "AT_END": "$", "AT_END_STRING": r"\Z",
    "AT_END_LINE": "$",
}  # fmt: skip
# What `re` reads as a sign, and `regex` as a match with errors in it, of any length.
_BRACE: Final = re.compile(r"(?<!\\)(?:\\\\)*\{(?!\d*,?\d*\})")


class TooSlow(Exception):
    """A pattern did not come to an end in time: nothing is known of the text."""


class BadPattern(ValueError):
    """Why a pattern cannot be used; the message does not have the pattern in it."""


@dataclass(frozen=True, slots=True, eq=False)
class Finder:
    """Finds one thing. `label` stands in its place where it is redacted. `leads`: matches begin only where this does,
    which is quicker to look for. `stop`: a character that no match has in it, and behind which none looks. `proof`: of
    a match, how many of its characters are it; 0 for none. `seconds`: what a search may take; None where the pattern is
    known to be quick. `of_users`: what a tenant's own instructions may say is not looked at. `by_itself`: a text must
    be looked at without others before and behind it."""

    label: str
    pattern: regex.Pattern[str]
    reach: int
    folding: Folding = PLAIN
    leads: regex.Pattern[str] | None = None
    stop: regex.Pattern[str] | None = None
    proof: Callable[[str], int] | None = None
    seconds: float | None = None
    of_users: bool = False
    by_itself: bool = False

    def decide(self, folded: str, start: int, *, final: bool) -> Iterator[tuple[int, int]]:
        """Spans that are decided, from `start` on. The last, (p, p), says that nothing is before p, and from p on it
        depends on what follows. `final`: nothing follows. Raises TooSlow."""
        at, end = start, len(folded)
        alone = end - start > LONG_TEXT  # other threads may go on meanwhile
        try:
            while True:
                begin = self._candidate(folded, at, final=final, alone=alone)
                if begin < 0 or begin == end:
                    yield end, end
                    return
                if not final and begin + self.reach > end and not self._ends(folded, begin):
                    yield begin, begin
                    return
                length = self._length(folded, begin)
                if length:
                    yield begin, begin + length
                at = begin + (length or 1)
        except TimeoutError:
            raise TooSlow from None

    def _candidate(self, folded: str, at: int, *, final: bool, alone: bool) -> int:
        """Where the next match begins, or may begin by what follows; -1 for nowhere."""
        partial, leads = not final, self.leads
        while leads is not None:
            led = leads.search(folded, at, partial=partial, concurrent=alone)
            if led is None or led.start() == len(folded):
                return -1
            at = led.start()
            if self.pattern.match(folded, at, partial=partial, timeout=self.seconds) is not None:
                return at
            at += 1
        found = self.pattern.search(folded, at, partial=partial, concurrent=alone, timeout=self.seconds)
        return -1 if found is None else found.start()

    def _ends(self, folded: str, begin: int) -> bool:
        """Whether all that a match from there on could have is here."""
        return self.stop is not None and self.stop.search(folded, begin) is not None

    def _length(self, folded: str, begin: int) -> int:
        """Of the match that begins there, whatever a partial one has been taken for; 0 for none."""
        found = self.pattern.match(folded, begin, timeout=self.seconds)
        if found is None:
            return 0
        return found.end() - begin if self.proof is None else self.proof(found.group())


def custom(source: str, label: str) -> Finder:
    """An operator's pattern, in the syntax of Python's `re`. Raises BadPattern."""
    try:
        parsed = _syntax.parse(source)
        pattern = regex.compile(source, regex.V0)
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"expected a regular expression of Python's; {getattr(error, 'msg', 'too deep')}") from None
    if _BRACE.search(source):
        raise BadPattern(r"expected braces only for a bound, as in {0,40}; write \{ for the sign")
    least, most = parsed.getwidth()
    behind, ahead = _looks(parsed)
    if least == 0:
        raise BadPattern("expected a pattern that matches one character at least")
    if behind > BEHIND:
        raise BadPattern(f"expected a pattern that looks back at most {BEHIND} characters")
    if most + ahead > MAX_REACH:
        raise BadPattern(f"expected a pattern of at most {MAX_REACH} characters: give * and + a bound, as in {{0,40}}")
    by_itself = "(?" in source  # it may look at what stands around it
    return Finder(label, pattern, most + ahead, seconds=PATTERN_SECONDS, by_itself=by_itself)


def _looks(parsed: Any) -> tuple[int, int]:
    """Characters before and behind a match that it looks at. Raises BadPattern for what depends on a text's ends."""
    behind = ahead = 0
    for operation, argument in parsed:
        name = str(operation)
        if name == "AT":
            if str(argument) in _REFUSED:
                raise BadPattern(f"expected a pattern without {_REFUSED[str(argument)]}: a stream has no such place")
            behind, ahead = max(behind, 1), max(ahead, 1)
        elif name in ("ASSERT", "ASSERT_NOT"):
            direction, inner = argument
            within = _looks(inner)
            width = inner.getwidth()[1]
            if direction < 0:
                behind, ahead = max(behind, width + within[0]), max(ahead, within[1])
            else:
                behind, ahead = max(behind, within[0]), max(ahead, width + within[1])
        else:
            for inner in _inside(argument):
                within = _looks(inner)
                behind, ahead = max(behind, within[0]), max(ahead, within[1])
    return behind, ahead


def _inside(argument: Any) -> Iterator[Any]:
    """The patterns in an operation's argument."""
    if hasattr(argument, "getwidth"):
        yield argument
    elif isinstance(argument, tuple | list):
        for one in argument:
            yield from _inside(one)
