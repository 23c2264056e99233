"""What records add up to each day, by tenant and model and by endpoint: reports read these sums and no records.

Floor: an adapter over `router.database`; blocks. Sums change in the transaction that puts the records in, so a record
is in them exactly once. Days are UTC, counted from 1970-01-01; a record belongs to that of its end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Table, case, cast, func, select
from sqlalchemy.types import BigInteger

from router.database.engine import Database
from router.database.tables import endpoint_days, ledger_records, usage_days
from router.wire.record import Ending, Kind, Record

DAY_SECONDS = 86_400
_FAILED = frozenset({Ending.FAILED.value, Ending.INTERRUPTED.value})
_REFUSED, _REQUEST = Ending.REFUSED.value, Kind.REQUEST.value


class Usage(NamedTuple):
    """Of one day, tenant, model and pool; as the table has it. `requests`: all, also the `failed` and `refused` ones.
    Tokens are of requests that an engine has worked on; `cost_micro`: what the records say."""

    day: int
    tenant: str
    model: str
    pool: str
    requests: int
    failed: int
    refused: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    engine_micro_seconds: int
    cost_micro: int


class EndpointTime(NamedTuple):
    """Of one day and endpoint, in microseconds: there, asleep or absent; `engine_micro_seconds`: what is paid of that.
    `cost_micro`: and what it cost."""

    day: int
    pool: str
    endpoint: str
    role: str
    awake: int
    asleep: int
    absent: int
    engine_micro_seconds: int
    cost_micro: int


def add_up(connection: Connection, records: Iterable[Record]) -> None:
    """Adds records that are new in the database. Always in the order of keys, so that writers do not deadlock."""
    usage: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 8)
    endpoints: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 5)
    for record in records:
        day = int(record.at // DAY_SECONDS)
        if record.kind == _REQUEST:
            _count(usage[day, record.tenant or "", record.model or "", record.pool or ""], record)
        elif record.kind == Kind.ENDPOINT.value:
            detail = record.detail or {}
            key = (day, record.pool or "", record.endpoint or "", str(detail.get("role", "")))
            times = [int(detail.get(name, 0)) for name in ("awake", "asleep", "absent")]
            _add(endpoints[key], (*times, record.engine_micro_seconds, record.cost_micro))
    _upsert(connection, usage_days, 4, usage)
    _upsert(connection, endpoint_days, 4, endpoints)


def _count(sums: list[int], record: Record) -> None:
    """Adds a request; written out, as this is done for each."""
    sums[0] += 1
    if record.outcome in _FAILED:
        sums[1] += 1
    elif record.outcome == _REFUSED:
        sums[2] += 1
    if record.usage_from == "engine" or record.engine_micro_seconds:  # else only estimated: no engine has had it
        sums[3] += record.prompt_tokens or 0
        sums[4] += record.cached_tokens or 0
        sums[5] += record.completion_tokens or 0
    sums[6] += record.engine_micro_seconds
    sums[7] += record.cost_micro


def _add(sums: list[int], more: Sequence[int]) -> None:
    for place, number in enumerate(more):
        sums[place] += number


def _upsert(connection: Connection, table: Table, keys: int, sums: Mapping[tuple[Any, ...], list[int]]) -> None:
    if not sums:
        return
    names = [column.name for column in table.columns]
    mark = "?" if connection.dialect.paramstyle == "qmark" else "%s"
    adding = ", ".join(f"{name} = {table.name}.{name} + excluded.{name}" for name in names[keys:])
    statement = (
        f"insert into {table.name} ({', '.join(names)}) values ({', '.join([mark] * len(names))}) "  # noqa: S608 - own
        f"on conflict ({', '.join(names[:keys])}) do update set {adding}"
    )
    connection.exec_driver_sql(statement, [(*key, *sums[key]) for key in sorted(sums)])


class UsageTables:
    """The sums of one database. Every method raises DatabaseAway. Days: from `since`, before `until`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def usage(self, since: int, until: int, tenant: str | None = None) -> list[Usage]:
        """Of all tenants, or of that one alone."""
        table = usage_days
        query = select(table).where(table.c.day >= since, table.c.day < until)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        return [Usage(*row) for row in self._rows(query.order_by(*table.primary_key))]

    def endpoints(self, since: int, until: int) -> list[EndpointTime]:
        table = endpoint_days
        query = select(table).where(table.c.day >= since, table.c.day < until)
        return [EndpointTime(*row) for row in self._rows(query.order_by(*table.primary_key))]

    def recounted(self, since: int, until: int) -> list[Usage]:
        """The same as `usage`, from the records themselves: reads all of them."""
        table = ledger_records
        query = self._grouped().where(
            table.c.kind == Kind.REQUEST.value,
            table.c.at >= since * DAY_SECONDS,
            table.c.at < until * DAY_SECONDS,
        )
        return sorted(Usage(*row[:4], *map(int, row[4:])) for row in self._rows(query))

    def _grouped(self) -> Select[Any]:
        table = ledger_records
        days = table.c.at / DAY_SECONDS
        day = cast(days if self._database.file is not None else func.floor(days), BigInteger).label("day")
        keys = [day, *(func.coalesce(table.c[name], "").label(name) for name in ("tenant", "model", "pool"))]
        worked = (table.c.usage_from == "engine") | (table.c.engine_micro_seconds > 0)
        tokens = [
            func.sum(case((worked, func.coalesce(table.c[name], 0)), else_=0))
            for name in ("prompt_tokens", "cached_tokens", "completion_tokens")
        ]
        return select(
            *keys,
            func.count(),
            func.sum(case((table.c.outcome.in_(sorted(_FAILED)), 1), else_=0)),
            func.sum(case((table.c.outcome == Ending.REFUSED.value, 1), else_=0)),
            *tokens,
            func.sum(table.c.engine_micro_seconds),
            func.sum(table.c.cost_micro),
        ).group_by(*keys)

    def _rows(self, query: Select[Any]) -> Sequence[Any]:
        with self._database.reading() as connection:
            return connection.execute(query).all()
