"""However stored and removed blocks arrive, a block counts exactly when all before it are there."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from policies.kv_tree import BlockRemoved, BlockStored, KvTree

# A path in a tree names a block: its prefixes are the blocks before it.
PATHS = st.text("ab", min_size=1, max_size=6)
STORED = st.tuples(st.just("stored"), PATHS, st.integers(1, 6))
REMOVED = st.tuples(st.just("removed"), PATHS, st.just(0))


def number(path: str) -> int:
    return int(path.replace("a", "1").replace("b", "2"))


@given(st.lists(st.one_of(STORED, REMOVED), max_size=60))
def test_a_block_is_rooted_exactly_when_all_before_it_have_a_copy(steps: list[tuple[str, str, int]]) -> None:
    tree, copies = KvTree(), Counter[str]()
    for kind, path, count in steps:
        if kind == "stored":
            new = [path[:length] for length in range(max(1, len(path) - count + 1), len(path) + 1)]
            copies.update(new)
            parent = new[0][:-1]
            tree.store(BlockStored(tuple(map(number, new)), number(parent) if parent else None, 16))
        else:
            copies[path] -= copies[path] > 0
            tree.remove(BlockRemoved((number(path),)))
        assert len(tree) == sum(count > 0 for count in copies.values())
        for path in copies:
            there = all(copies[path[:length]] for length in range(1, len(path) + 1))
            assert tree.rooted(number(path)) == there
            assert tree.depth(number(path)) in ((len(path),) if there else (0, len(path)))


@given(st.lists(st.tuples(PATHS, st.booleans()), max_size=60), st.integers(1, 5))
def test_no_more_copies_are_kept_than_the_engine_has_room_for(steps: list[tuple[str, bool]], limit: int) -> None:
    tree = KvTree()
    tree.limit = limit
    for path, stored in steps:
        if stored:
            tree.store(BlockStored((number(path),), number(path[:-1]) if path[1:] else None, 16))
        else:
            tree.remove(BlockRemoved((number(path),)))
        assert len(tree) <= limit


def test_a_block_seen_in_use_stands_for_all_before_it() -> None:
    tree = KvTree()
    tree.store(BlockStored((8, 9), 7, 16))
    assert not tree.rooted(9)
    tree.adopt(7, 3)
    assert (tree.rooted(9), tree.depth(9)) == (True, 5)
    tree.remove(BlockRemoved((7,)))
    assert (tree.rooted(7), tree.rooted(9)) == (False, False)


def test_blocks_of_another_size_are_parts_of_blocks_and_passed_over() -> None:
    tree = KvTree()
    assert tree.store(BlockStored((1,), None, 16))
    assert not tree.store(BlockStored((2,), 1, 4))
    assert len(tree) == 1
