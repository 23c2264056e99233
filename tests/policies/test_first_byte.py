"""The limit to the first byte grows with what is predicted, and is the most where the first byte tells nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.first_byte import FirstByteLimit
from policies.types import Lane
from tests.policies.builders import make_request

LIMIT = FirstByteLimit(most=300.0, least=30.0, factor=10.0)


@pytest.mark.parametrize(("predicted", "seconds"), [(0.0, 30.0), (2.9, 30.0), (7.0, 70.0), (31.0, 300.0)])
def test_a_stream_has_ten_times_what_is_predicted_within_its_bounds(predicted: float, seconds: float) -> None:
    assert LIMIT.seconds(replace(make_request(), stream=True, lane=Lane.LONG), predicted) == seconds


def test_an_answer_in_one_piece_and_batch_work_have_the_most() -> None:
    assert LIMIT.seconds(replace(make_request(), stream=False, max_output_tokens=5), 0.1) == 300.0
    assert LIMIT.seconds(replace(make_request(), stream=True, lane=Lane.BATCH), 0.1) == 300.0


def test_what_has_no_output_ends_with_its_prefill_and_has_its_limit() -> None:
    assert LIMIT.seconds(replace(make_request(), stream=False, max_output_tokens=0), 0.1) == 30.0


@given(st.floats(0, 1e6), st.floats(0, 100))
def test_the_most_is_never_exceeded_whatever_the_least_is(predicted: float, most: float) -> None:
    assert FirstByteLimit(most, 50.0, 10.0).seconds(make_request(), predicted) <= most
