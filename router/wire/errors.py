"""Errors as bytes, in the words of the API that was asked: OpenAI's object, or Anthropic's on /v1/messages.

Floor: sans-IO. The one mapper from `GatewayError` to a response (facts: OpenAI's codes are strings, all four fields
are always there; SDKs retry 408, 409, 429 and 5xx unless `x-should-retry: false`).
"""

from __future__ import annotations

import math

import msgspec

from router.errors import GatewayError
from router.wire.http import Header

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    431: "invalid_request_error",
    503: "overloaded_error",
    504: "timeout_error",
}


class _Message(msgspec.Struct, gc=False):
    message: str | None = None


class _EngineError(msgspec.Struct, gc=False):
    error: _Message


_engine_error = msgspec.json.Decoder(_EngineError).decode


def error_body(error: GatewayError, *, anthropic: bool = False) -> bytes:
    """The JSON body of an error."""
    if anthropic:
        kind = _ANTHROPIC_TYPES.get(error.status, "api_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": error.message}})
    fields = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return msgspec.json.encode({"error": fields})


def error_headers(error: GatewayError) -> list[Header]:
    """Headers that go with an error: its kind of body, and when to come back."""
    headers: list[Header] = [(b"content-type", b"application/json"), *error.headers]
    if error.retry_after is not None:
        # Whole seconds, never 0: Retry-After has no fractions, and 0 would bring everybody back at once.
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after))).encode()))
        headers.append((b"retry-after-ms", str(max(1, math.ceil(error.retry_after * 1000))).encode()))
    return [*headers, *advice(error)]


def advice(error: GatewayError) -> list[Header]:
    """What SDKs are told of trying again; without it they do at 408, 409, 429 and every 5xx."""
    return [(b"x-should-retry", b"false")] if error.final else []


def says_what(body: bytes) -> bool:
    """Whether an engine's error body has the object that SDKs read: not a text in its place, as from an engine that
    scales, and not the HTML of a proxy before it."""
    try:
        return _engine_error(body).error.message is not None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def error_event(error: GatewayError, *, anthropic: bool = False) -> bytes:
    """An error inside a stream that has begun. No `[DONE]` follows it: the answer is not done."""
    name = b"event: error\n" if anthropic else b""
    return name + b"data: " + error_body(error, anthropic=anthropic) + b"\n\n"
