"""What an owner writes down of its endpoints' prefix indexes, and how the next owner gets them back from that.

Floor: `policies`, pure. A dispatch and its end are one list append each (`Scribe`); all else is done per batch. A
block's hash says all that precedes it, so a chain is named by its last block, and only blocks that the journal has not
named before are written, with the one that they follow. A **snapshot** of an endpoint is all its blocks, the oldest
first, each with its parent: what was written before the last snapshots of all endpoints is needed no more.

Rebuilt is the order of what is present, not who holds what: requests under way are told by their replicas. What cannot
be placed, as its beginning was lost, is passed over: an index that knows less costs a cache hit, a wrong one more.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from sys import byteorder
from typing import NamedTuple

from xxhash import xxh3_64_intdigest

from policies.prefix_blocks import MAX_BLOCKS
from policies.prefix_index import PrefixIndex

# A block without a parent follows this; a hash of 0 is one in 2^64, and would cost a guess at a cache.
NOTHING = 0
# Blocks named since the last snapshots after which new ones are due, at least; reading them back takes some 0.1 s.
SNAPSHOT_BLOCKS = 200_000
# The same as a multiple of what the snapshots held: they cost a fraction of what the indexes themselves did meanwhile.
_SNAPSHOT_SHARE = 4
# Notes that may wait for their batch; a writer that takes none any more must not fill the memory.
MAX_NOTES = 65_536
_WORD_BYTES = 8


class Kind(IntEnum):
    """What an entry says; the numbers are on the wire."""

    USED = 0  # the chain of `parent` and `blocks` has become the newest
    CUT = 1  # of the chain that ends in `parent` the last `number` blocks are gone
    KEPT = 2  # the oldest are gone, `number` are left
    CLEARED = 3
    DROPPED = 5  # `blocks` are gone
    SNAPSHOT = 4  # `blocks` are present, the oldest first, each followed by its parent


class Entry(NamedTuple):
    """`blocks`: 8-byte little-endian words."""

    kind: int
    endpoint: int
    parent: int = NOTHING
    blocks: bytes = b""
    number: int = 0


class _Note(NamedTuple):
    kind: Kind
    endpoint: int
    blocks: Sequence[int]
    number: int


def endpoint_key(url: str) -> int:
    """Names an endpoint by where it is: the same on all replicas."""
    return xxh3_64_intdigest(url.encode())


class Scribe:
    """Notes what happens to one endpoint's index."""

    __slots__ = ("_endpoint", "_notes")

    def __init__(self, endpoint: int, notes: list[tuple[int, Sequence[int]] | _Note]) -> None:
        self._endpoint = endpoint
        self._notes = notes

    def used(self, blocks: Sequence[int]) -> None:
        self._notes.append((self._endpoint, blocks))

    def cut(self, blocks: Sequence[int], left: int) -> None:
        self._notes.append(_Note(Kind.CUT, self._endpoint, blocks, len(blocks) - left))

    def dropped(self, blocks: Sequence[int]) -> None:
        self._notes.append(_Note(Kind.DROPPED, self._endpoint, blocks, 0))

    def cleared(self) -> None:
        self._notes.append(_Note(Kind.CLEARED, self._endpoint, (), 0))


class Journal:
    """What one owner writes of one pool. `follow` the pool's indexes, then write what `entries` gives, in order; begin
    with snapshots, and write them again when they are `due`."""

    def __init__(self, snapshot_blocks: int = SNAPSHOT_BLOCKS) -> None:
        self._indexes: dict[int, PrefixIndex] = {}
        self._notes: list[tuple[int, Sequence[int]] | _Note] = []
        self._parents: dict[int, int] = {}  # of every block that a reader knows
        self._least = snapshot_blocks
        self._named = self._snapped = 0
        self._begun = False

    @property
    def due(self) -> bool:
        """Whether new snapshots of all endpoints should be written."""
        return not self._begun or self._named > max(self._least, _SNAPSHOT_SHARE * self._snapped)

    @property
    def waiting(self) -> int:
        """Notes that no batch has taken yet."""
        return len(self._notes)

    def follow(self, indexes: Mapping[int, PrefixIndex]) -> None:
        """Take notes of these, by `endpoint_key`, and of no others any more; snapshots are due."""
        self.leave()
        self._indexes = dict(indexes)
        for endpoint, index in indexes.items():
            index.scribe = Scribe(endpoint, self._notes)

    def leave(self) -> None:
        """Take no more notes."""
        for index in self._indexes.values():
            index.scribe = None
        self._indexes = {}
        self.lost()

    def lost(self) -> None:
        """What was written may not have arrived: begin anew."""
        self._begun = False

    def entries(self, most: int | None = None) -> list[Entry]:
        """What the oldest notes (at most `most`) come to; they are taken. Uses of one chain in a row are one. With the
        last notes goes how many blocks are left where they were of, as what is new has pushed old ones out."""
        if len(self._notes) > MAX_NOTES:
            self._notes.clear()
            self.lost()
        taken = self._notes[:most]
        del self._notes[: len(taken)]
        found, last = list[Entry](), None
        for note in taken:
            key = (note[0], note[1][-1] if note[1] else NOTHING) if not isinstance(note, _Note) else None
            if key is None or key != last:
                found.extend(self._entry(note))
            last = key
        if not self._notes:
            touched = dict.fromkeys(note[0] if not isinstance(note, _Note) else note.endpoint for note in taken)
            found += [Entry(Kind.KEPT, one, number=len(self._indexes[one])) for one in touched if one in self._indexes]
        return found

    def snapshots(self) -> Iterator[Entry]:
        """All endpoints as they are when asked for each; notes taken before are in them, or follow. To be written
        whole; where that fails, tell it by `lost`."""
        known, self._parents, self._named, self._snapped = self._parents, {}, 0, 0
        self._learn_waiting(known)
        self._begun = True
        for endpoint, index in self._indexes.items():
            blocks = index.blocks()
            parents = [known.get(block, -1) for block in blocks]
            there = {NOTHING, *blocks}  # a block whose parent is not there can neither match nor be placed
            pairs = [(block, parent) for block, parent in zip(blocks, parents, strict=True) if parent in there]
            self._parents.update(pairs)
            self._snapped += len(pairs)
            yield Entry(Kind.SNAPSHOT, endpoint, blocks=_pack(word for pair in pairs for word in pair))

    def inherit(self, rebuilt: Rebuilt) -> None:
        """What a reader has found out of how blocks follow each other: else snapshots could not name them."""
        self._parents.update(rebuilt.parents)

    def _learn_waiting(self, known: dict[int, int]) -> None:
        """Chains that were noted and not yet written may be in an index already."""
        for note in self._notes:
            if not isinstance(note, _Note):
                _follow(note[1], known)

    def _entry(self, note: tuple[int, Sequence[int]] | _Note) -> Iterator[Entry]:
        if isinstance(note, _Note):
            if note.kind is not Kind.CUT:
                yield Entry(note.kind, note.endpoint, blocks=_pack(note.blocks))
            elif note.number and note.blocks:
                yield Entry(Kind.CUT, note.endpoint, note.blocks[-1], number=note.number)
            return
        endpoint, blocks = note
        if blocks:
            self._named += len(blocks)
            new = _follow(blocks, self._parents)
            first = len(blocks) - new
            yield Entry(Kind.USED, endpoint, blocks[first - 1] if first else NOTHING, _pack(blocks[first:]))


