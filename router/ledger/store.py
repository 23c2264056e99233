"""Records in the database: put in once each, found, read as a chain, and deleted from a chain's beginning.

Floor: an adapter over `router.database`; blocks. Every method raises DatabaseAway. Where a chain stands
(`ledger_chains`) changes in the same transaction as its records.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from policies.ledger.chain import Link, Mark, Purpose, fingerprint, seal
from policies.ledger.retention import DAY, Retention, Span, due, leading
from router.database.engine import Database
from router.database.migrate import prepare
from router.database.tables import ledger_chains, ledger_records
from router.ledger.rows import FIELDS, insert_records
from router.ledger.runs import Run
from router.ledger.usage import add_up
from router.wire.record import Record

_PAGE = 2000  # records of one read: SQLite lets nobody write meanwhile
_DELETED = 2000  # of one transaction: a fraction of a second


class Forked(Exception):
    """The database has another record in a record's place: two have written one chain, as after a spool was restored
    from a copy. The message says which."""


@dataclass(frozen=True, slots=True)
class Chain:
    """What the database says of one replica's chain. `head` and `cut` are only to be believed with their seals."""

    replica: str
    head: Mark
    head_seal: bytes
    cut: Mark
    cut_seal: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which records to find; None is any. Moments are Unix seconds, `until` excluded."""

    kind: str | None = None
    tenant: str | None = None
    since: float | None = None
    until: float | None = None


class LedgerStore:
    """All records of one database. `key`: what chains are made by."""

    def __init__(self, database: Database, key: bytes) -> None:
        self.database = database
        self._key = key

    def prepare(self) -> None:
        """Makes the database fit the program. Raises DatabaseTooNew too."""
        prepare(self.database)

    # -- putting in --------------------------------------------------------------------------------------------------

    def put(self, replica: str, run: Run) -> Mark:
        """Puts in what is not there yet of these; where the chain stands then. Raises Forked."""
        with self.database.writing() as connection:
            known = _chain(connection, replica)
            head = known.head if known is not None else Mark()
            _check_fork(replica, head, run)
            new = run.behind(head.sequence)
            if not new.records:
                return head
            insert_records(connection, new)
            add_up(connection, new.records)
            self._move_head(connection, replica, new.begin if known is None else None, new.end, new.records[-1].at)
            return new.end

    def _move_head(self, connection: Connection, replica: str, begin: Mark | None, head: Mark, at: float) -> None:
        """`begin`: where a chain begins that is new here."""
        values: dict[str, Any] = {"at": at, **self._sealed(Purpose.HEAD, replica, head)}
        if begin is None:
            connection.execute(update(ledger_chains).where(ledger_chains.c.replica == replica).values(values))
        else:
            values |= self._sealed(Purpose.CUT, replica, begin)
            connection.execute(insert(ledger_chains).values(replica=replica, **values))

    def _sealed(self, purpose: Purpose, replica: str, mark: Mark) -> dict[str, Any]:
        said = {"sequence": mark.sequence, "hash": mark.hash, "seal": seal(self._key, purpose, replica, mark)}
        return {f"{purpose.value}_{name}": value for name, value in said.items()}

    # -- reading -----------------------------------------------------------------------------------------------------

    def chains(self) -> list[Chain]:
        """All that the database knows of."""
        with self.database.reading() as connection:
            rows = connection.execute(select(ledger_chains).order_by(ledger_chains.c.replica))
            return [_read_chain(row) for row in rows]

    def knows(self, replica: str) -> bool:
        """Whether any record of that chain was ever put in here; retention does not change that."""
        query = select(ledger_chains.c.replica).where(ledger_chains.c.replica == replica)
        with self.database.reading() as connection:
            return connection.execute(query).first() is not None

    def replicas(self) -> list[str]:
        """Whoever has written a record that is here, whether its chain is known or not."""
        names: list[str] = []
        column = ledger_records.c.replica
        with self.database.reading() as connection:
            while True:  # from name to name by the index: there are few among very many rows
                following = select(func.min(column)).where(column > names[-1]) if names else select(func.min(column))
                name = connection.execute(following).scalar()
                if name is None:
                    return names
                names.append(name)

    def links(self, replica: str, behind: int = 0) -> Iterator[tuple[Record, Link]]:
        """The records of a chain in order, as they are to be verified."""
        table = ledger_records
        while True:
            wanted = select(table).where(table.c.replica == replica, table.c.sequence > behind)
            page = self._read(wanted.order_by(table.c.sequence).limit(_PAGE))
            for record, previous, hashed in page:
                yield record, Link(record.sequence, previous, hashed, record.body())
            if len(page) < _PAGE:
                return
            behind = page[-1][0].sequence

    def find(self, wanted: Wanted, most: int) -> list[Record]:
        """The last ones that are wanted, the oldest first."""
        table = ledger_records
        query = select(table).order_by(table.c.at.desc(), table.c.replica, table.c.sequence.desc()).limit(most)
        for column, value in ((table.c.kind, wanted.kind), (table.c.tenant, wanted.tenant)):
            if value is not None:
                query = query.where(column == value)
        if wanted.kind is not None and wanted.kind != "request":
            query = query.where(table.c.kind != "request")  # says which index serves
        if wanted.since is not None:
            query = query.where(table.c.at >= wanted.since)
        if wanted.until is not None:
            query = query.where(table.c.at < wanted.until)
        return [record for record, _, _ in reversed(self._read(query))]

    def _read(self, query: Select[Any]) -> list[tuple[Record, bytes, bytes]]:
        with self.database.reading() as connection:
            return [
                (Record(*row[: len(FIELDS)]), bytes(row.previous), bytes(row.hash)) for row in connection.execute(query)
            ]

    # -- deleting ----------------------------------------------------------------------------------------------------

    def prune(self, rule: Retention, now: float) -> int:
        """Deletes some of the records that are too old or too many, and says how many: 0 where all is well."""
        with self.database.writing() as connection:
            found = due(rule, list(self._spans(connection, now)), now)
            if found is None:
                return 0
            span, many = found
            last = _last_to_go(connection, span, many, rule.before(now))
            _delete(connection, span.chain, last.sequence)
            cut = self._sealed(Purpose.CUT, span.chain, last)
            connection.execute(update(ledger_chains).where(ledger_chains.c.replica == span.chain).values(cut))
            return last.sequence - span.cut

    def _spans(self, connection: Connection, now: float) -> Iterator[Span]:
        """What may be cut: not the chain of a process with another secret, which would take our seal for a forgery,
        unless nothing has been added to it for a day."""
        table, own = ledger_records, fingerprint(self._key)
        for row in connection.execute(select(ledger_chains).order_by(ledger_chains.c.replica).with_for_update()).all():
            if not row.replica.startswith(f"{own}-") and now - row.at < DAY:
                continue
            first = select(table.c.at).where(table.c.replica == row.replica, table.c.sequence > row.cut_sequence)
            oldest = connection.execute(first.order_by(table.c.sequence).limit(1)).scalar()
            if oldest is not None:
                yield Span(row.replica, row.cut_sequence, row.head_sequence, oldest)


def _chain(connection: Connection, replica: str) -> Chain | None:
    query = select(ledger_chains).where(ledger_chains.c.replica == replica)
    row = connection.execute(query.with_for_update()).one_or_none()
    return _read_chain(row) if row is not None else None


def _read_chain(row: Row[Any]) -> Chain:
    head, cut = Mark(row.head_sequence, bytes(row.head_hash)), Mark(row.cut_sequence, bytes(row.cut_hash))
    return Chain(row.replica, head, bytes(row.head_seal), cut, bytes(row.cut_seal))


def _check_fork(replica: str, head: Mark, run: Run) -> None:
    if not head.sequence:
        return
    at, following = run.place(head.sequence), run.place(head.sequence + 1)
    said = [run.hashes[at]] if at is not None else []
    said += [run.previous[following]] if following is not None else []
    if any(one != head.hash for one in said):
        raise Forked(f"record {head.sequence} of chain {replica} is another in the database than in the spool")


def _last_to_go(connection: Connection, span: Span, many: int | None, before: float | None) -> Mark:
    table = ledger_records
    query = select(table.c.sequence, table.c.at, table.c.hash)
    query = query.where(table.c.replica == span.chain, table.c.sequence > span.cut)
    rows = connection.execute(query.order_by(table.c.sequence).limit(min(many or _DELETED, _DELETED))).all()
    if many is None and before is not None:
        rows = rows[: leading([row.at for row in rows], before)]
    return Mark(rows[-1].sequence, bytes(rows[-1].hash))


def _delete(connection: Connection, replica: str, last: int) -> None:
    table = ledger_records
    connection.execute(delete(table).where(table.c.replica == replica, table.c.sequence <= last))
