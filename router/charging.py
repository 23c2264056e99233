"""What a finished request is charged with, for its record and for metrics; worked out once.

Floor: an adapter over `policies.admission.engine_time`.
"""

from __future__ import annotations

from policies.admission.engine_time import charged
from policies.admission.limit import Use
from router.calls import CLIENT_CLOSED, Call


def charge(call: Call) -> tuple[int, int]:
    """Microseconds of the engine and micro-units of money, by the tokens that the record has: what is not known of an
    answer is not charged, and an answer from the cache as it is billed. Nothing for a request that no engine has
    answered; an answer that the tenant's content rules withheld is one."""
    if call.charged is None:
        call.charged = _charge(call)
    return call.charged


def _charge(call: Call) -> tuple[int, int]:
    ticket, usage = call.ticket, call.usage
    if (reused := call.reused) is not None:
        prices = call.model.prices if call.model is not None else None
        return 0, 0 if prices is None else prices.of(reused)
    refused = call.refused or (call.status >= 400 and call.status != CLIENT_CLOSED)
    unanswered = usage is None and (call.first_byte_at is None or refused)
    if ticket is None or call.model is None or unanswered:
        return 0, 0
    prompt = usage.prompt_tokens if usage is not None else None
    if prompt is None:
        prompt = call.request.prompt_tokens if call.measured is not None else 0
    output, cached = (usage.completion_tokens or 0, usage.cached_tokens or 0) if usage is not None else (0, 0)
    return charged(ticket.choice.state, Use(prompt, output, cached), call.model.prices)
