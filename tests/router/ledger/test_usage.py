"""Daily sums on SQLite and a real PostgreSQL: always what the records themselves add up to.

Floor: tests only.
"""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, text

from policies.ledger.retention import Retention
from router.database.engine import Database
from router.database.migrate import MIGRATIONS
from router.database.tables import endpoint_days, ledger_chains, ledger_records, usage_days
from router.ledger.runs import Run
from router.ledger.store import LedgerStore
from router.ledger.usage import DAY_SECONDS, UsageTables
from router.wire.record import Record
from tests.router.ledger.records import AT, KEY, REPLICA, chained, request

EVER = (0, 10**6)
DAY = int(AT // DAY_SECONDS)

counts = st.none() | st.integers(0, 2**40)
any_request = st.builds(
    Record,
    replica=st.just(""),
    sequence=st.just(0),
    kind=st.just("request"),
    at=st.floats(AT, AT + 3 * DAY_SECONDS),
    tenant=st.sampled_from(["acme", "globex"]),
    model=st.sampled_from(["big", "small", None]),
    pool=st.sampled_from(["one", None]),
    outcome=st.sampled_from(["complete", "client_left", "interrupted", "failed", "refused"]),
    prompt_tokens=counts,
    cached_tokens=counts,
    completion_tokens=counts,
    usage_from=st.sampled_from(["engine", "estimate", None]),
    engine_micro_seconds=st.integers(0, 2**50),
    cost_micro=st.integers(0, 2**50),
)


def clear(store: LedgerStore) -> None:
    with store.database.writing() as connection:
        for table in (ledger_records, ledger_chains, usage_days, endpoint_days):
            connection.execute(delete(table))


@settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=25
)
@given(records=st.lists(any_request, min_size=1, max_size=12), cuts=st.lists(st.integers(0, 12), max_size=4))
def test_sums_are_what_the_records_add_up_to_however_often_they_are_sent(
    store: LedgerStore, records: list[Record], cuts: list[int]
) -> None:
    clear(store)
    sent, tables = chained(records), UsageTables(store.database)
    for cut in [*cuts, len(sent)]:
        if sent[:cut]:
            store.put(REPLICA, Run.of(sent[:cut]))
    found = tables.usage(*EVER)
    assert found == tables.recounted(*EVER)
    assert sum(one.requests for one in found) == len(records)
    assert sum(one.cost_micro for one in found) == sum(record.cost_micro for record in records)
    assert tables.usage(*EVER, "acme") == [one for one in found if one.tenant == "acme"]


def test_a_day_is_one_in_utc_and_the_last_is_not_included(store: LedgerStore) -> None:
    midnight = (DAY + 1) * DAY_SECONDS
    store.put(REPLICA, Run.of(chained([request("a", midnight - 0.001), request("b", float(midnight))])))
    tables = UsageTables(store.database)
    assert [(one.day, one.requests) for one in tables.usage(*EVER)] == [(DAY, 1), (DAY + 1, 1)]
    assert [one.day for one in tables.usage(DAY, DAY + 1)] == [DAY]
    assert tables.usage(DAY + 2, DAY + 9) == []


def test_tokens_that_no_engine_has_had_do_not_count(store: LedgerStore) -> None:
    refused = request("r", outcome="refused", prompt_tokens=1000, usage_from="estimate")
    broken = request("b", outcome="failed")
    left = request("l", outcome="client_left", prompt_tokens=10, usage_from="estimate", engine_micro_seconds=5)
    store.put(REPLICA, Run.of(chained([refused, broken, left])))
    (one,) = UsageTables(store.database).usage(*EVER)
    assert (one.requests, one.refused, one.failed, one.prompt_tokens) == (3, 1, 1, 10)


def test_the_time_of_endpoints_adds_up(store: LedgerStore) -> None:
    def period(awake: int, asleep: int) -> Record:
        detail = {"role": "warm", "awake": awake, "asleep": asleep, "absent": 1, "hourly_cost": 2.5}
        return Record(
            "", 0, "endpoint", AT, pool="one", endpoint="e0", detail=detail,
            engine_micro_seconds=awake + asleep, cost_micro=7,
        )  # fmt: skip

    sent = chained([period(60, 0), period(0, 50)])
    store.put(REPLICA, Run.of(sent))
    store.put(REPLICA, Run.of(sent))
    (one,) = UsageTables(store.database).endpoints(*EVER)
    assert one == (DAY, "one", "e0", "warm", 60, 50, 2, 110, 14)
    assert UsageTables(store.database).usage(*EVER) == [], "it is no request"


def test_sums_stay_when_records_are_deleted(store: LedgerStore) -> None:
    store.put(REPLICA, Run.of(chained([request(number) for number in range(5)])))
    assert store.prune(Retention(days=1.0), AT + 10 * DAY_SECONDS) == 5
    assert [one.requests for one in UsageTables(store.database).usage(*EVER)] == [5]


def test_records_of_an_older_program_are_added_up_when_its_database_is_brought_up_to_date(database_url: str) -> None:
    database = Database(database_url, 20.0)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    database.make_file()
    row = (
        "insert into ledger_records (replica, sequence, kind, at, tenant, model, pool, stream, status, attempts, "
        "resumes, outcome, prompt_tokens, usage_from, previous, hash) values ('r', {}, '{}', {}, 'acme', 'big', null, "
        "false, 200, 1, 0, '{}', 7, '{}', '', '')"
    )
    with database.writing() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0002")
        for number, (kind, outcome, usage) in enumerate([
            ("request", "complete", "engine"), ("request", "refused", "estimate"), ("failover", "moved", "engine"),
        ]):  # fmt: skip
            connection.execute(text(row.format(number + 1, kind, AT + 0.75, outcome, usage)))
    store = LedgerStore(database, KEY)
    store.prepare()
    tables = UsageTables(database)
    assert tables.usage(*EVER) == tables.recounted(*EVER)
    assert tables.usage(*EVER) == [(DAY, "acme", "big", "", 2, 0, 1, 7, 0, 0, 0, 0)]
    database.close()
