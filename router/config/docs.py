"""Every key of the file in words, read from the models: what README.md's table shows.

Floor: reads the models; writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from router.config.models import Config
from router.config.profiles import Parts
from router.config.words import describe


@dataclass(frozen=True, slots=True)
class KeyDoc:
    """One key for the docs. `path` has placeholders (`tenants.<id>.tier`, `endpoints[].url`); all are words."""

    path: str
    type: str
    default: str
    description: str


def documented_keys() -> list[KeyDoc]:
    """Every key of the file in its order. A section that always exists has no row of its own; its keys have."""
    return list(_documented(Config, ""))


def _documented(model: type[BaseModel], prefix: str) -> Iterator[KeyDoc]:
    for key, field in model.model_fields.items():
        path = prefix + key
        inner, below = _section_of(field, path)
        if inner is not None and issubclass(inner, Parts):
            inner = None  # policies/README.md has a table of parts
        if inner is None or below != f"{path}." or (not field.is_required() and field.default is None):
            words = describe(field.rebuild_annotation())
            words = words.replace(", each a mapping", " mapping" if "at least" in words else " of mappings")
            yield KeyDoc(path, words, _shown_default(field), field.description or "")
        if inner is not None:
            yield from _documented(inner, below)


def _section_of(field: FieldInfo, path: str) -> tuple[type[BaseModel] | None, str]:
    """The model below a field, if any, and the prefix of its keys' paths."""
    kind: Any = field.annotation
    if get_origin(kind) is dict:
        kind, below = get_args(kind)[1], f"{path}.{'<id>' if path == 'tenants' else '<name>'}."
    elif get_origin(kind) is tuple:
        kind, below = get_args(kind)[0], f"{path}[]."
    else:
        kind, below = next((part for part in get_args(kind) if part is not type(None)), kind), f"{path}."
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return (kind if is_model else None), below


def _shown_default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.json_schema_extra, dict):
        return str(field.json_schema_extra["shown"])
    default = field.default
    if isinstance(default, Enum):
        return str(default.value)
    if isinstance(default, dict):
        return ", ".join(default) or "{}"
    if isinstance(default, float):
        return f"{default:.15g}"
    return {"None": "null", "True": "true", "False": "false", "()": "[]"}.get(str(default), str(default))
