"""A chain of records: each carries a keyed hash over itself and the hash of the one before it.

Floor: pure. Whoever changes, removes or moves a record without knowing the key breaks the chain at that place. HMAC
(RFC 2104) with SHA-256; a plain hash would let anybody who can write the database compute the chain anew. What a chain
cannot show by itself is that its end is missing: for that its end is remembered elsewhere, sealed by the same key.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

HASH_BYTES = 32
GENESIS = bytes(HASH_BYTES)  # stands before the first record of every chain
_FINGERPRINT_BYTES = 4  # tells secrets apart, and helps nobody to guess one


class Mark(NamedTuple):
    """A place in a chain: a record's sequence and hash. The default is the place before the first one."""

    sequence: int = 0
    hash: bytes = GENESIS


class Link(NamedTuple):
    """One record as it stands in a chain. `body`: its canonical bytes, its sequence among them."""

    sequence: int
    previous: bytes
    hash: bytes
    body: bytes

    @property
    def mark(self) -> Mark:
        return Mark(self.sequence, self.hash)


class Why(StrEnum):
    """In which way a chain is broken."""

    CHANGED = "changed"
    MISSING = "missing"
    REORDERED = "reordered"
    TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Broken:
    """The first record that is not as it was written."""

    sequence: int
    why: Why


class Purpose(StrEnum):
    """What a remembered place means; a seal made for one is none for the other."""

    HEAD = "head"
    CUT = "cut"


def link_hash(key: bytes, previous: bytes, body: bytes) -> bytes:
    """The hash of a record whose predecessor has the hash `previous`."""
    return hmac.digest(key, previous + body, "sha256")


def fingerprint(key: bytes) -> str:
    """Eight hexadecimal digits by which chains of another key are told apart."""
    return hmac.digest(key, b"fingerprint", "sha256")[:_FINGERPRINT_BYTES].hex()


def seal(key: bytes, purpose: Purpose, chain: str, mark: Mark) -> bytes:
    """Proves that who knows the key has said this of a chain: where it ends (HEAD), or begins since older records were
    deleted on purpose (CUT)."""
    said = f"{purpose.value}\0{chain}\0{mark.sequence}\0".encode()
    return hmac.digest(key, said + mark.hash, "sha256")


def is_genuine(key: bytes, link: Link) -> bool:
    """Whether a record is as it was written, whatever stands before it."""
    return link_hash(key, link.previous, link.body) == link.hash


def verify(
    key: bytes, links: Iterable[Link], begin: Mark | None = None, end: Mark | None = None
) -> tuple[Mark, Broken | None]:
    """How far a chain is whole, and what is wrong behind that; None where it is whole to its end.

    `begin`: behind which the first link has to stand; `end`: the least that the chain must reach, where that is known.
    """
    at, rest = begin if begin is not None else Mark(), iter(links)
    for one in rest:
        if one.sequence != at.sequence + 1:
            return at, _out_of_order(at.sequence + 1, one, rest)
        if not is_genuine(key, one):
            return at, Broken(one.sequence, Why.CHANGED)
        if one.previous != at.hash:  # genuine itself, so it was written behind another record than this
            return at, Broken(max(at.sequence, 1), Why.CHANGED)
        at = one.mark
    if end is None or at.sequence > end.sequence or at == end:
        return at, None
    if at.sequence == end.sequence:
        return at, Broken(at.sequence, Why.CHANGED)
    return at, Broken(at.sequence + 1, Why.TRUNCATED)


def _out_of_order(expected: int, found: Link, rest: Iterator[Link]) -> Broken:
    if found.sequence < expected:
        return Broken(found.sequence, Why.REORDERED)
    later = any(other.sequence == expected for other in rest)
    return Broken(expected, Why.REORDERED if later else Why.MISSING)
