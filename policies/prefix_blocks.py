"""A canonical prompt as a chain of block hashes, so that a shared beginning can be recognised without its text.

Floor: `policies`, pure. A block's hash is seeded with its parent's, so equal hashes mean equal prompts up to and
including that block; the root carries the tenant's secret salt, so tenants share no hash and none can be guessed.
The hash is xxh3 (fast, not cryptographic): a collision costs a wrong guess at a cache, never a wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from xxhash import xxh3_64_intdigest

BLOCK_BYTES = 256  # about 64 tokens: finer than engines' reuse is worth, coarse enough for 0.1 ms per 128 kB of prompt
MAX_BLOCKS = 4096  # 1 MiB of prompt; what lies beyond shares its fate with what lies before


def root(salt: str, model: str) -> int:
    """The seed of every chain of one tenant (by its salt) and one engine model."""
    return xxh3_64_intdigest(model.encode(), xxh3_64_intdigest(salt.encode()))


def chain(
    root: int, segments: Sequence[bytes], block_bytes: int = BLOCK_BYTES, limit: int = MAX_BLOCKS
) -> tuple[int, ...]:
    """The chained hashes of the whole blocks of the segments' concatenation, at most `limit`.

    How the prompt is cut into segments does not matter. A last piece shorter than a block has no hash: it will grow.
    """
    prompt = _head(segments, block_bytes * limit)
    whole = len(prompt) // block_bytes
    hashes: list[int] = []
    parent = root
    for start in range(0, min(whole, limit) * block_bytes, block_bytes):
        parent = xxh3_64_intdigest(prompt[start : start + block_bytes], parent)
        hashes.append(parent)
    return tuple(hashes)


def _head(segments: Sequence[bytes], wanted: int) -> bytes:
    """The segments joined, but none after the first `wanted` bytes are there: a huge prompt is not copied whole."""
    size = 0
    for count, segment in enumerate(segments, start=1):
        size += len(segment)
        if size >= wanted:
            return b"".join(segments[:count])
    return b"".join(segments)
