"""Headers that say where a request went and what is left of the limits."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.limits import LimitSnapshot
from policies.types import Lane
from router.routing_headers import duration, limit_headers, prediction_headers, routing_headers, why
from tests.policies.builders import make_request, make_state
from tests.router.builders import make_pool


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (-1, "0s"), (0.0004, "0s"), (0.012, "12ms"), (0.9996, "1s"), (1, "1s"), (1.5, "1.5s"),
        (59.9999, "1m0s"), (60, "1m0s"), (90.25, "1m30.25s"), (360, "6m0s"), (3600, "1h0m0s"), (3661.001, "1h1m1.001s"),
    ],
)  # fmt: skip
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(0, 1e6))
def test_a_duration_reads_back_to_the_millisecond(seconds: float) -> None:
    text = duration(seconds)
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:(\d+)ms)?", text)
    assert parts is not None, text
    hours, minutes, whole, thousandths = (float(part or 0) for part in parts.groups())
    assert hours * 3600 + minutes * 60 + whole + thousandths / 1000 == pytest.approx(seconds, abs=0.0011)
    assert minutes < 60
    assert whole < 60 or not minutes


def test_only_what_is_limited_has_headers() -> None:
    assert limit_headers(LimitSnapshot()) == []
    tokens = dict(limit_headers(LimitSnapshot(limit_tokens=100, remaining_tokens=0, reset_tokens_seconds=1.5)))
    assert tokens == {
        b"x-ratelimit-limit-tokens": b"100",
        b"x-ratelimit-remaining-tokens": b"0",
        b"x-ratelimit-reset-tokens": b"1.5s",
    }


@pytest.mark.parametrize("count", [1, 2])
async def test_a_client_is_told_where_its_request_went_and_why(count: int) -> None:
    pool = make_pool([make_state(f"e{n}") for n in range(count)])
    request = make_request(lane=Lane.LONG)
    ticket = await pool.dispatch(request)
    ticket.queued_seconds = 0.0126
    headers = dict([*routing_headers(request, ticket), *prediction_headers(request, ticket)])
    assert headers[b"x-promptlane-lane"] == b"long"
    assert headers[b"x-promptlane-endpoint"] == ticket.endpoint.encode()
    assert headers[b"x-promptlane-cached-tokens"] == b"0"
    assert headers[b"x-promptlane-queue-ms"] == b"13"
    reason = why(request, ticket)
    assert headers[b"x-promptlane-why"].decode("ascii") == reason
    assert reason.isprintable()
    assert ("the only endpoint available" in reason) is (count == 1)
    ticket.settle(None)
