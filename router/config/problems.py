"""A mistake of a configuration, where it stands, and the error that carries all of them.

Floor: values only; imports nothing of this package.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_KEY_SHOWN = 80  # characters of a key that a message repeats

Place = tuple[str | int, ...]  # ("pools", "a", "endpoints", 1, "url")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake. `path` is a dotted path, a variable or a file; `line` counts from 1, None outside the file."""

    path: str
    message: str
    line: int | None = None

    def __str__(self) -> str:
        where = self.path if self.line is None else f"{self.path} (line {self.line})"
        return f"{where}: {self.message}"


def dotted(place: Place) -> str:
    """`pools.a.endpoints[1].url`. Keys are cut and escaped where a terminal could not show them."""
    text = ""
    for part in place:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            plain = part if part.isprintable() and 0 < len(part) <= MAX_KEY_SHOWN else ascii(part[:MAX_KEY_SHOWN])
            text += f".{plain}" if text else plain
    return text


class ConfigError(Exception):
    """Every mistake of a configuration, in the order of the file; those of the environment come last."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems
