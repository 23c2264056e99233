"""The statistics of one answer: numbers, and nothing of its text.

Floor: pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field

from policies.governance.scripts import shares, shift
from policies.governance.text import occurrences, refuses, repetition


@dataclass(frozen=True, slots=True)
class Said:
    """What of an answer there is to look at. `calls`: of tools, each with its name and arguments as they were said.
    `whole`: nothing of the answer is missing."""

    text: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    whole: bool = True


@dataclass(frozen=True, slots=True)
class Findings:
    """`characters` of what was looked at; `repetition` and `shift` from 0 to 1, None where there was too little to
    say; `odd_calls`: tool calls of no tool that there was, or with arguments that are no object, None where only a
    part was seen. `watched`: how often words were said that the tenant watches; None where it watches none."""

    whole: bool
    characters: int
    repetition: float | None
    refusal: bool
    scripts: dict[str, float]
    shift: float | None
    calls: int
    odd_calls: int | None
    watched: dict[str, int] | None = field(repr=False)

    @property
    def watch_rate(self) -> float | None:
        """Watched words per thousand characters; None where none are watched."""
        if self.watched is None:
            return None
        return 1000 * sum(self.watched.values()) / self.characters if self.characters else 0.0


def examine(said: Said, prompt: str, tools: Collection[str], watch: Collection[str]) -> Findings:
    """`prompt`: what was asked, or its end; `tools`: the names that calls may have."""
    scripts = shares(said.text)
    return Findings(
        whole=said.whole,
        characters=len(said.text),
        repetition=repetition(said.text),
        refusal=refuses(said.text),
        scripts=scripts,
        shift=shift(shares(prompt), scripts),
        calls=len(said.calls),
        odd_calls=sum(not is_valid(name, given, tools) for name, given in said.calls) if said.whole else None,
        watched=occurrences(said.text, watch) if watch else None,
    )


def is_valid(name: str, arguments: str, tools: Collection[str]) -> bool:
    """Whether a call names one of the tools, and its arguments are an object, or nothing."""
    if name not in tools:
        return False
    try:
        return not arguments.strip() or isinstance(json.loads(arguments), dict)
    except (ValueError, RecursionError):
        return False
