"""What of each answer is counted, and in which buckets: few and fixed, so that a distribution has a bounded size.

Floor: pure. A bucket is a number; those of amounts and shares stand in order, those of kinds do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from policies.governance.answers import Findings

MOST_BUCKETS: Final = 64
_STEP: Final = math.log(1.25)  # amounts within a quarter of each other are alike; 62 steps reach a million
_SHARES: Final = 50  # steps of 0.02
_FINISHES: Final = {
    "stop": 0, "end_turn": 0, "stop_sequence": 0, "length": 1, "max_tokens": 1, "tool_calls": 2, "tool_use": 2,
    "function_call": 2,
}  # fmt: skip
_OTHER_FINISH: Final = 3
_CUT: Final = 1
NO_CALLS, GOOD_CALLS, ODD_CALLS = 0, 1, 2


def _amount(value: float) -> int:
    return 0 if value < 1 else min(MOST_BUCKETS - 1, 1 + int(math.log(value) / _STEP))


def _share(value: float) -> int:
    return 0 if value <= 0 else min(_SHARES, 1 + int(value * _SHARES))


def _tenths(value: float) -> int:
    return _amount(10 * value)


@dataclass(frozen=True, slots=True)
class Measure:
    """`bucket`: of a value. `ordered`: neighbouring buckets are alike. `level`: what the mean over answers says, given
    a value."""

    bucket: Callable[[float], int]
    ordered: bool
    level: Callable[[float], float] = float


MEASURES: Final = {
    "tokens": Measure(_amount, ordered=True),
    "finish": Measure(int, ordered=False, level=lambda kind: float(kind == _CUT)),
    "repetition": Measure(_share, ordered=True),
    "shift": Measure(_share, ordered=True),
    "refusal": Measure(int, ordered=False),
    "tool_calls": Measure(int, ordered=False, level=lambda kind: float(kind == ODD_CALLS)),
    "watched": Measure(_tenths, ordered=True),
}
"""By name. tokens: of the answer; finish: its kind of end (level: share that was cut off by its length); repetition,
shift: see `policies.governance.answers`; refusal: 0 or 1; tool_calls: none, good or odd ones (level: share with odd
ones); watched: watched words per 1,000 characters."""


@lru_cache(maxsize=4096)
def placed(measure: str, value: float) -> tuple[int, float]:
    """Bucket and level of a value: answers have few different ones."""
    found = MEASURES[measure]
    return found.bucket(value), found.level(value)


def values(tokens: int | None, finish: str | None, found: Findings | None) -> list[tuple[str, float]]:
    """What one answer adds, each with its measure's name. `found`: None where its text was not looked at."""
    told: list[tuple[str, float]] = []
    if tokens is not None:
        told.append(("tokens", tokens))
    if finish is not None:
        told.append(("finish", _FINISHES.get(finish, _OTHER_FINISH)))
    if found is not None:
        told += _of_text(found)
    return told


def _of_text(found: Findings) -> Iterator[tuple[str, float]]:
    for name, share in (("repetition", found.repetition), ("shift", found.shift)):
        if share is not None:
            yield name, share
    yield "refusal", int(found.refusal)
    if found.odd_calls is not None:
        yield "tool_calls", ODD_CALLS if found.odd_calls else GOOD_CALLS if found.calls else NO_CALLS
    if found.watch_rate is not None:
        yield "watched", found.watch_rate
