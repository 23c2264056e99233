"""May a failed attempt be tried again, elsewhere?

Floor: `policies`, pure. Two rules: nothing after the first byte reached the client, and only failures that the request
did not cause, or one poisonous request would visit every engine of its pool.
"""

from __future__ import annotations

from policies.types import FailureCause, Outcome

# A timeout is not here: the engine may still be at work on the request, and a second copy doubles the load just when
# there is too much of it.
RETRYABLE_CAUSES = frozenset(
    {FailureCause.CONNECT, FailureCause.CLOSED, FailureCause.PROTOCOL, FailureCause.ENGINE_ABORT, FailureCause.HUNG}
)

# A vLLM that shuts down answers 500 to new requests and one that is full 503 (facts/vllm.md). 504 is a timeout, 501
# is about the request, and everything below 500 is an answer.
RETRYABLE_STATUSES = frozenset({500, 502, 503})


def may_retry(outcome: Outcome, attempts: int, limit: int, now: float, deadline: float) -> bool:
    """Whether another attempt makes sense. `attempts`: made so far, this one included; `limit`: the most in all."""
    if outcome.started or attempts >= limit or now >= deadline:
        return False
    if outcome.failure is None or outcome.failure is FailureCause.STATUS:
        return outcome.status in RETRYABLE_STATUSES
    return outcome.failure in RETRYABLE_CAUSES
