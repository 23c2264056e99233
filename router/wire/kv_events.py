"""Messages of engines' KV event sockets, as events that an index can use.

Floor: sans-IO. A message is [topic, sequence number (8 bytes, big-endian), msgpack]. Accepted are all forms that vLLM
has used: the batch as an array or a map, each event as an array by position or as a map. Unknown kinds of event and
unknown fields are passed over; a message that says something else is a `Malformed`, never an exception. The prompt's
token ids and the cache salt, which engines publish too, are skipped undecoded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from policies.kv_tree import AllBlocksCleared, BlockRemoved, BlockStored, CacheEvent, Hash

# A step of an engine stores some thousand tokens; a message beyond this is none of its.
MAX_PAYLOAD_BYTES = 16 * 1024 * 1024
# vLLM's are 32; a hash is a name here, and whoever sends longer ones wants our memory.
_MAX_HASH_BYTES = 64
_END = (-1).to_bytes(8, "big", signed=True)
# Where the first byte of a msgpack value says that it is an array: fixarray, array 16, array 32.
_ARRAYS = frozenset({*range(0x90, 0xA0), 0xDC, 0xDD})


@dataclass(frozen=True, slots=True)
class EventBatch:
    """One message. `rank`: the data-parallel rank that sent it."""

    sequence: int
    events: tuple[CacheEvent, ...]
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class EndOfReplay:
    """No more messages answer this request for old ones."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """Not a message that this file knows. `sequence` is None where even that could not be read."""

    reason: str
    sequence: int | None = None


Message: TypeAlias = EventBatch | EndOfReplay | Malformed
_RawEvents: TypeAlias = list[msgspec.Raw]


class _BatchArray(msgspec.Struct, array_like=True, gc=False):
    ts: msgspec.Raw
    events: _RawEvents
    data_parallel_rank: int | None = None


class _BatchMap(msgspec.Struct, gc=False):
    events: _RawEvents
    data_parallel_rank: int | None = None


class _Kind(msgspec.Struct, gc=False):
    type: str = ""


class _KindArray(msgspec.Struct, array_like=True, gc=False):
    type: str


class _Stored(msgspec.Struct, gc=False):
    block_hashes: list[Hash]
    block_size: int
    parent_block_hash: Hash | None = None
    medium: str | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    locality: str | None = None
    session_id: str | None = None


class _StoredArray(msgspec.Struct, array_like=True, gc=False):
    """In the order of the engine's own fields; what came after `medium` moved from version to version."""

    type: str
    block_hashes: list[Hash]
    parent_block_hash: Hash | None
    token_ids: msgspec.Raw
    block_size: int
    lora_id: msgspec.Raw = msgspec.Raw()
    medium: str | None = None


class _Removed(msgspec.Struct, gc=False):
    block_hashes: list[Hash]
    medium: str | None = None
    group_idx: int | None = None
    locality: str | None = None


class _RemovedArray(msgspec.Struct, array_like=True, gc=False):
    type: str
    block_hashes: list[Hash]
    medium: str | None = None


_batch_array = msgspec.msgpack.Decoder(_BatchArray)
_batch_map = msgspec.msgpack.Decoder(_BatchMap)
_kind = msgspec.msgpack.Decoder(_Kind)
_kind_array = msgspec.msgpack.Decoder(_KindArray)
_stored = msgspec.msgpack.Decoder(_Stored)
_stored_array = msgspec.msgpack.Decoder(_StoredArray)
_removed = msgspec.msgpack.Decoder(_Removed)
_removed_array = msgspec.msgpack.Decoder(_RemovedArray)


def read_message(frames: Sequence[bytes]) -> Message:
    """What a message says. Frames before the last three (a DEALER's empty one) are passed over; a topic may be absent,
    as in answers to replays of some versions."""
    if len(frames) < 2 or len(frames[-2]) != 8:
        return Malformed("not a topic, a sequence number and a payload")
    number, payload = frames[-2], frames[-1]
    if number == _END:
        return EndOfReplay()
    sequence = int.from_bytes(number, "big")
    if len(payload) > MAX_PAYLOAD_BYTES:
        return Malformed("too large", sequence)
    try:
        return _batch(sequence, payload)
    except (msgspec.MsgspecError, ValueError, RecursionError, MemoryError) as error:
        return Malformed(type(error).__name__, sequence)


def replay_request(first: int) -> list[bytes]:
    """The frames by which a DEALER asks for all messages from this sequence number on."""
    return [b"", first.to_bytes(8, "big")]


def _batch(sequence: int, payload: bytes) -> EventBatch:
    batch = (_batch_array if _is_array(payload) else _batch_map).decode(payload)
    events = [event for raw in batch.events if (event := _event(raw)) is not None]
    return EventBatch(sequence, tuple(events), batch.data_parallel_rank)


def _event(raw: msgspec.Raw) -> CacheEvent | None:
    """None for a kind that is not known."""
    array = _is_array(raw)
    kind = _kind_array.decode(raw).type if array else _kind.decode(raw).type
    if kind == "BlockStored":
        return _from_stored_array(_stored_array.decode(raw)) if array else _from_stored(_stored.decode(raw))
    if kind == "BlockRemoved":
        if array:
            gone = _removed_array.decode(raw)
            return BlockRemoved(_hashes(gone.block_hashes), gone.medium)
        named = _removed.decode(raw)
        return BlockRemoved(_hashes(named.block_hashes), named.medium, named.group_idx, named.locality == "REMOTE")
    return AllBlocksCleared() if kind == "AllBlocksCleared" else None


def _from_stored(event: _Stored) -> BlockStored:
    return BlockStored(
        hashes=_hashes(event.block_hashes),
        parent=_hash(event.parent_block_hash),
        block_size=event.block_size,
        session=event.session_id,
        medium=event.medium,
        group=event.group_idx,
        kind=event.kv_cache_spec_kind,
        remote=event.locality == "REMOTE",
    )


def _from_stored_array(event: _StoredArray) -> BlockStored:
    parent = _hash(event.parent_block_hash)
    return BlockStored(_hashes(event.block_hashes), parent, event.block_size, medium=event.medium)


def _hashes(hashes: list[Hash]) -> tuple[Hash, ...]:
    for one in hashes:
        _hash(one)
    return tuple(hashes)


def _hash(one: Hash | None) -> Hash | None:
    if isinstance(one, bytes) and len(one) > _MAX_HASH_BYTES:
        raise ValueError("a hash is too long")
    return one


def _is_array(data: bytes | msgspec.Raw) -> bool:
    head = memoryview(data)[:1]
    return bool(head) and head[0] in _ARRAYS
