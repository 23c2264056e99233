"""Every error of the tree as OpenAI's and Anthropic's SDKs read it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from router import errors
from router.errors import EngineStatus, GatewayError, NoEndpoint, Overloaded, RateLimited, queue_full
from router.wire.errors import error_body, error_event, error_headers

ANTHROPIC_TYPES = {
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large",
    "rate_limit_error", "api_error", "timeout_error", "overloaded_error",
}  # fmt: skip


def tree(root: type[GatewayError]) -> Iterator[type[GatewayError]]:
    yield root
    for kind in root.__subclasses__():
        yield from tree(kind)


def made(kind: type[GatewayError]) -> GatewayError:
    if kind is RateLimited:
        return RateLimited("no", kind="requests", retry_after=1.5)
    if kind is EngineStatus:
        return EngineStatus(500, [], b"")
    return kind("no", retry_after=1.5)


EVERY = sorted(set(tree(GatewayError)), key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_openais_four_fields_and_a_code_of_text(kind: type[GatewayError]) -> None:
    error = json.loads(error_body(made(kind)))["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str)
    assert error["code"] == error["code"].lower()
    assert error["type"]


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_has_a_type_that_anthropics_sdk_knows(kind: type[GatewayError]) -> None:
    body = json.loads(error_body(made(kind), anthropic=True))
    assert body["type"] == "error"
    assert body["error"].keys() == {"type", "message"}
    assert body["error"]["type"] in ANTHROPIC_TYPES


@pytest.mark.parametrize("kind", EVERY)
def test_the_errors_docstring_draws_every_error_with_its_status(kind: type[GatewayError]) -> None:
    lines = [line.split() for line in (errors.__doc__ or "").splitlines() if kind.__name__ in line.split()]
    (line,) = [line[line.index(kind.__name__) + 1 :] for line in lines] or [[]]
    assert lines
    if line and line[0].isdigit():
        assert int(line[0]) == kind.status


@pytest.mark.parametrize(
    ("seconds", "whole", "milliseconds"), [(0.0, b"1", b"1"), (0.2, b"1", b"200"), (1.5, b"2", b"1500")]
)
def test_when_to_come_back_is_never_at_once_and_never_too_early(
    seconds: float, whole: bytes, milliseconds: bytes
) -> None:
    headers = dict(error_headers(NoEndpoint("no", retry_after=seconds)))
    assert (headers[b"retry-after"], headers[b"retry-after-ms"]) == (whole, milliseconds)


def test_without_a_time_no_retry_header_is_sent_and_a_final_error_asks_not_to_retry() -> None:
    assert error_headers(NoEndpoint("no")) == [(b"content-type", b"application/json")]
    assert (b"x-should-retry", b"false") in error_headers(NoEndpoint("no", final=True))


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (queue_full(429, 7.2), 429, "requests", "rate_limit_exceeded"),
        (queue_full(503, 7.2), 503, "overloaded_error", "queue_full"),
        (Overloaded.at_deadline(7.2), 503, "overloaded_error", "deadline_exceeded"),
    ],
)
def test_no_room_is_told_as_configured_and_always_with_when_to_come_back(
    error: GatewayError, status: int, kind: str, code: str
) -> None:
    body, headers = json.loads(error_body(error))["error"], dict(error_headers(error))
    assert (error.status, body["type"], body["code"]) == (status, kind, code)
    assert headers[b"retry-after"] == b"8"
    assert b"x-should-retry" not in headers


def test_an_error_inside_a_stream_is_one_event_without_done() -> None:
    error = NoEndpoint('line\n\nbreak "quoted" \u00e9')
    plain, named = error_event(error), error_event(error, anthropic=True)
    assert plain.startswith(b"data: {")
    assert named.startswith(b"event: error\ndata: {")
    for event in (plain, named):
        assert event.endswith(b"}\n\n")
        assert event.count(b"\n\n") == 1
        assert b"[DONE]" not in event
    assert json.loads(plain[6:])["error"]["message"] == error.message
