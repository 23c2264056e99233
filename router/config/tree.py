"""Everything that was said: plain values, and for each the line of the file or the variable that said it.

Floor: plain dicts and lists; knows no schema, no file and no variable of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from router.config.problems import Place, Problem, dotted


@dataclass(slots=True)
class Tree:
    """Everything that was said, before anybody asks whether it makes sense. `load` owns and changes it."""

    name: str
    root: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    variables: dict[Place, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)  # paths told already; what validation says there is an echo
    readable: bool = True

    def problem(self, place: Place, message: str) -> Problem:
        """The problem at `place`, named by the nearest source above it: a variable, or a path and its line."""
        for length in range(len(place), 0, -1):
            above = place[:length]
            if variable := self.variables.get(above):
                return Problem(dotted((variable, *place[length:])), message)
            if line := self.lines.get(above):
                return Problem(dotted(place), message, line)
            if variable := next((name for set_, name in self.variables.items() if set_[:length] == above), None):
                return Problem(variable, f"{dotted(place)}: {message}")
        return Problem(dotted(place) or self.name, message)

    def refuse(self, place: Place, message: str, line: int) -> None:
        """Notes a mistake of the text itself; later mistakes at or below `place` follow from it and are dropped."""
        self.refused.add(dotted(place))
        self.problems.append(Problem(dotted(place) or self.name, message, line))

    def put(self, place: Place, value: object, variable: str) -> None:
        """Sets a value from the environment. Where the file has a scalar for a section, its own mistake stands.

        `variable` is how messages call the value's source.
        """
        *sections, last = place
        node, real = self.root, []
        for part in sections:
            key = _same_key(str(part), node)
            if node.get(key) is None:
                node[key] = {}
            node = node[key]
            real.append(key)
            if not isinstance(node, dict):
                return
        key = _same_key(str(last), node)
        there = (*real, key)
        if isinstance(node.get(key), dict | list):  # lines of what is replaced say nothing of what replaces it
            self.lines = {known: line for known, line in self.lines.items() if known[: len(there)] != there}
        node[key] = value
        self.variables[there] = variable

    def entries(self, section: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """The mappings below `section` by their names; anything else there is skipped: validation tells it."""
        named = self.root.get(section)
        for name, entry in named.items() if isinstance(named, dict) else ():
            if isinstance(entry, dict):
                yield name, entry


def _same_key(wanted: str, node: Mapping[str, Any]) -> str:
    """The key of `node` that a variable means: names of variables know neither case nor `-`, `.` and `/`."""
    if wanted in node:
        return wanted
    alike = [key for key in node if _spoken(key) == _spoken(wanted)]
    return alike[0] if len(alike) == 1 else wanted


def _spoken(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", key.lower())
