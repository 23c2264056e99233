"""The canonical prompt: the parts of a body that an engine turns into tokens, in the order it does, as bytes.

Floor: sans-IO. Equal prompts give equal bytes however their JSON was spaced or escaped; a longer conversation begins
with the bytes of the shorter one, which is what makes its prefix blocks equal. Media stand as a digest of what was
sent, never as their data.

Which beginnings two prompts share is for the engine's chat template to say, and templates differ: some put the system
prompt before the tools, some after, and arguments such as `reasoning_effort` change words anywhere in it. So what all
templates put before the conversation stands or falls together: a prompt with tools or template arguments begins with a
digest of all of these and of its leading system messages. Two prompts that differ in any of them share nothing here, as
a prefix that is believed to be cached and is not costs more than one that is missed.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from typing import Final

import msgspec
import xxhash

from router.errors import BadRequest
from router.wire.values import LARGE_BYTES, MediaFound, canonical

# What a picture or sound counts for before the engine has told: the order of magnitude of a tiled image in current
# vision models. Only the lane and the load estimate hang on it, and calibration by the engine's usage corrects it.
MEDIA_TOKENS: Final = 512
# Its digest is repeated until it fills as many bytes as text of that many tokens would: blocks of a prompt then stand
# for the same number of tokens each, with pictures or without.
_DIGEST_REPEATS: Final = MEDIA_TOKENS * 4 // 16
_SHA256: Final = hashlib.sha256()
# Separators keep ("ab", "c") and ("a", "bc") apart.
TURN, PART = b"\x1e", b"\x1f"

Segments = tuple[bytes, ...]


class Prompt:
    """What `read_prompt` collects. `count` is the number of separate prompts, at least 1.

    Several prompts follow each other in one chain. A request with the same first ones shares theirs, a beginning that
    all have in common is found in the first, and every block that an engine comes to hold is accounted for; only the
    later prompts' own beginnings are missed.

    `texts` are the segments that a tokenizer would see, `text_bytes` their length; `extra_tokens` stands for the others
    (token ids, media). `ids`: of them, token ids.
    """

    __slots__ = (
        "_keep_tokens",
        "_lead",
        "_settings",
        "count",
        "extra_tokens",
        "ids",
        "segments",
        "text_bytes",
        "texts",
    )

    def __init__(self) -> None:
        self.segments: list[bytes] = []
        self.texts: list[bytes] = []
        self.text_bytes = 0
        self.extra_tokens = 0
        self.ids = 0
        self.count = 1
        self._settings: list[bytes] = []
        self._lead = 0
        self._keep_tokens = 0

    def add_text(self, text: bytes) -> None:
        if not text:
            return
        self.segments.append(text)
        self.texts.append(text)
        self.text_bytes += len(text)

    def add_opaque(self, raw: msgspec.Raw, end: bytes) -> None:
        """A value whose JSON stands for itself, however it was spaced and escaped; media inside it by reference."""
        found: MediaFound = []
        self.add_text(canonical(raw, found) + end)
        for digest in found:
            self.add_media(digest)

    def add_media(self, digest: bytes) -> None:
        """A picture, a sound or a file, by its 16 bytes."""
        self.extra_tokens += MEDIA_TOKENS
        self.segments.append(digest * _DIGEST_REPEATS)

    def add_token_ids(self, name: str, ids: list[int]) -> None:
        try:
            self.segments.append(struct.pack(f"<{len(ids)}I", *ids))
        except struct.error:
            raise BadRequest("Token ids must be integers from 0 to 4294967295.", param=name) from None
        self.extra_tokens += len(ids)
        self.ids += len(ids)

    def add_setting(self, name: str, value: bytes) -> None:
        """What is no text of the prompt's, but changes how an engine's template begins."""
        self._settings.append(name.encode() + PART + value + TURN)

    def keep_last(self, tokens: int) -> None:
        """The engine keeps only so many tokens, from the prompt's end."""
        self._keep_tokens = tokens

    @property
    def leading(self) -> bool:
        """Whether all so far stands before the conversation."""
        return self._lead == len(self.segments)

    def lead(self) -> None:
        """All so far stands before the conversation: tools, documents, instructions."""
        self._lead = len(self.segments)

    def bind(self) -> None:
        """What stands before the conversation is not simply the system prompt: see this file's head."""
        self.add_setting("", b"")

    def close(self) -> None:
        """All fields have been read."""
        if 0 < self._keep_tokens < self.text_bytes + self.extra_tokens:
            # It may have no more tokens than are kept, but if it has, every new turn moves its beginning.
            self._settings.append(b"")
            self._lead = len(self.segments)
        if self._settings:
            digest = xxhash.xxh3_128(b"".join(self._settings))
            for segment in self.segments[: self._lead]:
                digest.update(segment)
            self.segments.insert(0, digest.digest())


def is_large_text(raw: msgspec.Raw) -> bool:
    return len(raw) > LARGE_BYTES and bytes(memoryview(raw)[:1]) == b'"'


def utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def digest_of(segments: Iterable[bytes]) -> bytes:
    """SHA-256 of a canonical prompt; empty without one. Piece by piece: joined, a long prompt would be copied while the
    interpreter is held."""
    found = None
    for segment in segments:
        if found is None:
            found = _SHA256.copy()  # half of what making one takes
        found.update(segment)
    return found.digest() if found is not None else b""
