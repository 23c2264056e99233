"""What a rule found.

Floor: a value.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`where`: the object, or the place of the configuration. `text`: what is wrong there."""

    where: str
    text: str
