"""The index never exceeds its bound, and bisection finds what a walk would, as parents outlive their children."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from policies.prefix_index import PrefixIndex

# A chain is a path in a tree: two prompts share blocks as far as their paths agree.
PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=8)
STEPS = st.lists(st.one_of(PATHS, st.integers(0, 12)), max_size=40)


def chain_of(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(hash((0, *path[:length])) for length in range(1, len(path) + 1))


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


class Holds:
    """An index and what the requests under way hold of it."""

    def __init__(self, capacity: int) -> None:
        self.index = PrefixIndex(capacity)
        self.live: list[tuple[Sequence[int], float]] = []

    def hold(self, path: Sequence[int], output_blocks: float) -> None:
        self.live.append((self.index.hold(chain_of(path), output_blocks), output_blocks))

    def let_go(self, which: int, computed: bool) -> None:
        if self.live:
            kept, output_blocks = self.live.pop(which % len(self.live))
            self.index.let_go(kept, output_blocks, computed=computed)


ACTS = st.lists(
    st.one_of(
        st.tuples(st.just("hold"), PATHS, st.sampled_from([0.0, 0.5, 2.5])),
        st.tuples(st.just("let go"), st.integers(0, 9), st.booleans()),
        st.tuples(st.just("touch"), PATHS, st.none()),
    ),
    max_size=60,
)


@given(ACTS, st.integers(0, 40), PATHS)
def test_in_any_schedule_the_bound_holds_and_what_fits_and_is_held_stays(
    acts: list[tuple[str, list[int] | int, float | bool | None]], capacity: int, asked: list[int]
) -> None:
    holds = Holds(capacity)
    for act, what, more in acts:
        if act == "hold":
            holds.hold(what, more)  # type: ignore[arg-type]
        elif act == "let go":
            holds.let_go(what, bool(more))  # type: ignore[arg-type]
        else:
            holds.index.touch(chain_of(what))  # type: ignore[arg-type]
        index = holds.index
        assert len(index) <= capacity
        held = {block for kept, _ in holds.live for block in kept}
        assert index.held == len(held)
        if len(held) <= capacity:
            present = [block for block in chain_of(asked) if index.match((block,))]
            assert index.match(chain_of(asked)) == len(present), "present blocks of a chain are a leading run"
            assert all(index.match(kept) == len(kept) for kept, _ in holds.live)
    while holds.live:
        holds.let_go(0, True)
    assert holds.index.held == 0
    assert len(holds.index) <= capacity


def test_blocks_of_a_request_under_way_outlive_newer_ones_that_nobody_holds() -> None:
    index = PrefixIndex(4)
    kept = index.hold((1, 2))
    index.touch((3, 4))
    index.touch((5, 6))
    assert (index.match((1, 2)), index.match((3, 4)), index.match((5, 6))) == (2, 0, 2)
    index.let_go(kept)
    index.touch((7, 8))
    assert (index.match((1, 2)), index.match((5, 6))) == (2, 0), "a request that ends makes its blocks the newest"


def test_a_request_that_ends_puts_back_what_was_evicted_as_too_much_was_held() -> None:
    index = PrefixIndex(2)
    first, second = index.hold((1, 2)), index.hold((3, 4))
    assert len(index) == 2
    index.let_go(second)
    index.let_go(first)
    assert (index.match((1, 2)), index.match((3, 4))) == (2, 0)


def test_a_request_that_was_never_computed_refreshes_nothing() -> None:
    index = PrefixIndex(4)
    kept = index.hold((1, 2))
    index.touch((3, 4))
    index.let_go(kept, computed=False)
    index.touch((5, 6))
    assert (index.match((1, 2)), index.match((3, 4))) == (0, 2)


def test_answers_under_way_take_room_and_give_it_back() -> None:
    index = PrefixIndex(6)
    index.touch((1, 2, 3))
    kept = index.hold((7,), output_blocks=3.5)
    assert len(index) == 3
    index.let_go(kept, output_blocks=3.5)
    index.touch((4, 5, 6))
    assert len(index) == 6


def test_what_was_cleared_is_not_put_back_by_requests_from_before() -> None:
    index = PrefixIndex(4)
    kept = index.hold((1, 2))
    index.clear()
    index.let_go(kept)
    assert (len(index), index.held) == (0, 0)
