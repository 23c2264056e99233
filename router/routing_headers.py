"""Answer headers that tell a client what the gateway did: where its request went and why, and what its limits are.

Floor: formats; no state.
"""

from __future__ import annotations

from policies.admission.limits import LimitSnapshot
from policies.decision import Candidate
from policies.types import InferenceRequest
from router.tickets import Ticket
from router.wire.http import Header


def routing_headers(request: InferenceRequest, ticket: Ticket) -> list[Header]:
    """Lane, endpoint, predicted cached tokens, time in the queue."""
    return [
        (b"x-promptlane-lane", request.lane.value.encode()),
        (b"x-promptlane-endpoint", ticket.endpoint.encode()),
        (b"x-promptlane-cached-tokens", b"%d" % ticket.choice.cached_tokens),
        (b"x-promptlane-queue-ms", b"%d" % round(ticket.queued_seconds * 1000)),
    ]


def prediction_headers(request: InferenceRequest, ticket: Ticket) -> list[Header]:
    """Predicted time to first token at the best endpoints, place in the queue, and why this endpoint. Not for a shared
    pool: they tell of the load that other tenants make."""
    return [
        (b"x-promptlane-ttft-ms", b", ".join([_predicted(one) for one in ticket.decision.ranked])),
        (b"x-promptlane-queue-ahead", b"%d" % ticket.ahead),
        (b"x-promptlane-why", why(request, ticket).encode()),
    ]


def _predicted(candidate: Candidate) -> bytes:
    return b"%s=%d" % (candidate.state.endpoint.name.encode(), round(candidate.ttft_seconds * 1000))


def why(request: InferenceRequest, ticket: Ticket) -> str:
    """The decision in one line: what was predicted of the chosen endpoint and of the one after it."""
    first, *others = ticket.decision.ranked
    held = f"held {ticket.queued_seconds * 1000:.0f} ms behind {ticket.ahead}, " if ticket.queued_seconds else ""
    text = (
        f"{ticket.decision.profile}: {held}first token in {first.ttft_seconds * 1000:.0f} ms,"
        f" {first.cached_tokens} of {request.prompt_tokens} prompt tokens cached"
    )
    if not others:
        return text + "; the only endpoint available"
    following = others[0]
    return (
        f"{text}; next best {following.state.endpoint.name} in {following.ttft_seconds * 1000:.0f} ms"
        f" with {following.cached_tokens} cached"
    )


def limit_headers(snapshot: LimitSnapshot) -> list[Header]:
    """OpenAI's x-ratelimit-* headers for what is limited. Resets are durations such as `1m30s`, not times."""
    headers: list[Header] = []
    for kind, limit, remaining, reset in (
        (b"requests", snapshot.limit_requests, snapshot.remaining_requests, snapshot.reset_requests_seconds),
        (b"tokens", snapshot.limit_tokens, snapshot.remaining_tokens, snapshot.reset_tokens_seconds),
    ):
        if limit is None or remaining is None or reset is None:
            continue
        headers.append((b"x-ratelimit-limit-" + kind, b"%d" % limit))
        headers.append((b"x-ratelimit-remaining-" + kind, b"%d" % remaining))
        headers.append((b"x-ratelimit-reset-" + kind, duration(reset).encode()))
    return headers


def duration(seconds: float) -> str:
    """Seconds as Go writes durations, which is what OpenAI sends: `12ms`, `1s`, `6m0s`, `1h0m0s`."""
    milliseconds = max(0, round(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    whole, fraction = divmod(milliseconds, 1000)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest}.{fraction:03d}".rstrip("0").rstrip(".") if fraction else str(rest)
    if hours:
        return f"{hours}h{minutes}m{tail}s"
    return f"{minutes}m{tail}s" if minutes else f"{tail}s"
