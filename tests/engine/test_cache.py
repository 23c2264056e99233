"""The block cache: its properties under any order of use, and the few facts about hashes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.engine.cache import BlockHasher, BlockTable, KVCache

PROMPTS = st.lists(st.integers(0, 3), min_size=1, max_size=6)
ACTIONS = st.lists(st.tuples(st.sampled_from(["start", "end"]), PROMPTS, st.integers(0, 5)), max_size=60)


def chained(prompt: list[int]) -> list[int]:
    """One hash per prefix, so that equal hashes mean equal prefixes."""
    return [hash(tuple(prompt[: end + 1])) for end in range(len(prompt))]


@settings(max_examples=150, deadline=None)
@given(ACTIONS, st.integers(1, 12))
def test_references_and_capacity_hold_under_any_order_of_use(
    actions: list[tuple[str, list[int], int]], size: int
) -> None:
    cache, tables = KVCache(size), list[BlockTable]()
    for action, prompt, pick in actions:
        if action == "end" and tables:
            cache.release(tables.pop(pick % len(tables)))
        elif action == "start":
            start(cache, tables, prompt)
        cache.check(tables)


def start(cache: KVCache, tables: list[BlockTable], prompt: list[int]) -> None:
    hashes = chained(prompt)
    hits = cache.match(hashes, len(hashes))
    assert 0 <= hits <= len(hashes)
    table = cache.acquire(hashes[:hits])
    if not cache.grow(table, len(hashes)):
        cache.release(table)
        return
    for index in range(hits, len(hashes)):
        cache.commit(table, index, hashes[index])
    tables.append(table)


@given(PROMPTS)
def test_what_was_committed_is_hit_again_until_it_is_evicted(prompt: list[int]) -> None:
    cache, tables = KVCache(6), list[BlockTable]()
    start(cache, tables, prompt)
    cache.release(tables.pop())
    assert cache.match(chained(prompt), 6) == len(prompt)


def test_a_block_that_is_held_is_never_evicted() -> None:
    cache, tables = KVCache(3), list[BlockTable]()
    start(cache, tables, [1, 1])
    other = cache.acquire([])
    assert not cache.grow(other, 2)
    assert cache.grow(other, 1)
    assert cache.match(chained([1, 1]), 2) == 2
    cache.check([*tables, other])


def test_the_least_recently_used_prefix_goes_first_and_its_tail_before_its_head() -> None:
    cache, tables = KVCache(4), list[BlockTable]()
    for prompt in ([1, 1], [2, 2]):
        start(cache, tables, prompt)
        cache.release(tables.pop())
    start(cache, tables, [3])
    assert cache.match(chained([1, 1]), 2) == 1
    assert cache.match(chained([2, 2]), 2) == 2
    assert cache.evicted_total == 1


def test_using_a_prefix_again_makes_it_the_newest() -> None:
    cache, tables = KVCache(2), list[BlockTable]()
    for prompt in ([1], [2], [1]):
        start(cache, tables, prompt)
        cache.release(tables.pop())
    start(cache, tables, [3])
    assert (cache.match(chained([1]), 1), cache.match(chained([2]), 1)) == (1, 0)


def test_a_reset_is_refused_while_blocks_are_held() -> None:
    cache, tables = KVCache(2), list[BlockTable]()
    start(cache, tables, [1])
    assert not cache.reset()
    cache.release(tables.pop())
    assert cache.reset()
    assert cache.cached == 0


def test_a_cache_without_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        KVCache(0)


@given(st.lists(st.integers(0, 2**31 - 1), max_size=70), st.integers(1, 9), st.data())
def test_hashes_do_not_depend_on_how_tokens_arrive(ids: list[int], size: int, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(ids)))
    whole, parts = BlockHasher(size), BlockHasher(size)
    assert whole.extend(ids) == parts.extend(ids[:cut]) + parts.extend(ids[cut:])
    assert len(BlockHasher(size).extend(ids)) == len(ids) // size


def test_another_salt_changes_every_hash() -> None:
    ids = list(range(64))
    assert not set(BlockHasher(16, "a").extend(ids)) & set(BlockHasher(16, "b").extend(ids))


def test_a_token_changes_all_hashes_from_its_block_on() -> None:
    one, other = (BlockHasher(4).extend([1, 2, 3, 4, token, 6, 7, 8, 9, 9, 9, 9]) for token in (5, 50))
    assert one[0] == other[0]
    assert one[1] != other[1]
    assert one[2] != other[2]
