"""A finished request as the ledger has it: what is known of it at its end, without a word of its text.

Floor: an adapter between `router.gateway` and the ledger; a part of the hot path (`python -m benchmarks.ledger`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from router.calls import CLIENT_CLOSED, Call
from router.wire.record import Ending, Kind, Record


class Ledger(Protocol):
    """Where records go (`router.ledger.books`)."""

    @property
    def accepts(self) -> bool:
        """Whether requests may be answered now."""

    @property
    def add(self) -> Callable[[Record], None]:
        """Takes a record; never waits."""


class RequestRecords:
    """Of one process. `wall_clock`: Unix seconds."""

    __slots__ = ("_add", "_ledger", "_wall_clock")

    def __init__(self, ledger: Ledger, wall_clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._add = ledger.add
        self._wall_clock = wall_clock

    @property
    def accepted(self) -> bool:
        """False where a request must not be answered, as no record could be kept of it."""
        return self._ledger.accepts

    def finished(self, call: Call, now: float) -> None:
        """Once for each request whose tenant is known. `now`: monotonic seconds."""
        tenant, model, ticket, usage = call.tenant, call.model, call.ticket, call.usage
        if tenant is None:
            return
        request = call.measured.request if call.measured is not None else None
        first_byte = call.first_byte_at
        reported = usage is not None and usage.prompt_tokens is not None
        estimate = request.prompt_tokens if request is not None else None
        self._add(
            Record(
                replica="",
                sequence=0,
                kind=Kind.REQUEST.value,
                at=self._wall_clock(),
                tenant=tenant.id,
                tier=tenant.tier.name,
                key=call.key or None,
                request_id=call.id,
                api=call.spec.name,
                model=model.route.name if model is not None else None,
                engine_model=model.route.engine_model if model is not None else None,
                pool=_pool(call),
                endpoint=ticket.endpoint if ticket is not None else None,
                lane=request.lane.value if request is not None else None,
                stream=request is not None and request.stream,
                outcome=_outcome(call),
                status=call.status,
                error=call.error_code,
                finish_reason=call.finish_reason,
                prompt_tokens=usage.prompt_tokens if usage is not None and reported else estimate,
                cached_tokens=usage.cached_tokens if usage is not None else None,
                completion_tokens=usage.completion_tokens if usage is not None else None,
                usage_from="engine" if reported else "estimate" if estimate is not None else None,
                queue_seconds=ticket.queued_seconds if ticket is not None else None,
                first_byte_seconds=first_byte - call.arrived_at if first_byte is not None else None,
                total_seconds=now - call.arrived_at,
                attempts=call.attempts,
                resumes=call.resumes,
                # The last whole block's, which is chained to all that precedes it and salted for the tenant; the writer
                # keys it, as xxHash could be computed backwards.
                prefix_hash=f"{request.prefix_blocks[-1]:016x}"
                if request is not None and request.prefix_blocks
                else None,
                detail=_detail(call),
            )
        )


def _pool(call: Call) -> str | None:
    if call.degraded is not None:
        return call.degraded.pool.name
    return call.model.pool.name if call.model is not None else None


def _outcome(call: Call) -> str:
    if call.status == CLIENT_CLOSED:
        return Ending.CLIENT_LEFT.value
    if call.error_source is None:
        # An engine refuses in its own words, which pass as they are.
        return (Ending.REFUSED if call.refused or call.status >= 400 else Ending.COMPLETE).value
    if call.broken_off:
        return Ending.INTERRUPTED.value
    return (Ending.REFUSED if call.error_source in ("client", "policy") else Ending.FAILED).value


def _detail(call: Call) -> dict[str, Any] | None:
    """What few requests have: the client's bound of its answer, several choices, several prompts, other terms, and what
    content rules found: rule, side, action, how often."""
    measured = call.measured
    detail: dict[str, Any] = {}
    if call.verdicts:
        detail["verdicts"] = [[one.rule, one.side.value, one.action.value, one.found] for one in call.verdicts]
    if measured is None or (measured.output_bound is None and measured.request.choices == 1 and call.degraded is None):
        return detail or None
    if measured.output_bound is not None:
        detail["max_tokens"] = measured.output_bound
    if measured.request.choices != 1:
        detail["choices"] = measured.request.choices
    if call.degraded is not None:
        detail["degraded_max_tokens"] = call.degraded.terms.max_tokens
    return detail
