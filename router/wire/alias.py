"""The alias in an answer: the engine's name for a model becomes the name that the client asked for.

Floor: sans-IO. Only the unescaped pair `"model":"engine-name"` changes (in a JSON string its quotes would be escaped),
in whatever chunks the answer comes: a chunk that ends inside the pair is held back by just those bytes.
"""

from __future__ import annotations

import msgspec


class AliasRewriter:
    """Rewrites one answer. Feed every chunk in order, then `flush`."""

    __slots__ = ("_alphabet", "_held", "_longest", "_pairs")

    def __init__(self, engine_model: str, alias: str) -> None:
        old, new = msgspec.json.encode(engine_model), msgspec.json.encode(alias)
        self._pairs = tuple((b'"model":' + gap + old, b'"model":' + gap + new) for gap in (b"", b" "))
        self._longest = max(len(old) for old, _ in self._pairs)
        self._alphabet = frozenset(self._pairs[1][0])
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """The chunk as the client gets it; may be empty when it ends inside the pair."""
        if self._held:
            chunk, self._held = self._held + chunk, b""
        for old, new in self._pairs:
            if old in chunk:
                chunk = chunk.replace(old, new)
        keep = self._partial(chunk)
        if keep:
            chunk, self._held = chunk[:-keep], chunk[-keep:]
        return chunk

    def flush(self) -> bytes:
        """What was held back when the answer ended."""
        held, self._held = self._held, b""
        return held

    def _partial(self, chunk: bytes) -> int:
        """How many bytes at the end of `chunk` may be the beginning of a pair."""
        if not chunk or chunk[-1] not in self._alphabet:  # nearly always: events and bodies end in "}" or a newline
            return 0
        lengths = range(min(self._longest - 1, len(chunk)), 0, -1)
        return next((n for n in lengths if any(old.startswith(chunk[-n:]) for old, _ in self._pairs)), 0)


def rename_in_error(body: bytes, engine_model: str, alias: str) -> bytes:
    """An engine's error body with the engine's name for the model replaced where it is quoted in the message."""
    return body.replace(f"`{engine_model}`".encode(), f"`{alias}`".encode())
