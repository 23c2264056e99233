"""A memo of chains gives what hashing anew gives, for less, within its bounds, and from several threads."""

from __future__ import annotations

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies import prefix_blocks
from policies.prefix_blocks import MEMO_MIN_BYTES, ChainMemo, chain, root

# From a few pieces many prompts that share beginnings: of lengths around a block, around the least that is remembered,
# empty, and equal to each other.
PIECES = [bytes([number]) * size for number, size in enumerate((0, 1, 63, 64, 65, 700, 4095, 4096, 9000))]
PROMPTS = st.lists(st.sampled_from(PIECES), max_size=7)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(1, 3), PROMPTS, st.sampled_from([64, 96, 256]), st.sampled_from([0, 3, 70, 4096]))),
    st.integers(0, 5),
    st.integers(0, 40_000),
)
def test_a_remembered_chain_equals_one_that_is_hashed_anew(
    asked: list[tuple[int, list[bytes], int, int]], capacity: int, capacity_bytes: int
) -> None:
    memo = ChainMemo(capacity=capacity, capacity_bytes=capacity_bytes)
    for seed, segments, block_bytes, limit in asked:
        assert memo.chain(seed, segments, block_bytes, limit) == chain(seed, segments, block_bytes, limit)
        assert len(memo) <= capacity
        assert 0 <= memo.size_bytes <= capacity_bytes
        assert (memo.size_bytes == 0) == (len(memo) == 0)


@given(st.lists(st.sampled_from(PIECES), min_size=1, max_size=12), st.sampled_from([64, 256]))
def test_a_growing_conversation_equals_its_chain_after_every_turn(turns: list[bytes], block_bytes: int) -> None:
    memo = ChainMemo()
    for length in range(1, len(turns) + 1):
        assert memo.chain(7, turns[:length], block_bytes) == chain(7, turns[:length], block_bytes)


class Hashed:
    """Counts what is hashed a block at a time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
        self.blocks = 0
        original = prefix_blocks.xxh3_64_intdigest

        def counted(data: bytes, seed: int = 0) -> int:
            self.blocks += len(data) == block_bytes
            return original(data, seed)

        monkeypatch.setattr(prefix_blocks, "xxh3_64_intdigest", counted)

    def taken(self) -> int:
        taken, self.blocks = self.blocks, 0
        return taken


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Hashed:
    return Hashed(monkeypatch, 256)


def turns(count: int, size: int = 3333) -> list[bytes]:
    return [bytes([number]) * size for number in range(count)]


def test_a_conversations_next_turn_costs_only_its_own_blocks(hashed: Hashed) -> None:
    memo = ChainMemo()
    conversation = turns(40)
    memo.chain(1, conversation[:38])
    hashed.taken()
    grown = memo.chain(1, conversation)
    assert hashed.taken() <= 2 * 3333 // 256 + 1
    assert memo.chain(1, conversation) == grown
    assert hashed.taken() == 0


def test_another_conversation_with_the_same_system_prompt_costs_what_follows_it(hashed: Hashed) -> None:
    memo = ChainMemo()
    system = b"s" * 60_000
    memo.chain(1, [system, *turns(3)])
    hashed.taken()
    memo.chain(1, [system, b"another question" * 20])
    assert hashed.taken() <= 2


def test_an_edited_last_turn_does_not_cost_the_whole_conversation(hashed: Hashed) -> None:
    memo = ChainMemo()
    conversation = turns(40)
    for length in range(2, 41, 2):
        memo.chain(1, conversation[:length])
    hashed.taken()
    memo.chain(1, [*conversation[:39], b"edited" * 100])
    assert hashed.taken() <= 2 * 3333 // 256 + 1


def test_another_tenant_another_model_and_another_block_size_find_nothing(hashed: Hashed) -> None:
    memo = ChainMemo()
    conversation = turns(5)
    chains = [memo.chain(root(salt, model), conversation) for salt in ("aa", "bb") for model in ("m", "n", "m-adapter")]
    assert len({block for one in chains for block in one}) == sum(map(len, chains))
    assert hashed.taken() == sum(map(len, chains))


def test_a_short_prompt_is_not_remembered() -> None:
    memo = ChainMemo()
    assert len(memo.chain(1, [b"x" * (MEMO_MIN_BYTES - 1)])) == (MEMO_MIN_BYTES - 1) // 256
    assert len(memo) == 0


def test_a_prompt_costs_few_entries_however_many_its_segments() -> None:
    memo = ChainMemo()
    memo.chain(1, [bytes([number % 251]) * 40 for number in range(5000)])
    assert len(memo) <= 8


def test_the_least_recently_used_chain_leaves_first(hashed: Hashed) -> None:
    memo = ChainMemo(capacity=2)
    one, two, three = ([bytes([number]) * 8192] for number in range(3))
    for prompt in (one, two, one, three):
        memo.chain(1, prompt)
    hashed.taken()
    memo.chain(1, one)
    assert hashed.taken() == 0
    memo.chain(1, two)
    assert hashed.taken() == 32


def test_threads_that_share_a_memo_all_get_the_right_chains() -> None:
    # So small that every thread keeps pushing the others' entries out.
    memo = ChainMemo(threading.Lock(), capacity=12, capacity_bytes=20_000)
    conversation = turns(30, 1500)

    def grow(seed: int) -> bool:
        order = random.Random(seed)
        lengths = [order.randrange(1, 31) for _ in range(150)]
        return all(memo.chain(seed % 3, conversation[:n]) == chain(seed % 3, conversation[:n]) for n in lengths)

    with ThreadPoolExecutor(6) as threads:
        assert all(threads.map(grow, range(12)))
    assert len(memo) <= 12
    assert memo.size_bytes <= 20_000
