"""How it is said: what a type accepts, what was found instead, and what a validation found wrong.

Floor: reads type hints and model classes handed in; knows no key but those whose values it must not repeat. A message
shows the value it found unless that value could be a secret.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from datetime import date
from enum import Enum
from types import UnionType
from typing import Annotated, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from router.config.problems import Place, Problem
from router.config.tree import Tree
from router.config.types import Expect

MAX_SHOWN = 60  # characters of a wrong value that a message repeats
MAX_CANDIDATES = 200  # names searched for a near miss; the search is quadratic in what it compares
UNSAID = 2**40  # upper bounds from here on keep arithmetic exact and help nobody as part of a message
# Keys whose values, and everything below them, no message repeats. URLs of stores carry passwords; a person may paste
# the key itself where the name of its variable belongs.
HIDDEN = frozenset(
    {"secret", "api_keys", "engine_api_key", "engine_api_key_env", "redis_url", "ledger_url"}
    | {"words", "patterns", "api_key", "api_key_env"}
)
SHOWN_UNDER_HIDDEN = frozenset({"models", "apis", "expires", "limits"})


def describe(hint: object) -> str:
    """A type in words: `a whole number from 0 to 65535`, `one of hot, warm, cold`, `null or text`."""
    kind, notes = _unwrap(hint)
    for note in notes:
        if isinstance(note, Expect):
            return note.text
    if get_origin(kind) in (Union, UnionType):
        return f"null or {' or '.join(describe(inner) for inner in get_args(kind) if inner is not type(None))}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        least = " of at least one" if any(isinstance(note, MinLen) for note in notes) else ""
        return f"a list{least}, each {describe(get_args(kind)[0])}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.value for member in kind)}"
    if kind in (int, float):
        return ("a whole number" if kind is int else "a number") + _bounds(notes)
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return "a mapping"
    return "true or false" if kind is bool else "text"


def _unwrap(hint: object) -> tuple[object, tuple[object, ...]]:
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        return kind, tuple(notes)
    return hint, ()


def _bounds(notes: Iterable[object]) -> str:
    words = []
    for note in notes:
        if isinstance(note, Ge):
            words.append(f"from {note.ge:.15g}")
        elif isinstance(note, Gt):
            words.append(f"above {note.gt:.15g}")
        elif isinstance(note, Le) and isinstance(note.le, int | float) and note.le < UNSAID:
            words.append(f"to {note.le:.15g}")
    return f" {' '.join(words)}" if words else ""


def hint_at(model: object, place: Place) -> object:
    """The type that the schema gives to `place`; None where the schema has no such place."""
    hint = model
    for part in place:
        kind, _ = _unwrap(hint)
        inner = [_unwrap(choice)[0] for choice in get_args(kind) if choice is not type(None)]
        if get_origin(kind) in (Union, UnionType) and len(inner) == 1:
            kind = inner[0]
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found = kind.model_fields.get(str(part))
            hint = found.rebuild_annotation() if found else None
        elif get_origin(kind) is dict:
            hint = get_args(kind)[0 if part == "[key]" else 1]
        else:
            hint = get_args(kind)[0] if get_origin(kind) is tuple else None
    return hint


def explain(error: ValidationError, model: type[BaseModel], tree: Tree) -> list[Problem]:
    """Every error of a validation, in our words.

    A list that has items is no short one: pydantic counts only the valid ones, and the others are told themselves.
    """
    errors = error.errors(include_url=False, include_context=False)
    return [_explain_one(one, model, tree) for one in errors if one["type"] != "too_short" or not one["input"]]


def _explain_one(error: ErrorDetails, model: type[BaseModel], tree: Tree) -> Problem:
    place = error["loc"]
    if error["type"] == "extra_forbidden":
        return tree.problem(place, _unknown_key(str(place[-1]), hint_at(model, place[:-1])))
    if place and place[-1] == "[key]":
        expected = describe(_key_hint(model, place[:-2]))
        return tree.problem(place[:-1], f"expected {expected}; got {shown((), error['input'])}")
    expected = describe(hint_at(model, place))
    if error["type"] == "missing":
        return tree.problem(place, f"missing; expected {expected}")
    return tree.problem(place, f"expected {expected}; got {shown(place, error['input'], expected)}")


def _key_hint(model: type[BaseModel], place: Place) -> object:
    kind, _ = _unwrap(hint_at(model, place))
    return get_args(kind)[0] if get_origin(kind) is dict else str


def _unknown_key(key: str, parent: object) -> str:
    kind, _ = _unwrap(parent)
    models = [part for part in (kind, *get_args(kind)) if isinstance(part, type) and issubclass(part, BaseModel)]
    known = list(models[0].model_fields) if models else []
    return "unknown key" + (did_you_mean(key, known) or f"; expected one of {', '.join(known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'port'?`, or nothing where no known name is near or there are too many to search."""
    candidates = list(known)
    if len(candidates) > MAX_CANDIDATES or len(name) > MAX_SHOWN:
        return ""
    near = difflib.get_close_matches(name, candidates, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def shown(place: Place, value: object, expected: str = "") -> str:
    """A found value for a message. Hidden: what stands at a secret's place, or has a URL's user info or query."""
    kind = _kind(value)
    if not isinstance(value, str | int | float | date):
        return kind
    words = [part for part in place if isinstance(part, str)]
    private = any(word in HIDDEN for word in words) and words[-1] not in SHOWN_UNDER_HIDDEN
    if private or (isinstance(value, str) and re.search("[@?]", value)):
        return f"{kind} (not shown)"
    if re.match("(null or )?a (list|mapping)", expected):
        return kind  # the shape is wrong; what a whole section's place holds may be anything
    text = str(value) if isinstance(value, date) else repr(value)
    text = text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
    return text.encode("utf-8", "backslashreplace").decode()


def _kind(value: object) -> str:
    if value is None:
        return "nothing"
    if value == []:
        return "an empty list"
    for kind, words in ((str, "text"), (bool, "true or false"), (int | float, "a number"), (list, "a list")):
        if isinstance(value, kind):
            return words
    return "a mapping" if isinstance(value, dict) else "a date"
