"""What a guard's rule must have, beyond what its single values show: names of their own, something to look for, and
patterns that can be used. What it looks for is in no message.

Floor: works on the raw tree, as `checks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from router.config.problems import Place, Problem, dotted
from router.config.tree import Tree
from router.guards.finder import BadPattern, custom
from router.guards.words import deny_list

# Of one rule; each is searched for by itself.
MAX_PATTERNS = 64


def check_guards(tree: Tree) -> list[Problem]:
    """Every mistake of the tenants' rules that no single value shows."""
    return [problem for tenant, entry in tree.entries("tenants") for problem in _tenant(tree, tenant, entry)]


def _tenant(tree: Tree, tenant: str, entry: Mapping[str, Any]) -> Iterator[Problem]:
    names: dict[str, Place] = {}
    guards = entry.get("guards")
    for index, guard in enumerate(guards if isinstance(guards, list) else ()):
        if not isinstance(guard, dict):
            continue
        place: Place = ("tenants", tenant, "guards", index)
        name = guard.get("name")
        if isinstance(name, str) and (first := names.setdefault(name, place)) != place:
            yield tree.problem((*place, "name"), f"expected a name of its own; {dotted(first)} has the same")
        yield from _rule(tree, place, guard)


def _rule(tree: Tree, place: Place, guard: Mapping[str, Any]) -> Iterator[Problem]:
    find = guard.get("find")
    find = find if isinstance(find, dict) else {}
    looks = any(find.get(key) for key in ("pii", "words", "patterns", "injection"))
    if not looks and guard.get("service") is None and guard.get("presidio") is None:
        yield tree.problem(place, "expected something to look for: find, service or presidio")
    if guard.get("service") is not None and guard.get("action") == "redact":
        yield tree.problem((*place, "action"), "expected log or block: a service says whether, and not where")
    yield from _texts(tree, (*place, "find"), find)


def _texts(tree: Tree, place: Place, find: Mapping[str, Any]) -> Iterator[Problem]:
    for index, word in enumerate(_list(find.get("words"))):
        try:
            deny_list([word] if isinstance(word, str) else [])
        except ValueError as error:
            yield tree.problem((*place, "words", index), str(error))
    patterns = _list(find.get("patterns"))
    if len(patterns) > MAX_PATTERNS:
        yield tree.problem((*place, "patterns"), f"expected at most {MAX_PATTERNS} patterns; join some by |")
    for index, pattern in enumerate(patterns):
        try:
            if isinstance(pattern, str):
                custom(pattern, "")
        except BadPattern as error:
            yield tree.problem((*place, "patterns", index), str(error))


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
