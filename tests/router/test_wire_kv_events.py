"""Every form in which vLLM has published KV events reads the same; anything else is a value that says so."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.kv_tree import AllBlocksCleared, BlockRemoved, BlockStored
from router.wire.kv_events import MAX_PAYLOAD_BYTES, EndOfReplay, EventBatch, Malformed, read_message, replay_request

SAMPLES = Path(__file__).parent / "samples"
MAP = {"type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": 10, "token_ids": [1] * 32,
       "block_size": 16, "lora_id": None, "medium": "GPU", "lora_name": None}  # fmt: skip
ARRAY = ["BlockStored", [11, 12], 10, [1] * 32, 16, None, "GPU", None]
STORED = BlockStored((11, 12), 10, 16, medium="GPU")


def message(batch: object, number: int = 5) -> EventBatch | EndOfReplay | Malformed:
    return read_message([b"kv-events", number.to_bytes(8, "big"), msgspec.msgpack.encode(batch)])


def events(name: str) -> list[EventBatch]:
    lines = (SAMPLES / name).read_text().splitlines()
    read = []
    for line in lines:
        row = json.loads(line)
        one = read_message([row["topic"].encode(), bytes.fromhex(row["seq_hex"]), bytes.fromhex(row["payload_hex"])])
        assert isinstance(one, EventBatch | EndOfReplay), row["seq"]
        if isinstance(one, EventBatch):
            assert one.sequence == row["seq"]
            read.append(one)
    return read


def test_what_a_real_engine_published_is_read() -> None:
    batches = events("kv_events.jsonl")
    assert [batch.sequence for batch in batches] == [1, 2, 3, 4, 5, 6, 7]
    first, second = batches[0].events[0], batches[1].events[0]
    assert first == BlockStored(
        (13664204600170340320, 5186381381310238255), None, 32, medium="GPU", group=0, kind="full_attention"
    )
    assert isinstance(second, BlockStored)
    assert second.parent == 5186381381310238255


def test_hashes_may_be_bytes() -> None:
    first = events("kv_events_bytes_hash.jsonl")[0].events[0]
    assert isinstance(first, BlockStored)
    assert [type(name) for name in first.hashes] == [bytes, bytes]


def test_an_emptied_cache_is_told() -> None:
    assert events("kv_events_reset.jsonl")[0].events == (AllBlocksCleared(), AllBlocksCleared())


def test_a_replay_ends_where_the_engine_says_so() -> None:
    assert len(events("kv_events_replay.jsonl")) == 8
    assert read_message([b"", b"", (-1).to_bytes(8, "big", signed=True), b""]) == EndOfReplay()
    assert replay_request(7) == [b"", b"\0\0\0\0\0\0\0\x07"]


@pytest.mark.parametrize(
    "batch",
    [
        [1.5, [MAP], 0],
        [1.5, [MAP]],
        [1.5, [ARRAY], None],
        [1.5, [ARRAY[:6]], None],
        [1.5, [[*ARRAY, [["salt"], None], 0, "full_attention", None, None, None, "x", "more", 3]], 0],
        {"ts": 1.5, "events": [MAP], "data_parallel_rank": 0},
        {"ts": 1.5, "events": [ARRAY], "more": {}},
        [1.5, [{**MAP, "new_field": [{}]}], 0, "more"],
    ],
)
def test_every_form_of_the_wire_reads_the_same(batch: object) -> None:
    read = message(batch)
    assert isinstance(read, EventBatch)
    assert read.sequence == 5
    (event,) = read.events
    assert isinstance(event, BlockStored)
    assert (event.hashes, event.parent, event.block_size) == (STORED.hashes, STORED.parent, STORED.block_size)
    assert event.medium in ("GPU", None)


def test_a_removal_reads_the_same_in_both_forms() -> None:
    for raw in ({"type": "BlockRemoved", "block_hashes": [1], "medium": "CPU"}, ["BlockRemoved", [1], "CPU"]):
        assert message([0.0, [raw]]) == EventBatch(5, (BlockRemoved((1,), "CPU"),))


def test_what_belongs_to_a_request_and_where_it_lies_is_kept() -> None:
    read = message([0.0, [{**MAP, "session_id": "s-1", "locality": "REMOTE", "group_idx": 2}], 3])
    assert read == EventBatch(5, (BlockStored((11, 12), 10, 16, "s-1", "GPU", 2, None, True),), 3)


def test_unknown_kinds_of_event_are_passed_over() -> None:
    odd = [{"type": "BlockMoved", "block_hashes": "elsewhere"}, ["Moved", 1], {"no": "type"}]
    assert message([0.0, [*odd, ["AllBlocksCleared"]]]) == EventBatch(5, (AllBlocksCleared(),))


def test_the_prompts_tokens_and_the_salt_are_nowhere_in_what_is_read() -> None:
    read = message([0.0, [{**MAP, "token_ids": [987654] * 32, "extra_keys": [["the-salt"], None]}]])
    assert "987654" not in repr(read)
    assert "the-salt" not in repr(read)


@pytest.mark.parametrize(
    "batch",
    [
        3,
        [],
        [1.0],
        [1.0, "events"],
        [1.0, [3]],
        [1.0, [{**MAP, "block_hashes": ["text"]}]],
        [1.0, [{**MAP, "block_hashes": [b"x" * 65]}]],
        [1.0, [{**MAP, "parent_block_hash": b"x" * 65}]],
        [1.0, [{**MAP, "block_size": "16"}]],
        [1.0, [["BlockStored", [1]]]],
        [1.0, [{"type": "BlockRemoved"}]],
    ],
)
def test_what_is_not_an_event_is_said_to_be_malformed(batch: object) -> None:
    read = message(batch)
    assert isinstance(read, Malformed)
    assert read.sequence == 5


def test_frames_that_are_not_a_message_have_no_number() -> None:
    for frames in ([], [b"x"], [b"topic", b"short", b"\x90"], [b"", b"", b""]):
        assert read_message(frames) == Malformed("not a topic, a sequence number and a payload")


def test_a_payload_beyond_all_measure_is_not_looked_at() -> None:
    read = read_message([b"", b"\0" * 8, b"\x93" + b"\0" * MAX_PAYLOAD_BYTES])
    assert read == Malformed("too large", 0)


@given(st.binary(max_size=200))
def test_no_bytes_make_it_raise(payload: bytes) -> None:
    assert isinstance(read_message([b"", b"\0" * 8, payload]), EventBatch | Malformed)


@given(
    st.recursive(
        st.one_of(
            st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.text(max_size=5), st.binary(max_size=5)
        ),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*MAP, "events", "type"]), inner, max_size=4)
        ),
        max_leaves=20,
    )
)
def test_no_values_make_it_raise(value: object) -> None:
    for batch in (value, [0.0, [value]], [0.0, [["BlockStored", value]]], {"events": [value]}):
        assert isinstance(message(batch), EventBatch | Malformed)


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"])
def test_values_nested_without_end_are_malformed(opening: bytes) -> None:
    for start in (b"", b"\x92\x00\x91\x85\xa4type\xabBlockStored\xa9extra_key"):
        assert isinstance(read_message([b"", b"\0" * 8, start + opening * 100_000]), Malformed)
