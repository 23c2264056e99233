"""A request reaches another replica as it left this one, on another clock."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import ValidationError
from msgspec.msgpack import decode, encode

from policies.types import InferenceRequest
from router.coordination.asked import AskedRequest
from tests.policies.builders import make_request
from tests.router.coordination.builders import make_asked, requests

clocks = st.floats(0, 1e6)


def travelled(request: InferenceRequest, left_at: float, came_at: float) -> InferenceRequest:
    return decode(encode(AskedRequest.of(request, left_at)), type=AskedRequest).request(came_at)


@given(requests, clocks, clocks)
def test_all_fields_but_the_times_arrive_as_they_were(request: InferenceRequest, here: float, there: float) -> None:
    came = travelled(request, here, there)
    assert replace(came, arrived_at=request.arrived_at, deadline=request.deadline) == request


@given(requests, clocks, clocks)
def test_its_age_and_what_remains_of_its_time_are_the_same_on_the_other_clock(
    request: InferenceRequest, here: float, there: float
) -> None:
    came = travelled(request, here, there)
    assert there - came.arrived_at == pytest.approx(max(0.0, here - request.arrived_at), abs=1e-6)
    assert came.deadline - there == pytest.approx(request.deadline - here, abs=1e-6)


def test_a_deadline_that_has_passed_stays_passed() -> None:
    came = travelled(replace(make_request(), deadline=5.0), 7.0, 1000.0)
    assert came.deadline == 998.0


def test_prefix_blocks_take_eight_bytes_each_and_the_lowest_comes_first() -> None:
    asked = AskedRequest.of(replace(make_request(), prefix_blocks=(1, 2**64 - 1)), 0.0)
    assert asked.prefix_blocks == b"\1" + bytes(7) + b"\xff" * 8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prefix_blocks", b"1234567"),
        ("age", -1.0),
        ("age", float("nan")),
        ("prompt_tokens", -1),
        ("weight", 0.0),
        ("choices", 0),
        ("lane", "express"),
    ],
)
def test_a_value_that_no_request_can_have_is_not_read(field: str, value: object) -> None:
    names = AskedRequest.__struct_fields__
    fields = list(decode(encode(make_asked())))
    fields[names.index(field)] = value
    with pytest.raises(ValidationError):
        decode(encode(fields), type=AskedRequest)
