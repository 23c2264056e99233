"""A chain shows the first place at which it is not as it was written, whatever was done to it without the key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.ledger.chain import (
    GENESIS,
    Broken,
    Link,
    Mark,
    Purpose,
    Why,
    fingerprint,
    is_genuine,
    link_hash,
    seal,
    verify,
)

KEY, OTHER = b"k" * 32, b"o" * 32
lengths = st.integers(2, 12)


def chain(length: int, begin: Mark | None = None, key: bytes = KEY) -> list[Link]:
    links, mark = [], begin if begin is not None else Mark()
    for _ in range(length):
        body = b'{"sequence":%d}' % (mark.sequence + 1)
        link = Link(mark.sequence + 1, mark.hash, link_hash(key, mark.hash, body), body)
        links.append(link)
        mark = link.mark
    return links


@given(st.integers(0, 12), st.integers(0, 1000))
def test_a_chain_as_it_was_written_is_whole_from_its_beginning_and_from_any_cut(length: int, first: int) -> None:
    begin = Mark(first, GENESIS if first == 0 else b"h" * 32)
    links = chain(length, begin)
    end = links[-1].mark if links else begin
    assert verify(KEY, links, begin, end) == (end, None)
    for cut in range(length):
        assert verify(KEY, links[cut + 1 :], links[cut].mark, end) == (end, None)


@given(st.data(), lengths)
def test_a_record_that_was_changed_is_found_whichever_part_of_it_was(data: st.DataObject, length: int) -> None:
    links = chain(length)
    at = data.draw(st.integers(0, length - 1))
    part = data.draw(st.sampled_from(["body", "hash", "previous"]))
    old = bytearray(getattr(links[at], part))
    old[data.draw(st.integers(0, len(old) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    changed = [*links[:at], links[at]._replace(**{part: bytes(old)}), *links[at + 1 :]]
    mark, broken = verify(KEY, changed, end=links[-1].mark)
    assert broken == Broken(at + 1, Why.CHANGED)
    assert mark.sequence == at


@given(st.data(), lengths)
def test_records_that_are_gone_are_missing_and_at_the_end_truncated(data: st.DataObject, length: int) -> None:
    links = chain(length)
    first = data.draw(st.integers(0, length - 1))
    last = data.draw(st.integers(first, length - 1))
    _, broken = verify(KEY, [*links[:first], *links[last + 1 :]], end=links[-1].mark)
    assert broken == Broken(first + 1, Why.TRUNCATED if last == length - 1 else Why.MISSING)


@given(st.data(), lengths)
def test_records_that_changed_places_are_reordered_from_the_first_on(data: st.DataObject, length: int) -> None:
    links = chain(length)
    first, second = sorted(data.draw(st.lists(st.integers(0, length - 1), min_size=2, max_size=2, unique=True)))
    links[first], links[second] = links[second], links[first]
    assert verify(KEY, links)[1] == Broken(first + 1, Why.REORDERED)


def test_a_record_that_stands_twice_is_reordered() -> None:
    links = chain(3)
    assert verify(KEY, [*links[:2], links[1], links[2]])[1] == Broken(2, Why.REORDERED)


def test_who_does_not_know_the_key_can_write_no_chain_that_is_whole() -> None:
    assert verify(KEY, chain(3, key=OTHER))[1] == Broken(1, Why.CHANGED)
    own = chain(4)
    forged = chain(2, own[1].mark, key=OTHER)
    assert verify(KEY, [*own[:2], *forged], end=own[-1].mark)[1] == Broken(3, Why.CHANGED)
    assert not is_genuine(KEY, forged[0])


def test_who_knows_the_key_cannot_replace_a_record_in_the_middle_either() -> None:
    links = chain(4)
    body = b'{"sequence":2,"tokens":0}'
    links[1] = Link(2, links[1].previous, link_hash(KEY, links[1].previous, body), body)
    assert verify(KEY, links)[1] == Broken(2, Why.CHANGED)


def test_another_end_than_the_remembered_one_is_a_change() -> None:
    links = chain(3)
    assert verify(KEY, links, end=Mark(3, b"x" * 32))[1] == Broken(3, Why.CHANGED)
    assert verify(KEY, links, end=links[1].mark)[1] is None, "it may have grown since"


@pytest.mark.parametrize("other", ["key", "purpose", "chain", "sequence", "hash"])
def test_a_seal_holds_for_what_it_was_made_for_alone(other: str) -> None:
    said: dict[str, object] = {"key": KEY, "purpose": Purpose.HEAD, "chain": "a-1", "mark": Mark(5, b"h" * 32)}
    changes: dict[str, dict[str, object]] = {
        "key": {"key": OTHER},
        "purpose": {"purpose": Purpose.CUT},
        "chain": {"chain": "a-2"},
        "sequence": {"mark": Mark(4, b"h" * 32)},
        "hash": {"mark": Mark(5, b"i" * 32)},
    }
    assert seal(**said) != seal(**said | changes[other])  # type: ignore[arg-type]


def test_keys_are_told_apart_by_a_fingerprint_that_is_short() -> None:
    assert fingerprint(KEY) != fingerprint(OTHER)
    assert len(fingerprint(KEY)) == 8
