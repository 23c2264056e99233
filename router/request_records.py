"""A finished request as the ledger has it: what is known of it at its end, without a word of its text.

Floor: an adapter between `router.gateway` and the ledger; a part of the hot path (`python -m benchmarks.ledger`).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from policies.types import Tenant
from router.calls import Call
from router.charging import charge
from router.finished import Finished
from router.wire.draft import Answered, Draft
from router.wire.parameters import pick
from router.wire.said import prompt_end


class Ledger(Protocol):
    """Where records go (`router.ledger.books`)."""

    @property
    def accepts(self) -> bool:
        """Whether requests may be answered now."""

    @property
    def add(self) -> Callable[[Draft], None]:
        """Takes a record that is to be finished off the event loop; never waits."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Digests of weights as configured: by tenant and model, by pool and endpoint."""

    models: Mapping[tuple[str, str], str] = field(default_factory=dict)
    endpoints: Mapping[tuple[str, str], str] = field(default_factory=dict)

    def of(self, call: Call) -> str | None:
        """Of those that answered; None where nothing is said of them. Another pool may serve others."""
        if call.ticket is None or call.model is None or call.tenant is None:
            return None
        pool = call.degraded.pool if call.degraded is not None else call.model.pool
        found = self.endpoints.get((pool.name, call.ticket.endpoint)) if self.endpoints else None
        if found is None and self.models and call.degraded is None:
            found = self.models.get((call.tenant.id, call.model.route.name))
        return found


@dataclass(frozen=True, slots=True)
class Looking:
    """Which answers are looked at: a `share` of them. `watch`: by tenant, words that are counted in them."""

    share: float = 0.0
    watch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


class RequestRecords:
    """Of one process. `wall_clock`: Unix seconds; `draw`: a number from 0 to 1."""

    __slots__ = ("_add", "_draw", "_ledger", "_looking", "_wall_clock", "_weights")

    def __init__(
        self,
        ledger: Ledger,
        wall_clock: Callable[[], float],
        weights: Weights | None = None,
        looking: Looking | None = None,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._weights = weights if weights is not None and (weights.models or weights.endpoints) else None
        self._looking = looking if looking is not None else Looking()
        self._draw = draw
        self._ledger = ledger
        self._add = ledger.add
        self._wall_clock = wall_clock

    @property
    def accepted(self) -> bool:
        """False where a request must not be answered, as no record could be kept of it."""
        return self._ledger.accepts

    def looks_at(self, call: Call) -> bool:
        """Whether this answer is one of those that are looked at. Of several choices the texts would be mixed."""
        share = self._looking.share
        if not share or (share < 1.0 and self._draw() >= share):
            return False
        return bool(call.spec.output_fields) and call.probe_of is None and call.request.choices == 1

    def finished(self, call: Call, now: float) -> None:
        """Once for each request whose tenant is known. `now`: monotonic seconds."""
        if call.tenant is None:
            return
        spec, fields = call.spec, call.fields
        weights = self._weights.of(call) if self._weights is not None else None
        self._add(
            Draft(
                finished(call, call.tenant, self._wall_clock(), now, charge(call), weights),
                spec,
                pick(fields) if fields is not None and spec.output_fields else None,
                call.degraded.terms.max_tokens if call.degraded is not None else None,
                call.measured.digest if call.measured is not None else b"",
                self._answered(call, call.tenant.id) if call.sampled else None,
            )
        )

    def _answered(self, call: Call, tenant: str) -> Answered | None:
        sample = call.answer.sample if call.answer is not None else None
        if sample is None or sample.empty or call.fields is None:
            return None
        return Answered(sample, prompt_end(call.spec, call.fields), self._looking.watch.get(tenant, ()))


def finished(
    call: Call, tenant: Tenant, at: float, ended: float, charged: tuple[int, int], weights: str | None
) -> Finished:
    """Of a request that has ended. A part of the hot path."""
    model, ticket, usage, measured, degraded = call.model, call.ticket, call.usage, call.measured, call.degraded
    request = measured.request if measured is not None else None
    pool = degraded.pool if degraded is not None else model.pool if model is not None else None
    cache = call.cache
    return Finished(
        at,
        ended,
        tenant,
        call.key,
        call.id,
        call.spec.name,
        model.route if model is not None else None,
        pool.name if pool is not None else None,
        ticket.endpoint if ticket is not None else None,
        ticket.queued_seconds if ticket is not None else None,
        request.lane if request is not None else None,
        request is not None and request.stream,
        request.prompt_tokens if request is not None else None,
        request.prefix_blocks[-1] if request is not None and request.prefix_blocks else None,
        measured.output_bound if measured is not None else None,
        request.choices if request is not None else 1,
        call.status,
        call.error_code,
        call.error_source,
        call.broken_off,
        call.refused,
        call.finish_reason,
        usage.prompt_tokens if usage is not None else None,
        usage.cached_tokens if usage is not None else None,
        usage.completion_tokens if usage is not None else None,
        call.arrived_at,
        call.first_byte_at,
        call.attempts,
        call.resumes,
        charged,
        call.system_fingerprint,
        weights,
        cache.billing.value if cache is not None and cache.hit else None,
        degraded.terms.max_tokens if degraded is not None else None,
        call.verdicts or None,
    )
