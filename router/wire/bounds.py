"""What a tenant may ask for at most: fields that are refused, and how long an answer may be.

Floor: sans-IO.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import msgspec

from router.errors import BadRequest
from router.wire.openai import ApiSpec, Body
from router.wire.values import given

# Tokens that `/v1/completions` answers where nothing is said; all other APIs answer as many as fit.
_DEFAULT: Final = {"completions": 16}

_NULL: Final = msgspec.Raw(b"null")


@dataclass(frozen=True, slots=True)
class RequestBounds:
    """`max_tokens`: of an answer, per choice; None: no bound. `refused`: names of fields."""

    max_tokens: int | None = None
    refused: frozenset[str] = frozenset()

    def apply(self, spec: ApiSpec, body: Body) -> Body:
        """The body within the bounds; the very same where it was. Raises BadRequest naming a field."""
        for name in body.fields:
            if name in self.refused and given(body.fields[name]):
                raise BadRequest(f"This tenant does not allow the field '{name}'.", param=name, code="field_refused")
        if self.max_tokens is None or not spec.output_fields:
            return body
        bound = self.max_tokens
        asked = {name: body.fields[name] for name in spec.output_fields if given(body.fields.get(name, _NULL))}
        # Each by itself: engines differ in which of two they take.
        beyond = {name: bound for name, raw in asked.items() if msgspec.json.decode(raw, type=int) > bound}
        if not asked and _DEFAULT.get(spec.name, bound + 1) > bound:
            beyond = {spec.output_fields[-1]: bound}
        if not beyond:
            return body
        fields = {**body.fields, **{name: msgspec.Raw(b"%d" % bound) for name in beyond}}
        longest = bound if body.max_output_tokens is None else min(bound, body.max_output_tokens)
        return replace(body, fields=fields, max_output_tokens=longest)
