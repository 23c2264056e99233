"""The share of its cache that an engine says is in use tells how much of what is counted here fits into it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.endpoint_state import INDEX_SHARE, index_blocks
from policies.gate import KV_SHARE, Gate
from policies.kv_fill import BOUNDS, CHANGE, ENOUGH, LEAST_USE, UNCLEAR, KvFill
from tests.policies.builders import make_request, make_state, make_view, make_waiting


@pytest.mark.parametrize("truth", [0.6, 0.75, 1.3, 1.7])
def test_what_really_fits_is_learned_from_noisy_readings(truth: float) -> None:
    fill, rng = KvFill(), Random(1)
    for _ in range(60):
        usage = rng.uniform(0.2, 1.0)
        fill.read(usage, usage * truth * 100_000 * rng.uniform(0.85, 1.15), 100_000)
    assert fill.factor == pytest.approx(truth, rel=0.06)


def test_an_engine_knows_its_own_size_better_where_little_is_off() -> None:
    fill, rng = KvFill(), Random(1)
    for _ in range(200):
        fill.read(0.9, 0.9 * 0.95 * 100_000 * rng.uniform(0.9, 1.1), 100_000)
    assert fill.factor == 1.0


def test_it_follows_when_the_estimates_get_right() -> None:
    fill = KvFill()
    for _ in range(50):
        fill.read(0.9, 63_000, 100_000)
    assert fill.factor == pytest.approx(0.7)
    for _ in range(100):
        fill.read(0.9, 90_000, 100_000)
    assert fill.factor == 1.0


@pytest.mark.parametrize(
    ("usage", "believed", "capacity"),
    [(None, 100.0, 1000), (LEAST_USE - 0.01, 900.0, 1000), (0.9, 100.0, None), (1.4, 700.0, 1000), (0.9, 10.0, 1000)],
)
def test_what_cannot_be_compared_teaches_nothing(usage: float | None, believed: float, capacity: int | None) -> None:
    fill = KvFill()
    for _ in range(100):
        fill.read(usage, believed, capacity)
    assert (fill.factor, fill.readings) == (1.0, 0)


def test_a_few_readings_decide_nothing() -> None:
    fill = KvFill()
    for _ in range(ENOUGH - 1):
        fill.read(0.9, 45_000, 100_000)
    assert fill.factor == 1.0


@given(st.lists(st.tuples(st.floats(-1, 2), st.floats(0, 1e7), st.integers(0, 10**6)), max_size=60))
def test_whatever_is_read_the_factor_stays_within_its_bounds(readings: list[tuple[float, float, int]]) -> None:
    fill = KvFill()
    for reading in readings:
        before = fill.factor
        fill.read(*reading)
        assert BOUNDS[0] <= fill.factor <= BOUNDS[1]
        assert fill.factor in (before, 1.0) or abs(fill.factor - before) > CHANGE
        assert fill.factor == 1.0 or abs(fill.factor - 1) > UNCLEAR


def test_gate_and_index_follow_what_fits_and_a_new_process_begins_anew() -> None:
    state = make_state(kv_capacity_tokens=100_000)
    request = make_request(prompt_tokens=60_000, max_output_tokens=0, blocks=())
    state.reserve(request, 0, 0.0, 0.0).first_token(0.0)
    next_one = make_waiting([state], make_request(prompt_tokens=30_000, max_output_tokens=0, blocks=()))
    assert Gate().admits(make_view([state]), 0, next_one)
    for _ in range(20):
        state.scraped_usage(0.9, 0)  # where 0.6 was expected
    assert state.kv_room_tokens == pytest.approx(66_667, rel=0.01)
    assert state.index.capacity == pytest.approx(index_blocks(66_667, 64.0, INDEX_SHARE), rel=0.02)
    assert not Gate().admits(make_view([state]), 0, next_one), f"{KV_SHARE} of what fits"
    state.restarted()
    assert state.kv_room_tokens == 100_000
    assert state.index.capacity == index_blocks(100_000, 64.0, INDEX_SHARE)


@pytest.mark.parametrize(("waiting", "factor"), [(0, 1.0), (3, 0.7), (None, 0.7)])
def test_prefills_count_half_and_nothing_where_some_wait_inside_the_engine(
    waiting: float | None, factor: float
) -> None:
    state = make_state(kv_capacity_tokens=100_000)
    state.reserve(make_request(prompt_tokens=49_000, max_output_tokens=0, blocks=()), 0, 0.0, 0.0).first_token(0.0)
    state.reserve(make_request(prompt_tokens=40_000, max_output_tokens=0, blocks=()), 0, 0.0, 0.0)
    for _ in range(20):
        state.scraped_usage(0.7, waiting)
    assert state.kv_fill.factor == pytest.approx(factor)
