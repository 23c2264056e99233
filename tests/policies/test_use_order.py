"""The order of use is that of a plain list, whatever is used, passed over, dropped or swept; and notes stay bounded."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import use_order
from policies.use_order import Run, UseOrder
from tests.policies.builders import chain_of

PATHS = st.lists(st.integers(0, 2), max_size=10)
USE = st.tuples(st.just("use"), PATHS)
OVER = st.tuples(st.just("over"), st.integers(0, 30))
DROP = st.tuples(st.just("drop"), PATHS)
SHRINK = st.tuples(st.just("shrink"), st.integers(0, 12), PATHS)
CLEAR = st.tuples(st.just("clear"))
STEPS = st.lists(st.one_of(USE, USE, USE, OVER, DROP, SHRINK, CLEAR), max_size=60)


class Model:
    """A list, oldest first."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def use(self, blocks: Sequence[int]) -> None:
        self.blocks = [block for block in self.blocks if block not in blocks] + list(reversed(blocks))

    def shrink(self, most: int, spared: Sequence[int]) -> list[int]:
        gone = []
        while len(self.blocks) > most:
            block = self.blocks.pop(0)
            (self.blocks if block in spared else gone).append(block)
        return gone


@pytest.mark.interpreted("constants of a module are compiled in")
@pytest.mark.parametrize("noted", [2, 4096])
@given(STEPS)
def test_it_is_the_order_of_a_plain_list(noted: int, steps: list[tuple[str, ...]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(use_order, "_NOTED", noted)
        play(steps)


def play(steps: Sequence[tuple[str, ...]]) -> None:
    order, model, runs = UseOrder(), Model(), list[Run]()
    for number, (what, *rest) in enumerate(steps):
        if what == "use":
            runs.append(order.use(chain_of(rest[0]), number))
            model.use(chain_of(rest[0]))
        elif what == "over" and runs:  # only of what was used again
            run = runs[int(rest[0]) % len(runs)]
            blocks = [block for block in run.blocks[: run.left] if order.last.get(block) == run.number]
            order.use(blocks, number)
            order.over(run)
            model.use(blocks)
        elif what == "drop":
            for block in chain_of(rest[0])[-1:]:
                assert order.drop(block) == (block in model.blocks)
                model.blocks = [one for one in model.blocks if one != block]
        elif what == "shrink":
            spared = [block for block in chain_of(rest[1]) if block in model.blocks]
            most = max(int(rest[0]), len(spared))
            pieces = order.shrink(most, spared)
            assert [block for piece in pieces for block in piece] == model.shrink(most, spared)
            assert all(pieces)
        elif what == "clear":
            order.clear()
            model.blocks = []
        assert order.oldest() == model.blocks
        assert len(order.last) == len(model.blocks)


def test_a_chain_that_is_used_for_ever_is_noted_no_more_often_than_it_is_worth() -> None:
    order = UseOrder()
    chain = chain_of([0] * 50)
    for number in range(10_000):
        order.use(chain, number)
    assert noted(order) <= 1.5 * (3 * 50 + 4096)


def test_runs_that_are_over_are_swept_too() -> None:
    order = UseOrder()
    order.use((1,), 0)
    for number in range(1, 100_000):
        order.over(order.use((2,), number))
        order.drop(2)
    assert noted(order) <= 1.5 * (3 + 4096)
    assert order.oldest() == [1]


def test_of_many_chains_in_turns_no_more_is_noted_either_and_no_use_sweeps_much() -> None:
    order, most = UseOrder(), 0
    chains = [chain_of([which, *[0] * 40]) for which in range(300)]
    for number in range(6000):
        before = noted(order)
        order.use(chains[number * 7 % 300], number)
        most = max(most, before - noted(order))
    blocks = len(order.last)
    assert noted(order) <= 1.5 * (3 * blocks + 4096)
    assert 0 < most <= 4 * 42 + 42, "what one use may sweep out, and the last run that it looks at"
    assert order.oldest()[-1] == chains[5999 * 7 % 300][0]


def noted(order: UseOrder) -> int:
    """Blocks and runs, counted."""
    found = sum(run.left + 1 for run in (*order._swept, *order._runs))
    assert found == order._noted
    return found


def test_two_blocks_of_one_chain_that_collide_count_once() -> None:
    order = UseOrder()
    order.use((1, 2, 1, 3), 0)
    assert len(order.last) == len(order.oldest()) == 3
    assert sorted(block for piece in order.shrink(0, ()) for block in piece) == [1, 2, 3]
