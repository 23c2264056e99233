"""Which headers may pass, in which direction: allow-lists, so that a header nobody thought of stays outside.

Floor: sans-IO. Bytes in, bytes out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

Header = tuple[bytes, bytes]

# Trace context and the dialect's version are all an engine may learn from a client. Everything else that engines
# read (x-vllm-priority, x-data-parallel-rank, x-session-id, authorization, ...) is the gateway's to say.
REQUEST_ALLOWED = frozenset({b"traceparent", b"tracestate", b"anthropic-version", b"anthropic-beta"})
_NOT_OF_TRACES = REQUEST_ALLOWED - {b"traceparent", b"tracestate"}

# An engine's own order of what it has, lower first; vLLM prefers it to the body's `priority`.
PRIORITY_HEADER = b"x-vllm-priority"
# What an engine's KV events call the request; on every API, `/v1/messages` too, which has no field for it.
SESSION_HEADER = b"x-session-id"

# Engines' answers: what describes the body, and when to come back. Hop-by-hop and server headers stay behind.
RESPONSE_ALLOWED = frozenset({b"content-type", b"retry-after", b"cache-control", b"content-language"})

# 128 characters hold a UUID, a ULID or a trace id with room; engines make answer ids and log lines from it.
_REQUEST_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
# Bytes up to which a Host header is remembered: most requests say the same few, and DNS has no longer names.
_USUAL_HOST = 260
_HOST = re.compile(rb"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?", re.IGNORECASE)


def request_headers(
    received: Iterable[Header], request_id: bytes, trace: Iterable[Header] | None = None
) -> list[Header]:
    """The headers an engine gets: JSON in, nothing compressed out, our request id, and the allow-list. `trace`: the
    trace context of the gateway's own span, in the place of the client's."""
    headers = [
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"x-request-id", request_id),
    ]
    if trace is None:
        headers.extend(pair for pair in received if pair[0] in REQUEST_ALLOWED)
    else:
        headers.extend(pair for pair in received if pair[0] in _NOT_OF_TRACES)
        headers.extend(trace)
    return headers


def response_headers(received: Iterable[Header]) -> list[Header]:
    """What of an engine's headers reaches the client."""
    return [pair for pair in received if pair[0] in RESPONSE_ALLOWED]


def sane_request_id(value: bytes | None) -> bytes | None:
    """The client's request id when it is short, printable and harmless in a log line; else None."""
    return value if value is not None and _REQUEST_ID.fullmatch(value) else None


def host_name(value: bytes) -> str | None:
    """The lower-case host of a Host header, without port and final dot; None when it is not one."""
    return _usual_host_name(value) if len(value) <= _USUAL_HOST else _host_name(value)


def _host_name(value: bytes) -> str | None:
    match = _HOST.fullmatch(value.strip())
    return match.group(1).decode("ascii").lower().rstrip(".") or None if match else None


_usual_host_name = lru_cache(maxsize=1024)(_host_name)


def bearer(value: bytes | None) -> bytes | None:
    """The credential of an `Authorization: Bearer` header; None when there is none or it is empty."""
    if value is None or value[:7].lower() != b"bearer ":
        return None
    return value[7:].strip() or None
