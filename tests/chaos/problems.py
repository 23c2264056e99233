"""How a run's problems are told: the first ones, and how many more there are."""

from __future__ import annotations

from collections.abc import Sequence


def told(problems: Sequence[str], most: int) -> list[str]:
    """Lines for a report."""
    lines = [f"  PROBLEM {problem}" for problem in problems[:most]]
    more = len(problems) - most
    return lines + ([f"  and {more} more problems"] if more > 0 else [])
