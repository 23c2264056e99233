"""How long records are kept: by age, and by number. The oldest go first, from the beginning of a chain only.

Floor: pure. A chain that is cut at its beginning can still be verified from there, so what is to go of one is a number
of its first records, never one in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

DAY = 86_400.0  # seconds


@dataclass(frozen=True, slots=True)
class Retention:
    """None: no bound."""

    days: float | None = None
    max_rows: int | None = None

    def before(self, now: float) -> float | None:
        """Records from before this moment go (Unix seconds)."""
        return None if self.days is None else now - self.days * DAY


@dataclass(frozen=True, slots=True)
class Span:
    """What a database holds of one chain: the records behind `cut` up to `head`; the oldest is from `oldest`."""

    chain: str
    cut: int
    head: int
    oldest: float

    @property
    def rows(self) -> int:
        return self.head - self.cut


def due(rule: Retention, spans: Sequence[Span], now: float) -> tuple[Span, int | None] | None:
    """The chain that is to be cut next: by this many records, or (None) by those that are too old. None: all is well.

    The chain whose first record is the oldest of all is always the one.
    """
    spans = [span for span in spans if span.rows > 0]
    if not spans:
        return None
    first = min(spans, key=lambda span: span.oldest)
    too_many = sum(span.rows for span in spans) - rule.max_rows if rule.max_rows is not None else 0
    if too_many > 0:
        return first, too_many
    before = rule.before(now)
    return (first, None) if before is not None and first.oldest < before else None


def leading(moments: Sequence[float], before: float) -> int:
    """How many of a chain's first records are older than that."""
    return next((number for number, at in enumerate(moments) if at >= before), len(moments))
