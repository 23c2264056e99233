"""A finished request as it was at its end: what its record is made of, off the event loop.

Floor: data for `router.request_records`, which only copies what there is, in the order of the fields here; what follows
from it, `record` works out. Nothing here holds a prompt, an answer or a connection, so that a request is let go when it
ends.
"""

from __future__ import annotations

from typing import Any

import msgspec

from policies.types import Lane, ModelRoute, Tenant
from router.calls import CLIENT_CLOSED
from router.guards.rules import Verdict
from router.wire.record import Ending, Kind, Record


class Finished(msgspec.Struct, gc=False):
    """`at`: Unix seconds at its end; `ended`, `arrived` and `first_byte`: monotonic ones. `estimate`: the gateway's own
    count of the prompt; `block`: the prefix chain's last; `charged`: as `router.charging` has it. The rest is as in
    `router.calls.Call`, None where the request did not come so far."""

    at: float
    ended: float
    tenant: Tenant
    key: str
    id: str
    api: str
    route: ModelRoute | None
    pool: str | None
    endpoint: str | None
    queued: float | None
    lane: Lane | None
    stream: bool
    estimate: int | None
    block: int | None
    output_bound: int | None
    choices: int
    status: int
    error: str | None
    error_source: str | None
    broken_off: bool
    refused: int
    finish_reason: str | None
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    arrived: float
    first_byte: float | None
    attempts: int
    resumes: int
    charged: tuple[int, int]
    fingerprint: str | None
    weights: str | None
    cache_billing: str | None
    degraded_tokens: int | None
    verdicts: list[Verdict] | None

    def record(self) -> Record:
        """What the ledger keeps of it."""
        reported, route, block = self.prompt_tokens is not None, self.route, self.block
        return Record(
            "",
            0,
            _REQUEST,
            self.at,
            self.tenant.id,
            self.tenant.tier.name,
            self.key or None,
            self.id,
            self.api,
            route.name if route is not None else None,
            route.engine_model if route is not None else None,
            self.pool,
            self.endpoint,
            self.lane._value_ if self.lane is not None else None,  # as `value`, which is a function
            self.stream,
            _COMPLETE if self.status == 200 and self.error_source is None and not self.refused else self._outcome(),
            self.status,
            self.error,
            self.finish_reason,
            self.prompt_tokens if reported else self.estimate,
            self.cached_tokens,
            self.completion_tokens,
            "engine" if reported else "estimate" if self.estimate is not None else None,
            self.queued,
            self.first_byte - self.arrived if self.first_byte is not None else None,
            self.ended - self.arrived,
            self.attempts,
            self.resumes,
            # The last whole block's, which is chained to all that precedes it and salted for the tenant; the writer
            # keys it, as xxHash could be computed backwards.
            f"{block:016x}" if block is not None else None,
            self._detail(),
            *self.charged,
            system_fingerprint=self.fingerprint,
            weights_digest=self.weights,
        )

    def _outcome(self) -> str:
        if self.status == CLIENT_CLOSED:
            return _LEFT
        if self.error_source is None:
            # An engine refuses in its own words, which pass as they are.
            return _REFUSED if self.refused or self.status >= 400 else _COMPLETE
        if self.broken_off:
            return _INTERRUPTED
        return _REFUSED if self.error_source in ("client", "policy") else _FAILED

    def _detail(self) -> dict[str, Any] | None:
        """What few requests have: the client's bound of its answer, several choices, several prompts, other terms, and
        what content rules found: rule, side, action, how often; and that the answer came from the cache, and how that
        is billed."""
        detail: dict[str, Any] = {}
        if self.cache_billing is not None:
            detail["from_cache"] = self.cache_billing
        if self.verdicts:
            detail["verdicts"] = [[one.rule, one.side.value, one.action.value, one.found] for one in self.verdicts]
        if self.output_bound is not None:
            detail["max_tokens"] = self.output_bound
        if self.choices != 1:
            detail["choices"] = self.choices
        if self.degraded_tokens is not None:
            detail["degraded_max_tokens"] = self.degraded_tokens
        return detail or None


# Of enumerations the values: looking them up takes as long as a field does.
_REQUEST = Kind.REQUEST.value
_COMPLETE, _LEFT, _INTERRUPTED = Ending.COMPLETE.value, Ending.CLIENT_LEFT.value, Ending.INTERRUPTED.value
_REFUSED, _FAILED = Ending.REFUSED.value, Ending.FAILED.value
