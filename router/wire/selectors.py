"""Label selectors of Kubernetes as people write them, to the terms that its objects have.

Floor: sans-IO.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LABEL = r"(?:[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_VALUE = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?"
_TERM = re.compile(
    rf"(?P<absent>!?)(?P<alone>{LABEL})"
    rf"|(?P<key>{LABEL})\s*(?P<sign>=|==|!=)\s*(?P<value>{_VALUE})"
    rf"|(?P<among>{LABEL})\s+(?P<how>in|notin)\s+\((?P<values>\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*)\)"
)
_LONGEST = 2048


@dataclass(frozen=True, slots=True)
class Term:
    """`operator`: In, NotIn, Exists or DoesNotExist, as in `matchExpressions`."""

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def takes(self, labels: Mapping[str, str]) -> bool:
        """Whether what has these labels is meant."""
        value = labels.get(self.key)
        if self.operator in ("In", "NotIn"):
            return (value in self.values) is (self.operator == "In")
        return (value is not None) is (self.operator == "Exists")


def read_selector(text: str) -> tuple[Term, ...]:
    """Equality and set terms, at least one: an empty selector would take all pods of a namespace. Raises ValueError."""
    if not text.strip() or len(text) > _LONGEST:
        raise ValueError("no label selector")
    return tuple(_term(one.strip()) for one in re.split(r",(?![^(]*\))", text))


def takes(terms: Sequence[Term], labels: Mapping[str, str]) -> bool:
    """Whether all of them do."""
    return all(term.takes(labels) for term in terms)


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise ValueError("no label selector")
    if found["alone"] is not None:
        return Term(found["alone"], "DoesNotExist" if found["absent"] else "Exists")
    if found["key"] is not None:
        return Term(found["key"], "NotIn" if found["sign"] == "!=" else "In", (found["value"],))
    values = tuple(value.strip() for value in found["values"].split(","))
    return Term(found["among"], "In" if found["how"] == "in" else "NotIn", values)
