"""A block stands for about 64 tokens, never for many more, and its size changes rarely."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.block_size import BLOCK_TOKENS, LADDER, MARGIN, PATIENCE, BlockSize, fitting
from policies.tokens import MAX_BYTES_PER_TOKEN, MIN_BYTES_PER_TOKEN, TokenEstimator

RATIOS = st.floats(MIN_BYTES_PER_TOKEN, MAX_BYTES_PER_TOKEN)


def settled(ratio: float, size: BlockSize | None = None) -> BlockSize:
    size = size or BlockSize()
    for _ in range(PATIENCE):
        size.follow(ratio)
    return size


@given(RATIOS)
def test_a_fitting_block_stands_for_64_tokens_or_somewhat_fewer(ratio: float) -> None:
    tokens = fitting(ratio) / ratio
    assert BLOCK_TOKENS / 1.5 - 1e-9 <= tokens <= BLOCK_TOKENS + 1e-9


@given(RATIOS, RATIOS)
def test_whatever_it_was_a_settled_size_is_at_most_a_tenth_too_large(before: float, ratio: float) -> None:
    size = settled(ratio, settled(before))
    assert size.now in LADDER
    assert size.now / ratio <= BLOCK_TOKENS * (1 + MARGIN) + 1e-9
    assert size.now / ratio >= BLOCK_TOKENS / 1.5 * (1 - MARGIN) - 1e-9


@given(RATIOS, RATIOS)
def test_a_settled_size_stays_as_long_as_the_text_does(before: float, ratio: float) -> None:
    size = settled(ratio, settled(before))
    now = size.now
    assert settled(ratio, size).now == now


@given(st.lists(st.floats(3.7, 4.4), max_size=300))
def test_text_as_usual_keeps_the_usual_size(ratios: list[float]) -> None:
    size = BlockSize()
    for ratio in ratios:
        size.follow(ratio)
    assert size.now == 256


def test_a_change_needs_many_reports_in_a_row() -> None:
    size = BlockSize()
    for _ in range(20):
        for _ in range(PATIENCE - 1):
            size.follow(2.0)
        size.follow(4.0)
    assert size.now == 256
    assert settled(2.0, size).now == 128


def test_a_size_that_was_left_comes_back_only_for_text_that_is_clearly_other() -> None:
    size = settled(3.5)
    assert size.now == 192
    assert settled(4.2, size).now == 192
    assert settled(4.5, size).now == 256


@pytest.mark.parametrize(("ratio", "size"), [(1.0, 64), (1.6, 96), (2.2, 128), (3.1, 192), (4.0, 256), (12.0, 768)])
def test_an_estimator_starts_with_the_size_that_fits_what_it_is_told(ratio: float, size: int) -> None:
    assert TokenEstimator(ratio).block_size.now == size


def test_an_estimator_follows_what_engines_report() -> None:
    estimator = TokenEstimator(4.0)
    for _ in range(PATIENCE + 20):
        estimator.observe(3000, 1500)
    assert estimator.block_size.now == 128


def test_mixed_prompts_change_the_size_next_to_never() -> None:
    estimator, noise, sizes = TokenEstimator(4.0), random.Random(5), []
    for _ in range(20_000):
        estimator.observe(round(1000 * noise.choice([3.2, 3.8, 4.2, 4.8])), 1000)
        sizes.append(estimator.block_size.now)
    assert sum(a != b for a, b in pairwise(sizes)) <= 1
