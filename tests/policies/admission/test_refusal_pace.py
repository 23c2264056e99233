"""A tenant that is refused often hears of it at a bounded rate, and holds a bounded lot meanwhile."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.refusal_pace import (
    BURST,
    HELD_BYTES,
    HELD_REQUESTS,
    LONGEST_SECONDS,
    PER_SECOND,
    RefusalPace,
)


def test_few_refusals_are_told_at_once() -> None:
    pace = RefusalPace()
    assert [pace.delay(7.0, 100) for _ in range(BURST)] == [0.0] * BURST
    assert [pace.delay(7.0 + number / PER_SECOND, 100) for number in range(1, 200)] == [0.0] * 199


def test_more_wait_for_their_turn_and_none_longer_than_the_bound() -> None:
    pace = RefusalPace()
    delays = [pace.delay(7.0, 100) for _ in range(BURST + 200)]
    assert delays[BURST : BURST + 3] == pytest.approx([1 / PER_SECOND * number for number in (1, 2, 3)])
    assert delays == sorted(delays)
    assert delays[-1] == LONGEST_SECONDS
    assert pace.delay(7.0 + 2 * LONGEST_SECONDS + BURST / PER_SECOND, 100) == 0.0, "a pause, and all is forgotten"


@given(st.integers(1, 40), st.floats(0.0, 0.2))
def test_clients_that_ask_again_at_once_get_no_more_than_the_rate(clients: int, think: float) -> None:
    """As many as the rate times the longest pause can be slowed to it."""
    pace, seconds = RefusalPace(), 20.0
    due = [0.0] * clients
    told = 0
    while (now := min(due)) < seconds:
        delay = pace.delay(now, 100)
        due[due.index(now)] = now + max(delay + think, 1e-3)
        told += now + delay < seconds
    assert told <= BURST + PER_SECOND * seconds + 1


@pytest.mark.parametrize(("size", "most"), [(10, HELD_REQUESTS), (HELD_BYTES // 4, 4)])
def test_no_more_is_held_than_the_bound(size: int, most: int) -> None:
    pace = RefusalPace()
    for _ in range(BURST + 10):
        pace.delay(7.0, 100)
    with ExitStack() as held:
        for _ in range(most):
            assert pace.delay(7.0, size) > 0.0
            held.enter_context(pace.holding(size))
        assert pace.delay(7.0, size) == 0.0
    assert pace.delay(7.0, size) > 0.0
