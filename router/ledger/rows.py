"""Records as rows of the table, put in by the driver itself: SQLAlchemy's own way takes twice as long.

Floor: an adapter; blocks. This is done for every request. SQLite's driver takes most of its time to hand over values
one by one, above all those that are NULL, which it knows last. Records that follow each other have much in common, so
what is the same in all of a statement is handed over once, and a column without a value not at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import Connection

from router.ledger.runs import Run
from router.wire.record import Record

FIELDS = [field.name for field in msgspec.structs.fields(Record)]
# Of one statement: SQLite's driver hands the interpreter over at each, which costs more than the row itself while the
# event loop is busy; it takes 32,766 values at most, and a longer one takes longer to be understood.
_AT_ONCE = 100
_PIPELINED = 1000  # PostgreSQL's driver sends so many rows before it waits
_COLUMNS = [*FIELDS, "previous", "hash"]
_JSON = ("detail", "parameters", "output")
_json = msgspec.json.Encoder().encode

_Columns = Mapping[str, Sequence[Any]]
# What the values of a column are in a statement.
_NOTHING, _SHARED, _VARIED = range(3)


def insert_records(connection: Connection, run: Run) -> None:
    """At least one; those that are there already are left out."""
    sqlite = connection.dialect.paramstyle == "qmark"
    kinds, most = (_NOTHING,) * len(_COLUMNS), _AT_ONCE if sqlite else _PIPELINED
    for start in range(0, len(run.records), most):
        columns = _columns(run, slice(start, start + most))
        if sqlite:
            # They only ever grow: a statement that is like the one before need not be understood anew.
            kinds = tuple(map(max, kinds, map(_kind, columns.values())))
            connection.exec_driver_sql(*_statement(columns, kinds))
        else:
            connection.exec_driver_sql(_insertion(), list(zip(*columns.values(), strict=True)))


def _columns(run: Run, some: slice) -> _Columns:
    rows = map(msgspec.structs.astuple, run.records[some])
    columns: dict[str, Sequence[Any]] = dict(zip(FIELDS, zip(*rows, strict=True), strict=True))
    for name in _JSON:
        columns[name] = _texts(columns[name])
    # The only kind of bytes that SQLite's driver knows at once.
    columns["previous"] = list(map(bytearray, run.previous[some]))
    columns["hash"] = list(map(bytearray, run.hashes[some]))
    return columns


def _texts(values: Sequence[Any]) -> Sequence[str | None]:
    """As JSON. Many are one and the same (`router.wire.parameters`)."""
    if values.count(None) == len(values):
        return values
    told: dict[int, str | None] = {id(None): None}
    for value in values:
        if id(value) not in told:
            told[id(value)] = _json(value).decode()
    return [told[id(value)] for value in values]


@cache
def _insertion() -> str:
    marks = ", ".join(["%s"] * len(_COLUMNS))
    return f"insert into ledger_records ({_named(_COLUMNS)}) values ({marks}) on conflict do nothing"  # noqa: S608 - own


def _named(columns: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in columns)


# -- SQLite -----------------------------------------------------------------------------------------------------------


def _kind(values: Sequence[Any]) -> int:
    first = values[0]
    if values.count(first) < len(values):
        return _VARIED
    return _NOTHING if first is None else _SHARED


def _statement(columns: _Columns, kinds: tuple[int, ...]) -> tuple[str, tuple[Any, ...]]:
    """With its values: first the shared ones, then row by row."""
    shared = [values[0] for kind, values in zip(kinds, columns.values(), strict=True) if kind == _SHARED]
    varied = [values for kind, values in zip(kinds, columns.values(), strict=True) if kind == _VARIED]
    rows = len(columns["hash"])
    return _choosing(kinds, rows), (*shared, *chain.from_iterable(zip(*varied, strict=True)))


@lru_cache(maxsize=32)
def _choosing(kinds: tuple[int, ...], rows: int) -> str:
    shared = [name for kind, name in zip(kinds, _COLUMNS, strict=True) if kind == _SHARED]
    varied = [name for kind, name in zip(kinds, _COLUMNS, strict=True) if kind == _VARIED]
    row = f"({', '.join('?' * len(varied))})" if varied else "(null)"
    chosen = [*("?" * len(shared)), *(f"column{number + 1}" for number in range(len(varied)))]
    return (
        f"insert into ledger_records ({_named([*shared, *varied])}) select {', '.join(chosen)} "  # noqa: S608 - own names
        f"from (values {', '.join([row] * rows)}) where true on conflict do nothing"
    )