class Rebuilt:
    """The indexes that a journal's entries come to. Reads what it is given, whoever wrote it: never an exception."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.unplaced = 0  # entries whose beginnings are not known
        self._present: dict[int, OrderedDict[int, None]] = {}

    @property
    def endpoints(self) -> frozenset[int]:
        """Those that the journal speaks of."""
        return frozenset(self._present)

    def blocks(self, endpoint: int) -> list[int]:
        """What is present there, the oldest first."""
        return list(self._present.get(endpoint, ()))

    def apply(self, entry: Entry) -> None:
        """Take in one entry, in the order of writing."""
        if entry.kind == Kind.USED:
            self._use(entry)
        elif entry.kind == Kind.SNAPSHOT:
            self._snapshot(entry)
        elif entry.kind == Kind.CLEARED:
            self._present[entry.endpoint] = OrderedDict()
        elif entry.kind == Kind.KEPT:
            present = self._present.get(entry.endpoint, OrderedDict())
            while len(present) > max(0, entry.number):
                present.popitem(last=False)
        elif entry.kind in (Kind.CUT, Kind.DROPPED):
            present = self._present.get(entry.endpoint, OrderedDict())
            cut = entry.kind == Kind.CUT
            gone = self._chain(entry.parent)[: max(0, entry.number)] if cut else _unpack(entry.blocks)
            for block in gone:
                present.pop(block, None)

    def restore(self, indexes: Mapping[int, PrefixIndex]) -> int:
        """Give these indexes, by `endpoint_key`, what the journal says of them. Returns how many it speaks of."""
        found = self._present.keys() & indexes.keys()
        for endpoint in found:
            indexes[endpoint].restore(self._present[endpoint])
        return len(found)

    def _use(self, entry: Entry) -> None:
        new = _unpack(entry.blocks)
        if entry.parent != NOTHING and entry.parent not in self.parents:
            self.unplaced += 1
            return
        parent = entry.parent
        for block in new:
            self.parents[block] = parent
            parent = block
        present = self._present.setdefault(entry.endpoint, OrderedDict())
        for block in self._chain(parent):
            present[block] = None
            present.move_to_end(block)

    def _snapshot(self, entry: Entry) -> None:
        words = _unpack(entry.blocks)
        blocks, parents = words[::2], words[1::2]
        self.parents.update(zip(blocks, parents, strict=False))
        self._present[entry.endpoint] = OrderedDict.fromkeys(blocks)

    def _chain(self, last: int) -> list[int]:
        """From this block back to its chain's first; bounded, as what was written may be nonsense."""
        found = list[int]()
        while last != NOTHING and len(found) < MAX_BLOCKS and last in self.parents:
            found.append(last)
            last = self.parents[last]
        return found


def _follow(blocks: Sequence[int], parents: dict[int, int]) -> int:
    """Learns how these follow each other; returns how many at the end were new."""
    place = len(blocks)
    while place and blocks[place - 1] not in parents:
        parents[blocks[place - 1]] = blocks[place - 2] if place > 1 else NOTHING
        place -= 1
    return len(blocks) - place


def _pack(words: Iterable[int]) -> bytes:
    packed = array("Q", words)
    if byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _unpack(data: bytes) -> list[int]:
    words = array("Q", data[: len(data) // _WORD_BYTES * _WORD_BYTES])
    if byteorder == "big":
        words.byteswap()
    return words.tolist()
