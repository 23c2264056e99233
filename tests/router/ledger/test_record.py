"""A record's canonical bytes are the same wherever it comes from."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given

from router.wire.record import Kind, Record, read_record, sequence_of
from tests.router.ledger.records import any_record


@given(any_record)
def test_a_record_read_again_has_the_same_bytes(record: Record) -> None:
    again = read_record(record.body())
    assert again == record
    assert again is not None
    assert again.body() == record.body()
    assert b"\n" not in record.body()


def test_fields_without_a_value_are_left_out_so_that_later_ones_change_no_hash() -> None:
    assert Record("r", 1, "gap", 2.0).body() == b'{"replica":"r","sequence":1,"kind":"gap","at":2.0}'
    for field in msgspec.structs.fields(Record):
        assert field.required or field.default in (None, False, 0), "compared by identity"


def test_the_order_of_what_detail_holds_does_not_matter() -> None:
    one, other = (
        Record("r", 1, "gap", 2.0, detail={"a": 1, "b": 2}),
        Record("r", 1, "gap", 2.0, detail={"b": 2, "a": 1}),
    )
    assert one.body() == other.body()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"sequence":1}', b'{"replica":"r","sequence":"x"}', b"\xff\xfe"])
def test_what_is_no_record_is_none(body: bytes) -> None:
    assert read_record(body) is None


def test_the_sequence_alone_is_read_of_a_record_that_has_more_than_this_program_knows() -> None:
    assert sequence_of(b'{"replica":"r","sequence":7,"kind":"request","at":1.0,"colour":"green"}') == 7
    assert sequence_of(b'{"replica":"r"}') is None


def test_kinds_are_a_closed_set() -> None:
    assert {kind.value for kind in Kind} == {"request", "failover", "recovery", "drill", "gap", "endpoint"}
