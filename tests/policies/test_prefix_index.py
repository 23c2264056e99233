"""The index never exceeds its bound, and bisection finds what a walk would, as parents outlive their children."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies.prefix_index import PrefixIndex
from tests.policies.builders import chain_of

# A chain is a path in a tree: two prompts share blocks as far as their paths agree.
PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
STEPS = st.lists(st.one_of(PATHS, st.integers(0, 12)), max_size=40)


class Model:
    """The plainest least-recently-used set: a list, oldest first."""

    def __init__(self) -> None:
        self.blocks: list[int] = []

    def touch(self, blocks: Sequence[int], capacity: int) -> None:
        for block in reversed(blocks):
            if block in self.blocks:
                self.blocks.remove(block)
            self.blocks.append(block)
        self.trim(capacity)

    def trim(self, capacity: int) -> None:
        self.blocks = self.blocks[max(0, len(self.blocks) - capacity) :]

    def match(self, blocks: Sequence[int]) -> int:
        for count, block in enumerate(blocks):
            if block not in self.blocks:
                return count
        return len(blocks)


@given(STEPS, st.integers(0, 12), PATHS)
def test_the_index_answers_like_a_plain_least_recently_used_list(
    steps: list[list[int] | int], capacity: int, asked: list[int]
) -> None:
    index, model = PrefixIndex(capacity), Model()
    for step in steps:
        if isinstance(step, int):
            capacity = step
            index.resize(capacity)
            model.trim(capacity)
        else:
            index.touch(chain_of(step))
            model.touch(chain_of(step), capacity)
            assert index.match(chain_of(step)) == model.match(chain_of(step))
        assert len(index) == len(model.blocks) <= capacity
        assert index.match(chain_of(asked)) == model.match(chain_of(asked))


@given(STEPS, st.integers(1, 12))
def test_a_present_block_has_its_parent_present_and_newer(steps: list[list[int] | int], capacity: int) -> None:
    model = Model()
    paths = [step for step in steps if isinstance(step, list)]
    for path in paths:
        model.touch(chain_of(path), capacity)
        for other in paths:
            chain = chain_of(other)
            for parent, child in pairwise(chain):
                if child in model.blocks:
                    assert model.blocks.index(parent) > model.blocks.index(child)


@given(PATHS, st.integers(0, 12))
def test_a_chain_longer_than_the_capacity_keeps_its_head(path: list[int], capacity: int) -> None:
    index = PrefixIndex(capacity)
    index.touch(chain_of(path))
    assert index.match(chain_of(path)) == len(index) == min(len(path), capacity)


def test_an_empty_index_and_an_empty_chain_match_nothing() -> None:
    index = PrefixIndex(4)
    assert index.match((1, 2)) == 0
    index.touch((1, 2))
    assert index.match(()) == 0


def test_touching_again_saves_a_chain_from_eviction() -> None:
    index = PrefixIndex(4)
    index.touch((1, 2))
    index.touch((3, 4))
    index.touch((1, 2))
    index.touch((5, 6))
    assert index.match((1, 2)) == 2
    assert index.match((3, 4)) == 0


def test_clear_forgets_everything_and_keeps_the_capacity() -> None:
    index = PrefixIndex(4)
    index.touch((1, 2))
    index.clear()
    assert (len(index), index.match((1, 2)), index.capacity) == (0, 0, 4)


def test_a_smaller_capacity_evicts_the_oldest_at_once() -> None:
    index = PrefixIndex(4)
    index.touch((1, 2))
    index.touch((3, 4))
    index.resize(3)
    assert index.match((3, 4)) == 2
    assert index.match((1, 2)) == 1
