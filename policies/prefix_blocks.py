"""A canonical prompt as a chain of block hashes, so that a shared beginning can be recognised without its text.

Floor: `policies`, pure. A block's hash is seeded with its parent's, so equal hashes mean equal prompts up to and
including that block; the root carries the tenant's secret salt, so tenants share no hash and none can be guessed.
The hash is xxh3 (fast, not cryptographic): a collision costs a wrong guess at a cache, never a wrong answer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from xxhash import xxh3_64_intdigest

BLOCK_BYTES = 256  # 64 tokens of 4 bytes, in text and in packed token ids; finer than engines' reuse is worth
MAX_BLOCKS = 4096  # a quarter of a million tokens; what lies beyond shares its fate with what lies before

# Below this, hashing all blocks anew (0.2 us each) costs no more than looking for a known beginning.
MEMO_MIN_BYTES = 4096
# A hash as a Python integer and its place in one tuple. Longer tuples share the integers of shorter ones, which is
# counted twice: the bound is kept with room to spare.
_HASH_BYTES = 36 + 8
_ENTRY_BYTES = 200  # tuple, key and place in the ordered dictionary


def root(salt: str, model: str) -> int:
    """The seed of every chain of one tenant (by its salt) and one engine model. An engine's LoRA adapters are models
    of their own names, and their caches are as separate."""
    return xxh3_64_intdigest(model.encode(), xxh3_64_intdigest(salt.encode()))


def chain(
    root: int, segments: Sequence[bytes], block_bytes: int = BLOCK_BYTES, limit: int = MAX_BLOCKS
) -> tuple[int, ...]:
    """The chained hashes of the whole blocks of the segments' concatenation, at most `limit`.

    How the prompt is cut into segments does not matter. A last piece shorter than a block has no hash: it will grow.
    """
    return _extend((), _seed(root, block_bytes), b"".join(_head(segments, block_bytes * limit)), block_bytes, limit)


class ChainMemo:
    """`chain`, for prompts that mostly begin like earlier ones: only the blocks after the known beginning are hashed.

    Each segment is hashed once, seeded with the hash of those before it; the deepest of these that is remembered gives
    the chain so far. So a conversation's next turn costs one fast pass over its text (10 GB/s) and the blocks of what
    is new. What is remembered per prompt: its whole chain and, so that prompts that differ later still share their
    beginning, the chain up to those segments at which the size doubles: at most 3 whole chains in all.

    A collision of two segments' 64-bit hashes would give the one's chain to the other: a wrong guess at a cache, never
    a wrong answer. The running hash starts from the chain's root, so no tenant meets another's.

    `lock` guards the memo where several threads use it; hashing is done outside of it. The least recently used go
    first, at `capacity` entries or `capacity_bytes`.
    """

    __slots__ = ("_bytes", "_capacity", "_capacity_bytes", "_chains", "_lock")

    def __init__(
        self,
        lock: AbstractContextManager[object] | None = None,
        capacity: int = 65536,
        capacity_bytes: int = 64 * 1024 * 1024,  # some 1,500 conversations of 128 kB, or 50,000 short ones
    ) -> None:
        self._lock = lock if lock is not None else nullcontext()
        self._capacity = capacity
        self._capacity_bytes = capacity_bytes
        self._chains: OrderedDict[int, tuple[int, ...]] = OrderedDict()
        self._bytes = 0

    def chain(
        self, root: int, segments: Sequence[bytes], block_bytes: int = BLOCK_BYTES, limit: int = MAX_BLOCKS
    ) -> tuple[int, ...]:
        """Equals `chain` of the same arguments."""
        segments = _head(segments, block_bytes * limit)
        if sum(map(len, segments)) < MEMO_MIN_BYTES:
            return chain(root, segments, block_bytes, limit)
        seed = key = _seed(root, block_bytes)
        keys = [key := xxh3_64_intdigest(segment, key) for segment in segments]
        depth, known = self._deepest(keys)
        if depth == len(keys):
            return known
        before = sum(map(len, segments[:depth]))
        tail = _last(segments[:depth], before - len(known) * block_bytes)
        found = _extend(known, known[-1] if known else seed, b"".join([tail, *segments[depth:]]), block_bytes, limit)
        self._remember(keys, segments, depth, before, found, block_bytes)
        return found

    def __len__(self) -> int:
        return len(self._chains)

    @property
    def size_bytes(self) -> int:
        """What the entries are counted as, never above the capacity."""
        return self._bytes

    def _deepest(self, keys: Sequence[int]) -> tuple[int, tuple[int, ...]]:
        """How many leading segments have a remembered chain, and that chain: all whole blocks of theirs."""
        chains = self._chains
        with self._lock:
            for depth in range(len(keys), 0, -1):
                known = chains.get(keys[depth - 1])
                if known is not None:
                    chains.move_to_end(keys[depth - 1])
                    return depth, known
        return 0, ()

    def _remember(
        self, keys: Sequence[int], segments: Sequence[bytes], depth: int, size: int, found: tuple[int, ...], block: int
    ) -> None:
        """`size`: bytes of the first `depth` segments, which were known."""
        fresh = []
        for position in range(depth, len(keys)):
            before, size = size, size + len(segments[position])
            doubled = size >= MEMO_MIN_BYTES and size.bit_length() > before.bit_length()
            if doubled or position == len(keys) - 1:
                fresh.append((keys[position], found[: size // block]))
        with self._lock:
            for key, hashes in fresh:
                self._put(key, hashes)

    def _put(self, key: int, hashes: tuple[int, ...]) -> None:
        old = self._chains.pop(key, None)  # another thread may have been here since
        self._bytes += _cost(hashes) - (_cost(old) if old is not None else 0)
        self._chains[key] = hashes
        while self._chains and (len(self._chains) > self._capacity or self._bytes > self._capacity_bytes):
            self._bytes -= _cost(self._chains.popitem(last=False)[1])


def _cost(hashes: tuple[int, ...]) -> int:
    return _ENTRY_BYTES + _HASH_BYTES * len(hashes)


def _seed(root: int, block_bytes: int) -> int:
    """The first block's parent: chains of blocks of another size are other chains."""
    return xxh3_64_intdigest(block_bytes.to_bytes(4, "little"), root)


def _extend(known: tuple[int, ...], parent: int, data: bytes, block_bytes: int, limit: int) -> tuple[int, ...]:
    """`known` and the hashes of the whole blocks of `data`, which follows it."""
    wanted = min(len(data) // block_bytes, limit - len(known))
    hashes = []
    for start in range(0, wanted * block_bytes, block_bytes):
        parent = xxh3_64_intdigest(data[start : start + block_bytes], parent)
        hashes.append(parent)
    return known + tuple(hashes)


def _head(segments: Sequence[bytes], wanted: int) -> Sequence[bytes]:
    """The first segments that hold `wanted` bytes, and no more of the last one: a huge prompt is not worked on whole.

    Cut where it is, a segment's hash says nothing of what was cut off, and the chain up to the limit neither.
    """
    size = 0
    for count, segment in enumerate(segments):
        size += len(segment)
        if size >= wanted:
            return [*segments[:count], segment[: len(segment) - (size - wanted)]]
    return segments


def _last(segments: Sequence[bytes], wanted: int) -> bytes:
    """The last `wanted` bytes of the segments together."""
    pieces: list[bytes] = []
    for segment in reversed(segments):
        if wanted <= 0:
            break
        pieces.append(segment[-wanted:])
        wanted -= len(segment)
    return b"".join(reversed(pieces))
