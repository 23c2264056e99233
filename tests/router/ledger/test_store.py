"""The ledger's tables on SQLite and a real PostgreSQL: each record once, found again, verified, deleted when old."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from policies.ledger.chain import Link, Why
from policies.ledger.retention import DAY, Retention
from router.database.tables import ledger_chains, ledger_records
from router.ledger.audit import Finding, audit_database
from router.ledger.runs import Run
from router.ledger.store import Forked, LedgerStore, Wanted
from router.wire.record import Record
from tests.router.ledger.records import AT, KEY, OTHER, REPLICA, any_record, chained, request


def found(store: LedgerStore, replica: str | None = None) -> list[str | None]:
    wanted = select(ledger_records.c.request_id).order_by(ledger_records.c.replica, ledger_records.c.sequence)
    if replica is not None:
        wanted = wanted.where(ledger_records.c.replica == replica)
    with store.database.reading() as connection:
        return list(connection.execute(wanted).scalars())


def audit(store: LedgerStore, key: bytes = KEY, tenant: str | None = None) -> Finding:
    (finding,) = audit_database(store, key, None, tenant)
    return finding


def change(store: LedgerStore, statement: Any) -> None:
    with store.database.writing() as connection:
        connection.execute(statement)


# -- putting in


def test_records_are_put_in_once_however_often_they_are_sent(store: LedgerStore) -> None:
    records = chained([request(number) for number in range(10)])
    assert store.put(REPLICA, Run.of(records[:4])).sequence == 4
    assert store.put(REPLICA, Run.of(records[2:7])) == records[6][1].mark
    assert store.put(REPLICA, Run.of(records[:3])).sequence == 7, "nothing of these is new"
    assert store.put(REPLICA, Run.of(records)) == records[-1][1].mark
    assert found(store) == [str(number) for number in range(10)]
    assert audit(store).problem is None


def test_replicas_have_chains_of_their_own(store: LedgerStore) -> None:
    other = f"{REPLICA}x"
    store.put(REPLICA, Run.of(chained([request("a")])))
    store.put(other, Run.of(chained([request("b"), request("c")], other)))
    assert (found(store, REPLICA), found(store, other)) == (["a"], ["b", "c"])
    assert store.replicas() == [REPLICA, other]
    assert [one.problem for one in audit_database(store, KEY, None, None)] == [None, None]
    assert [one.chain for one in audit_database(store, KEY, other, None)] == [other]


def test_two_chains_in_one_name_are_told_apart_and_nothing_is_put_in(store: LedgerStore) -> None:
    store.put(REPLICA, Run.of(chained([request("a"), request("b")])))
    with pytest.raises(Forked, match="record 2"):
        store.put(REPLICA, Run.of(chained([request("a"), request("other"), request("c")])))
    with pytest.raises(Forked, match="record 2"):
        store.put(REPLICA, Run.of(chained([request("a"), request("other"), request("c")])[2:]))
    assert found(store) == ["a", "b"]


def test_a_chain_whose_beginning_the_database_never_had_begins_where_it_does(store: LedgerStore) -> None:
    store.put(REPLICA, Run.of(chained([request(number) for number in range(10)])[6:]))
    finding = audit(store)
    assert (finding.problem, finding.first, finding.last) == (None, 7, 10)


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30
)
@given(records=st.lists(any_record, min_size=1, max_size=5))
def test_a_record_read_from_the_database_has_the_bytes_that_were_hashed(
    store: LedgerStore, records: list[Record]
) -> None:
    change(store, delete(ledger_records))
    change(store, delete(ledger_chains))
    sent = chained(records)
    store.put(REPLICA, Run.of(sent))
    assert list(store.links(REPLICA)) == sent


# -- finding


def test_the_last_records_are_found_by_kind_tenant_and_time(store: LedgerStore) -> None:
    records = [request(number, at=AT + number, tenant="acme" if number % 2 else "globex") for number in range(8)]
    records.append(Record("", 0, "failover", AT + 8, tenant="acme", request_id="f"))
    store.put(REPLICA, Run.of(chained(records)))

    def names(most: int = 100, **wanted: Any) -> list[str | None]:
        return [record.request_id for record in store.find(Wanted(**wanted), most)]

    assert names(most=3) == ["6", "7", "f"]
    assert names(kind="failover") == ["f"]
    assert names(kind="failover", tenant="globex") == []
    assert names(tenant="acme", since=AT + 3, until=AT + 7) == ["3", "5"]


# -- verifying

TAMPERINGS: dict[str, tuple[Any, int, Why]] = {
    "tokens": (update(ledger_records).where(ledger_records.c.sequence == 4).values(prompt_tokens=1), 4, Why.CHANGED),
    "parameters": (
        update(ledger_records).where(ledger_records.c.sequence == 3).values(parameters={"seed": 2}), 3, Why.CHANGED
    ),
    "output": (
        update(ledger_records).where(ledger_records.c.sequence == 2).values(output={"refusal": True}), 2, Why.CHANGED
    ),
    "another tenant": (update(ledger_records).where(ledger_records.c.sequence == 1).values(tenant="x"), 1, Why.CHANGED),
    "one deleted": (delete(ledger_records).where(ledger_records.c.sequence == 5), 5, Why.MISSING),
    "the first deleted": (delete(ledger_records).where(ledger_records.c.sequence < 3), 1, Why.MISSING),
    "the last deleted": (delete(ledger_records).where(ledger_records.c.sequence > 7), 8, Why.TRUNCATED),
    "one moved": (update(ledger_records).where(ledger_records.c.sequence == 6).values(sequence=90), 6, Why.MISSING),
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERINGS)
def test_whoever_tampers_with_records_is_found_out_at_the_first_of_them(store: LedgerStore, how: str) -> None:
    store.put(REPLICA, Run.of(chained([request(number, prompt_tokens=100) for number in range(10)])))
    assert audit(store, tenant="acme").of_tenant == 10
    statement, sequence, why = TAMPERINGS[how]
    change(store, statement)
    finding = audit(store)
    assert finding.broken is not None
    assert (finding.broken.sequence, finding.broken.why) == (sequence, why)
    assert finding.problem is not None
    assert str(sequence) in finding.problem


def test_who_deletes_records_cannot_move_the_marks_of_the_chain_along(store: LedgerStore) -> None:
    records = chained([request(number) for number in range(10)])
    store.put(REPLICA, Run.of(records))
    change(store, delete(ledger_records).where(ledger_records.c.sequence > 7))
    mark = records[6][1].mark
    change(store, update(ledger_chains).values(head_sequence=mark.sequence, head_hash=mark.hash))
    assert "head" in str(audit(store).problem)
    change(store, delete(ledger_chains))
    assert "does not say where it ends" in str(audit(store).problem)


def test_a_chain_of_another_secret_is_said_to_be_one(store: LedgerStore) -> None:
    store.put(REPLICA, Run.of(chained([request("a")])))
    assert "another secret" in str(audit(store, OTHER).problem)


# -- deleting


def test_old_records_are_deleted_and_the_chain_is_whole_from_there(store: LedgerStore) -> None:
    store.put(REPLICA, Run.of(chained([request(number, at=AT + number * DAY) for number in range(10)])))
    rule = Retention(days=4)
    now = AT + 9 * DAY
    assert store.prune(rule, now) == 5
    assert store.prune(rule, now) == 0
    assert found(store) == ["5", "6", "7", "8", "9"]
    finding = audit(store)
    assert (finding.problem, finding.first) == (None, 6)
    change(store, delete(ledger_records).where(ledger_records.c.sequence == 6))
    assert audit(store).broken is not None, "what retention deletes is known; what others delete is missing"


def test_a_chain_that_is_cut_while_it_is_read_is_read_anew(store: LedgerStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put(REPLICA, Run.of(chained([request(number, at=AT + number * DAY) for number in range(10)])))
    read, days = store.links, [6.0, 3.0]

    def links(replica: str, behind: int) -> Iterator[tuple[Record, Link]]:
        if days:
            store.prune(Retention(days=days.pop(0)), AT + 10 * DAY)
        return read(replica, behind)

    monkeypatch.setattr(store, "links", links)
    finding = audit(store)
    assert (finding.problem, finding.first, finding.last) == (None, 8, 10)


def test_a_cut_that_nobody_sealed_is_told(store: LedgerStore) -> None:
    records = chained([request(number) for number in range(4)])
    store.put(REPLICA, Run.of(records))
    change(store, delete(ledger_records).where(ledger_records.c.sequence < 3))
    mark = records[1][1].mark
    change(store, update(ledger_chains).values(cut_sequence=mark.sequence, cut_hash=mark.hash))
    assert "cut" in str(audit(store).problem)


def test_only_so_many_rows_are_kept_and_the_oldest_of_all_chains_go(store: LedgerStore) -> None:
    other = f"{REPLICA}x"
    store.put(REPLICA, Run.of(chained([request(f"a{number}", at=AT + number) for number in range(6)])))
    store.put(other, Run.of(chained([request(f"b{number}", at=AT + 100 + number) for number in range(6)], other)))
    rule = Retention(max_rows=8)
    while store.prune(rule, AT):
        pass
    assert found(store) == ["a4", "a5", *[f"b{number}" for number in range(6)]]
    assert [one.problem for one in audit_database(store, KEY, None, None)] == [None, None]


def test_a_chain_that_was_deleted_whole_goes_on(store: LedgerStore) -> None:
    records = chained([request(number, at=AT) for number in range(4)])
    store.put(REPLICA, Run.of(records[:2]))
    assert store.prune(Retention(days=1), AT + 2 * DAY) == 2
    assert audit(store).problem is None
    store.put(REPLICA, Run.of(records))
    assert found(store) == ["2", "3"], "what was deleted does not come back with a spool that still has it"
    assert audit(store).problem is None


def test_a_living_chain_of_another_secret_is_not_cut_and_a_dead_one_is(store: LedgerStore) -> None:
    foreign = LedgerStore(store.database, OTHER)
    name = "ffffffff-0123456789ab"
    foreign.put(name, Run.of(chained([request("a", at=AT), request("b", at=AT + 2 * DAY)], name, key=OTHER)))
    rule = Retention(days=1)
    assert store.prune(rule, AT + 2.5 * DAY) == 0
    assert store.prune(rule, AT + 3.5 * DAY) == 2
    assert found(store) == []


def test_what_the_records_of_a_statement_have_in_common_changes_from_one_to_the_next(store: LedgerStore) -> None:
    """Nothing, the same value, different ones, and nothing again, in any column: fifty rows are one statement."""
    records = [request(number) for number in range(330)]
    for number, record in enumerate(records):
        if number >= 60:
            record.model, record.stream, record.detail = "m", True, {"max_tokens": 7}
        if number >= 120:
            record.model, record.parameters, record.queue_seconds = f"m{number}", {"n": number}, number / 7
        if number >= 180:
            record.detail, record.queue_seconds, record.error = None, None, "gone" if number % 2 else None
        if number >= 240:
            record.tenant, record.model, record.stream = None, None, number % 3 == 0
    sent = chained(records)
    store.put(REPLICA, Run.of(sent))
    assert [(found.body(), link) for found, link in store.links(REPLICA)] == [
        (record.body(), link) for record, link in sent
    ]
