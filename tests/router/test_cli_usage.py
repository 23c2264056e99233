"""`promptlane usage` and `promptlane cost`: what they print, what they refuse; and `GET /v1/usage`'s answers.

Floor: tests only.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from router.database.engine import Database
from router.errors import BadRequest, DatabaseUnavailable, InvalidKey
from router.ledger.runs import Run
from router.ledger.store import LedgerStore
from router.ledger.usage import DAY_SECONDS, UsageTables
from router.tenants import ApiKey, Identity
from router.usage_api import TenantUsage
from router.wire.record import Record
from tests.router.ledger.records import AT, KEY, REPLICA, chained, request
from tests.router.test_assembly import changed
from tests.router.test_cli import ran, written

FIRST, LAST = "2027-01-15", "2027-01-17"  # AT is on the first
HOUR = 3_600_000_000


def answered(name: str, day: int = 0, **more: Any) -> Record:
    tokens = {"prompt_tokens": 3_000_000, "cached_tokens": 1_000_000, "completion_tokens": 1_000_000}
    fields = {"model": "big", "pool": "one", "outcome": "complete", "usage_from": "engine", **tokens, **more}
    return request(name, AT + day * DAY_SECONDS, engine_micro_seconds=HOUR, cost_micro=1_500_000, **fields)


def kept(pool: str, hours: int, cost: int) -> Record:
    detail = {"role": "hot", "awake": hours * HOUR, "asleep": 0, "absent": 0, "hourly_cost": 2.0}
    return Record(
        "", 0, "endpoint", AT, pool=pool, endpoint=f"{pool}-0", detail=detail,
        engine_micro_seconds=hours * HOUR, cost_micro=cost,
    )  # fmt: skip


@pytest.fixture
def store(tmp_path: Path) -> LedgerStore:
    made = LedgerStore(Database(f"sqlite:///{tmp_path}/ledger.db", 20.0), KEY)
    made.prepare()
    records = [
        answered("a"),
        answered("b", 1),
        answered("r", outcome="refused", usage_from="estimate"),
        answered("g", tenant="globex", model="other", pool="two"),
        kept("one", 8, 16_000_000),
        kept("two", 4, 8_000_001),
    ]
    records[2].engine_micro_seconds = records[2].cost_micro = 0
    made.put(REPLICA, Run.of(chained(records)))
    return made


@pytest.fixture
def config(tmp_path: Path, store: LedgerStore, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PROMPTLANE_CONFIG", raising=False)
    return written(tmp_path, changed(state__ledger_url=f"sqlite:///{tmp_path}/ledger.db"))


def printed(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    status, out, err = ran(capsys, *arguments, "--from", FIRST, "--to", LAST)
    assert (status, err) == (0, "")
    return out


def test_usage_has_a_row_for_each_tenant_and_model(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    found = json.loads(printed(capsys, "usage", "--config", config, "--format", "json"))
    assert found["rows"][0] == {
        "tenant": "acme", "model": "big", "requests": 3, "failed": 0, "refused": 1, "prompt_tokens": 6_000_000,
        "cached_tokens": 2_000_000, "completion_tokens": 2_000_000, "cost_micro_usd": 3_000_000,
    }  # fmt: skip
    assert [row["tenant"] for row in found["rows"]] == ["acme", "globex"]
    assert found["total"]["cost_micro_usd"] == 4_500_000
    assert (found["from"], found["to"]) == (FIRST, LAST)
    again = json.loads(printed(capsys, "usage", "--config", config, "--format", "json", "--from-records"))
    assert again == found


def test_usage_by_day_and_of_one_tenant(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    out = printed(capsys, "usage", "--config", config, "--format", "csv", "--by", "day", "--tenant", "acme")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["day"], row["tenant"], row["requests"]) for row in rows] == [
        ("2027-01-15", "acme", "2"),
        ("2027-01-16", "acme", "1"),
    ]
    table = printed(capsys, "usage", "--config", config).splitlines()
    assert table[0] == f"From {FIRST} up to {LAST} (UTC), that day not included."
    assert table[-1].split() == ["all", "-", "4", "0", "1", "9000000", "3000000", "3000000", "4.500000"]


def test_cost_is_all_that_endpoints_cost(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    found = json.loads(printed(capsys, "cost", "--config", config, "--format", "json", "--api-price", "1:2:0.5"))
    assert found["total"]["cost_micro_usd"] == 24_000_001
    row = next(row for row in found["rows"] if row["tenant"] == "acme" and row["model"] == "big")
    assert (row["endpoint_hours"], row["work_hours"], row["billed_micro_usd"]) == (8.0, 2.0, 3_000_000)
    assert row["utilisation"] == 0.25
    assert row["micro_usd_per_million_tokens"] == 2_000_000
    assert row["floor_micro_usd_per_million_tokens"] == 250_000, "of the day of which endpoints' time is known"
    assert row["api_micro_usd"] == 4_000_000 + 1_000_000 + 4_000_000
    # Pool two is acme's alone, and only its: globex, who was let in, bears nothing of it.
    assert {(one["tenant"], one["model"]): one["cost_micro_usd"] for one in found["rows"]} == {
        ("acme", "big"): 16_000_000,
        ("acme", "small"): 8_000_001,
        ("globex", "other"): 0,
    }
    table = printed(capsys, "cost", "--config", config, "--api-price", "1:2", "--tenant", "acme")
    assert "per_million" in table
    assert "24.000001" in table


def test_cost_solves_backwards(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    asked = ("cost", "--config", config, "--model", "big", "--demand", "100M", "--budget", "50", "--utilisation", "0.5")
    found = json.loads(printed(capsys, *asked, "--format", "json"))["plan"]
    # 4 million tokens an hour of work, half of the day: 48 million a day each, at 48.00.
    assert found["demand"] == {
        "endpoints": 3,
        "tokens_per_day": 144_000_000,
        "micro_usd_per_day": 144_000_000,
        "micro_usd_per_million_tokens": 1_000_000,
    }
    assert found["budget"]["endpoints"] == 1
    said = printed(capsys, *asked).splitlines()
    assert said[-1] == "The budget is not enough for the demand."
    assert said[-3].startswith("100000000 tokens a day need 3 endpoints")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("usage", "--from", "yesterday"), 1, "--from: expected a day"),
        (("usage", "--from", "2027-02-01", "--to", "2027-01-01"), 1, "--to: expected a day not before"),
        (("cost", "--demand", "1M", "--from", "2020-01-01", "--to", "2020-01-02"), 1, "nothing is known"),
        (("cost", "--demand", "1M", "--format", "csv"), 1, "--format csv"),
        (("cost", "--demand", "0.5"), 2, "a whole number of 1 or more"),
        (("cost", "--demand", "k"), 2, "expected a number"),
        (("cost", "--budget", "nan"), 2, "expected a number"),
        (("cost", "--api-price", "1"), 2, "two or three numbers"),
        (("cost", "--utilisation", "0"), 2, "above 0"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], config: Path, arguments: tuple[str, ...], status: int, said: str
) -> None:
    found, out, err = ran(capsys, arguments[0], "--config", config, *arguments[1:])
    assert (found, out) == (status, "")
    assert said in err


def test_without_a_ledger_there_is_no_usage(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = ran(capsys, "usage", "--config", written(tmp_path, changed()))
    assert status == 1
    assert "No records are kept" in err


# -- GET /v1/usage


def identity(tenant: str = "acme", models: frozenset[str] | None = None) -> Identity:
    from types import SimpleNamespace
    from typing import cast

    key = ApiKey("main", tenant, b"", models=models)
    return Identity(cast("Any", SimpleNamespace(id=tenant)), key)


def asking(store: LedgerStore, timeout: float = 20.0) -> TenantUsage:
    return TenantUsage(UsageTables(store.database), timeout, lambda: AT)


async def test_a_tenant_is_told_of_its_own_usage_whatever_it_asks(store: LedgerStore) -> None:
    asked = asking(store)
    query = f"from={FIRST}&to={LAST}&tenant=globex".encode()
    found = json.loads(await asked.answer(identity(), query))
    assert [(row["tenant"], row["model"], row["requests"]) for row in found["rows"]] == [("acme", "big", 3)]
    assert found["rows"][0]["cost_micro_usd"] == 3_000_000
    today = json.loads(await asked.answer(identity(), b"by=day"))
    assert [(row["day"], row["requests"]) for row in today["rows"]] == [("2027-01-15", 2)]
    other = json.loads(await asked.answer(identity("globex"), query))
    assert {row["tenant"] for row in other["rows"]} == {"globex"}
    scoped = json.loads(await asked.answer(identity(models=frozenset({"small"})), query))
    assert scoped["rows"] == [], "a key knows nothing of models that it may not use"
    asked.close()


@pytest.mark.parametrize(
    ("query", "param"),
    [(b"from=x", "from"), (b"to=2027-99-01", "to"), (b"by=hour", "by"), (b"a=1&" * 50, None), (b"from=%ff", "from")],
)
async def test_what_is_no_question_is_refused_by_its_field(store: LedgerStore, query: bytes, param: str | None) -> None:
    asked = asking(store)
    with pytest.raises(BadRequest) as refused:
        await asked.answer(identity(), query)
    assert refused.value.param == param
    asked.close()


async def test_an_anonymous_host_tells_nobody_of_its_tenants_usage(store: LedgerStore) -> None:
    asked = asking(store)
    with pytest.raises(InvalidKey):
        await asked.answer(Identity(identity().tenant, None), b"")
    asked.close()


async def test_a_database_that_is_away_is_told_as_that(store: LedgerStore, tmp_path: Path) -> None:
    (tmp_path / "ledger.db").rename(tmp_path / "aside.db")
    asked = asking(store)
    with pytest.raises(DatabaseUnavailable):
        await asked.answer(identity(), b"")
    asked.close()
