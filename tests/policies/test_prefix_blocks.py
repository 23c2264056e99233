"""Chained blocks stand for the prompt up to their end, however it was cut, and for one tenant only."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from policies.prefix_blocks import chain, root

PROMPTS = st.binary(max_size=300)


@given(PROMPTS, st.lists(st.integers(0, 300), max_size=6), st.integers(1, 40))
def test_how_a_prompt_is_cut_into_segments_does_not_matter(prompt: bytes, cuts: list[int], block_bytes: int) -> None:
    edges = [0, *sorted(cuts), len(prompt)]
    segments = [prompt[start:end] for start, end in pairwise(edges)]
    assert chain(7, segments, block_bytes) == chain(7, [prompt], block_bytes)


@given(st.binary(max_size=100), PROMPTS, PROMPTS, st.integers(1, 16))
def test_prompts_share_blocks_exactly_as_far_as_they_share_whole_blocks_of_bytes(
    shared: bytes, left: bytes, right: bytes, block_bytes: int
) -> None:
    one, two = chain(1, [shared, left], block_bytes), chain(1, [shared, right], block_bytes)
    first, second = shared + left, shared + right
    for number, (a, b) in enumerate(zip(one, two, strict=False), start=1):
        same_bytes = first[: number * block_bytes] == second[: number * block_bytes]
        assert (a == b) == same_bytes


@given(PROMPTS, st.integers(1, 40), st.integers(0, 20))
def test_there_is_one_hash_per_whole_block_up_to_the_limit(prompt: bytes, block_bytes: int, limit: int) -> None:
    assert len(chain(1, [prompt], block_bytes, limit)) == min(len(prompt) // block_bytes, limit)


@given(st.lists(st.binary(max_size=50), max_size=12), st.integers(1, 10))
def test_a_limit_cuts_the_chain_and_changes_none_of_it(segments: list[bytes], limit: int) -> None:
    assert chain(1, segments, 16, limit) == chain(1, segments, 16)[:limit]


def test_the_same_text_at_another_place_has_another_hash() -> None:
    first, second = chain(1, [b"x" * 512])
    assert first != second


def test_a_block_is_seeded_with_its_parent() -> None:
    first, second = b"y" * 256, b"z" * 256
    parent, child = chain(5, [first, second])
    assert child == xxh3_64_intdigest(second, parent)


def test_chains_of_other_block_sizes_share_no_hash() -> None:
    text = [b"x" * 4096]
    chains = [set(chain(5, text, size)) for size in (64, 128, 256, 512)]
    assert len(set.union(*chains)) == sum(map(len, chains)) == 64 + 32 + 16 + 8


def test_tenants_and_models_share_no_hash() -> None:
    text = [b"z" * 1024]
    chains = [chain(root(salt, model), text) for salt in ("aa", "bb") for model in ("m", "n")]
    assert len({block for one in chains for block in one}) == 16


def test_the_root_does_not_confuse_salt_and_model() -> None:
    assert root("ab", "c") != root("a", "bc")


def test_an_empty_prompt_has_no_block() -> None:
    assert chain(1, []) == ()
    assert chain(1, [b"", b"short"]) == ()
