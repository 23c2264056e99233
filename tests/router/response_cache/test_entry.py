"""Answers as they are kept: the same bytes again, under the id of whoever asks now."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.response_cache.entry import Entry, body_of, pack, unpack

MANY = 1 << 20


def kept(body: bytes, request_id: str = "first") -> Entry:
    entry = unpack(pack(b"application/json", body, request_id, 12.5, whole=True))
    assert entry is not None
    return entry


@given(st.binary(max_size=4000))
def test_what_was_kept_comes_back(body: bytes) -> None:
    entry = kept(body, "a-request-that-is-nowhere-in-it")
    assert body_of(entry, "second", MANY) == body
    assert (entry.kind, entry.whole, entry.at) == (b"application/json", True, 12.5)


def test_the_answers_own_id_becomes_that_of_the_request() -> None:
    stream = b'data: {"id":"chatcmpl-first","x":1}\n\ndata: {"id": "cmpl-first-0","x":"chatcmpl-first"}\n\n'
    out = body_of(kept(stream), "second", MANY)
    assert out == b'data: {"id":"chatcmpl-second","x":1}\n\ndata: {"id": "cmpl-second-0","x":"chatcmpl-first"}\n\n'


@pytest.mark.parametrize(
    "said",
    [
        b'{"content":"{\\"id\\":\\"chatcmpl-first\\"}"}',  # text that a model wrote
        b'{"id":"chatcmpl-firstborn"}',
        b'{"id":"first"}',
        b'{"call_id":"chatcmpl-first"}',
    ],
)
def test_nothing_else_of_it_changes(said: bytes) -> None:
    assert body_of(kept(said), "second", MANY) == said


def test_an_id_is_no_pattern() -> None:
    assert body_of(kept(b'{"id":"chatcmpl-aXb"}', "a.b"), "\\1", MANY) == b'{"id":"chatcmpl-aXb"}'


@pytest.mark.parametrize(
    "data", [b"", b"nonsense", msgspec.msgpack.encode([2, b"", True, "", 0.0, 1, b""]), msgspec.msgpack.encode({})]
)
def test_bytes_that_are_no_entry_are_none(data: bytes) -> None:
    assert unpack(data) is None


def test_what_is_damaged_cut_longer_than_it_says_or_than_is_kept_is_of_no_use() -> None:
    entry = kept(b"x" * 1000)
    assert body_of(entry, "second", 999) is None
    assert body_of(msgspec.structs.replace(entry, packed=entry.packed[:-9]), "second", MANY) is None
    assert body_of(msgspec.structs.replace(entry, packed=b"no zlib"), "second", MANY) is None
    assert body_of(msgspec.structs.replace(entry, size=999), "second", MANY) is None
