"""Where a stream with stop strings can be taken up again, so that nothing is lost, said twice or stopped wrongly.

Floor: `policies`, pure. An engine shows the text of its tokens late by one character less than its longest stop string,
as these characters may turn out to be the beginning of one; where stop strings are shown, it holds nothing back. So at
a break the client has less text than the ids say, and a stop string may begin before the break and end behind it.

    text of the ids    |------------------------------|
    shown              |----------------------|        held: longest - 1
    taken up at        |-----------------|             a token's end, at or before what is shown
                                          again        what the client has and the next engine says once more

A stop string that ends behind the text of all ids begins behind what is shown: whoever takes up the stream there, or
before, sees all of it. Where stop strings are shown, that holds `longest - 1` characters before the end of the text.
Lengths are in characters (code points), as vLLM 0.32 counts them (`vllm/v1/engine/detokenizer.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

# As many characters of a stop string at most: about so many of a stream's last chunks are kept.
MAX_CHARS: Final = 256
# The fields that say how a stream's stop strings are treated.
FIELDS: Final = frozenset({"stop", "include_stop_str_in_output"})
# What stands for bytes that are no character (yet): the bytes behind it may change what is shown of it.
_UNFINISHED: Final = "\ufffd"


@dataclass(frozen=True, slots=True)
class StopRule:
    """Of one request. `reach`: the characters of its longest stop string but one, 0 where it has none. `shown`: a stop
    string that ends the answer is part of it."""

    reach: int = 0
    shown: bool = False

    @property
    def held(self) -> int:
        """Characters that an engine keeps back while the answer runs."""
        return 0 if self.shown else self.reach

    @property
    def open(self) -> int:
        """The last characters of what is shown in which a stop string may have begun."""
        return self.reach if self.shown else 0


class Mark(NamedTuple):
    """Behind the first `ids` of an answer its text was `chars` long, of which `chars` less what was held were shown.
    `several`: they came with others in one chunk, so the last ones may show nothing yet."""

    ids: int
    chars: int
    several: bool = False


def stop_rule(fields: Mapping[str, object]) -> StopRule | None:
    """Of a request with these fields (those that are not null); None where an engine's way with them is not known."""
    stop, shown = fields.get("stop", []), fields.get("include_stop_str_in_output", False)
    strings = [stop] if isinstance(stop, str) else stop
    if not isinstance(strings, list):
        return None
    lengths = [len(one) if isinstance(one, str) else MAX_CHARS + 1 for one in strings]
    reach = max(0, max(lengths, default=0) - 1)
    if reach >= MAX_CHARS or (reach and not isinstance(shown, bool)):
        return None
    return StopRule(reach, shown is True)


def turning_point(marks: Sequence[Mark], shown: str, rule: StopRule) -> Mark | None:
    """The last mark behind which the stream can be taken up; None if there is none. `shown`: what the engine showed,
    from where the marks count their characters. They come in order; the first may be the place where it began."""
    end = len(shown) - rule.open
    for mark in reversed(marks):
        if not mark.chars or (mark.chars <= end and shown[mark.chars - 1] != _UNFINISHED):
            return mark
    return None
