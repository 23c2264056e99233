"""Answer headers that tell a client what the gateway did: where its request went and why, and what its limits are.

Floor: formats; no state.
"""

from __future__ import annotations

from functools import lru_cache

from policies.admission.limits import LimitSnapshot
from policies.decision import Candidate
from policies.types import InferenceRequest
from router.tickets import Ticket
from router.wire.http import Header


def routing_headers(request: InferenceRequest, ticket: Ticket) -> list[Header]:
    """Lane, endpoint, predicted cached tokens, time in the queue."""
    return [
        (b"x-promptlane-lane", request.lane.value.encode()),
        (b"x-promptlane-endpoint", ticket.choice.state.endpoint.name_bytes),
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
    return b"%s=%d" % (candidate.state.endpoint.name_bytes, round(candidate.ttft_seconds * 1000))


def why(request: InferenceRequest, ticket: Ticket) -> str:
    """The decision in one line: what was predicted of the chosen endpoint and of the one after it."""
    ranked = ticket.decision.ranked  # with `:.0f` for `round` this would take twice as long
    first, prompt = ranked[0], request.prompt_tokens
    held = f"held {round(ticket.queued_seconds * 1000)} ms behind {ticket.ahead}, " if ticket.queued_seconds else ""
    text = (
        f"{ticket.decision.profile}: {held}first token in {round(first.ttft_seconds * 1000)} ms,"
        f" {first.cached_tokens} of {prompt} prompt tokens cached"
    )
    if len(ranked) == 1:
        return text + "; the only endpoint available"
    following = ranked[1]
    return (
        f"{text}; next best {following.state.endpoint.name} in {round(following.ttft_seconds * 1000)} ms"
        f" with {following.cached_tokens} cached"
    )


def limit_headers(snapshot: LimitSnapshot) -> list[Header]:
    """OpenAI's x-ratelimit-* headers for what is limited. Resets are durations such as `1m30s`, not times."""
    headers: list[Header] = []
    limit, remaining, reset, *_ = snapshot
    if limit is not None and remaining is not None and reset is not None:
        headers.append((b"x-ratelimit-limit-requests", b"%d" % limit))
        headers.append((b"x-ratelimit-remaining-requests", b"%d" % remaining))
        headers.append((b"x-ratelimit-reset-requests", duration(reset).encode()))
    *_, limit, remaining, reset = snapshot
    if limit is not None and remaining is not None and reset is not None:
        headers.append((b"x-ratelimit-limit-tokens", b"%d" % limit))
        headers.append((b"x-ratelimit-remaining-tokens", b"%d" % remaining))
        headers.append((b"x-ratelimit-reset-tokens", duration(reset).encode()))
    return headers


def duration(seconds: float) -> str:
    """Seconds as Go writes durations, which is what OpenAI sends: `12ms`, `1s`, `6m0s`, `1h0m0s`."""
    return _duration(max(0, round(seconds * 1000)))


@lru_cache(maxsize=4096)  # of a busy tenant nearly all are among the last second of a window
def _duration(milliseconds: int) -> str:
    if milliseconds < 1000:
        return f"{milliseconds}ms" if milliseconds else "0s"
    whole, fraction = divmod(milliseconds, 1000)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    tail = f"{rest}.{fraction:03d}".rstrip("0").rstrip(".") if fraction else str(rest)
    if hours:
        return f"{hours}h{minutes}m{tail}s"
    return f"{minutes}m{tail}s" if minutes else f"{tail}s"
