"""A request that another pool serves, with less: what its engine gets, and what the client is told.

Floor: an adapter under `router.gateway`; on which terms is in `router.keeper.Terms`.
"""

from __future__ import annotations

from dataclasses import replace

import msgspec

from policies.types import Lane
from router.calls import Call
from router.errors import NoEndpoint
from router.keeper import Detour
from router.wire.fields import Fields, read_fields
from router.wire.http import Header
from router.wire.openai import ApiSpec

_maybe_int = msgspec.json.Decoder(int | None)
# Batch work comes back when there may be room again; a degraded pool has none to spare for minutes (seconds).
_BATCH_AFTER_SECONDS = 60.0
_AFTER_SECONDS = 5.0


def degraded_body(call: Call, detour: Detour, body: bytes) -> bytes:
    """The body for the other pool's engines. Raises NoEndpoint where the request cannot be had on these terms."""
    terms = detour.terms
    if terms.refuse_batch and call.request.lane is Lane.BATCH:
        message = "This model runs degraded: batch work is refused meanwhile."
        raise NoEndpoint(message, retry_after=_BATCH_AFTER_SECONDS)
    fields = read_fields(body)
    if terms.shared and "previous_response_id" in fields:
        # Engines find stored answers by id alone, whoever asks: on a shared pool that id may be another tenant's.
        raise NoEndpoint("This model runs degraded: stored responses are not at hand.", retry_after=_AFTER_SECONDS)
    call.degraded = detour
    changed: dict[str, object] = dict(fields)
    if call.resume is not None:  # its terms are no longer those by which it could go on
        call.resume = None
        changed.pop("return_token_ids", None)
    if terms.engine_model is not None and call.model is not None:
        changed["model"] = terms.engine_model
        route = replace(call.model.route, engine_model=terms.engine_model)
        call.model = replace(call.model, route=route)  # so that the client's own name goes into the answer
    return msgspec.json.encode(changed | _capped(call.spec, fields, terms.max_tokens))


def _capped(spec: ApiSpec, fields: Fields, most: int) -> dict[str, object]:
    """The bounds of the answer's length, none above `most`; where there was none, one."""
    capped: dict[str, object] = {}
    for name in spec.output_fields:
        bound = _maybe_int.decode(fields[name]) if name in fields else None
        if bound is not None:
            capped[name] = min(bound, most)
    return capped if capped or not spec.output_fields else {spec.output_fields[-1]: most}


def degraded_header(detour: Detour) -> Header:
    """How the answer says it."""
    return (b"x-promptlane-degraded", b"max_tokens=%d" % detour.terms.max_tokens)


def nobody_instead() -> NoEndpoint:
    """Nor can the other pool serve it."""
    return NoEndpoint("No endpoint of this model is available right now.", retry_after=_AFTER_SECONDS)
