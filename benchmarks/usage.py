"""`python -m benchmarks.usage [--records N]`: how long reports of a month take beside so many records (SQLite).

Records are made by one SQL statement, as a month of 50 tenants with 5 models each; their daily sums by another, as
`router.ledger.usage` keeps them while records come in. Then the commands are run as an operator does, and, for
comparison, what a report would take that reads the records. The goal is issue 6's: a month of 10^7 records in 2 s.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from sqlalchemy import insert

from router.database.engine import Database
from router.database.tables import endpoint_days, usage_days
from router.ledger.store import LedgerStore
from router.ledger.usage import DAY_SECONDS, UsageTables

GOAL = 2.0  # seconds
FIRST_DAY, DAYS = 20_820, 30  # 2027-01-02
TENANTS, MODELS, ENDPOINTS = 50, 5, 4
SPAN = ("--from", "2027-01-02", "--to", "2027-02-01")
_HOUR = 3_600_000_000

_RECORDS = f"""
with recursive numbers(n) as (select 1 union all select n + 1 from numbers where n < :records)
insert into ledger_records (replica, sequence, kind, at, tenant, tier, key, request_id, api, model, engine_model, pool,
  endpoint, lane, stream, outcome, status, finish_reason, prompt_tokens, cached_tokens, completion_tokens, usage_from,
  queue_seconds, first_byte_seconds, total_seconds, attempts, resumes, prefix_hash, engine_micro_seconds, cost_micro,
  previous, hash)
select 'bench-1', n, 'request', {FIRST_DAY * DAY_SECONDS} + n * {DAYS * DAY_SECONDS - 1}.0 / :records,
  'tenant-' || (n % {TENANTS}), 'gold', 'main', printf('%032x', n), 'chat', 'model-' || (n / {TENANTS} % {MODELS}),
  'Qwen/Qwen2-7B-Instruct', 'pool-' || (n / {TENANTS} % {MODELS}), 'e-' || (n % {ENDPOINTS}), 'short', 1,
  iif(n % 100, 'complete', 'failed'), 200, 'stop', n * 31 % 4000, n * 31 % 4000 / 2, n * 17 % 600, 'engine', 0.01, 0.2,
  1.5, 1, 0, printf('%032x', n * 31), n * 13 % 300000, n * 11 % 5000, zeroblob(32), zeroblob(32)
from numbers
"""  # noqa: S608 - own numbers


def configuration(folder: Path) -> Path:
    """Of a gateway with all of these tenants and pools."""
    models = {f"model-{one}": {"pool": f"pool-{one}"} for one in range(MODELS)}
    config = {
        "state": {"ledger_url": f"sqlite:///{folder}/ledger.db"},
        "tenants": {
            f"tenant-{one}": {"api_keys": [{"id": "main", "sha256": f"{one:064x}"}], "models": models}
            for one in range(TENANTS)
        },
        "pools": {
            f"pool-{pool}": {
                "shared": True,
                "endpoints": [
                    {"name": f"e-{pool}-{one}", "url": f"http://127.0.0.1:{1 + pool * ENDPOINTS + one}"}
                    for one in range(ENDPOINTS)
                ],
            }
            for pool in range(MODELS)
        },
    }
    path = folder / "promptlane.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def fill(database: Database, records: int) -> None:
    """Records, then their sums by day and those of endpoints."""
    with database.writing() as connection:
        connection.exec_driver_sql(_RECORDS, {"records": records})
    sums = UsageTables(database).recounted(FIRST_DAY, FIRST_DAY + DAYS)
    kept = [
        (FIRST_DAY + day, f"pool-{pool}", f"e-{pool}-{one}", "hot", 24 * _HOUR, 0, 0, 24 * _HOUR, 48_000_000)
        for day in range(DAYS)
        for pool in range(MODELS)
        for one in range(ENDPOINTS)
    ]
    with database.writing() as connection:
        connection.execute(insert(usage_days), [one._asdict() for one in sums])
        names = [column.name for column in endpoint_days.columns]
        connection.execute(insert(endpoint_days), [dict(zip(names, row, strict=True)) for row in kept])


def seconds(work: Callable[[], object]) -> float:
    """Of the wall clock."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def command(*arguments: str) -> tuple[float, str]:
    """As an operator runs it, with Python's start: for how many seconds, and what it prints."""
    argv = [sys.executable, "-m", "router.cli", *arguments, *SPAN]
    began = time.perf_counter()
    ran = subprocess.run(argv, capture_output=True, text=True, check=True)
    return time.perf_counter() - began, ran.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--records", type=int, default=1_000_000, metavar="N", help="how many (default: a million)")
    parser.add_argument("--folder", metavar="DIR", help="where the database is made, some 600 bytes a record")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as made:
        folder = Path(made)
        config = str(configuration(folder))
        store = LedgerStore(Database(f"sqlite:///{folder}/ledger.db", 3600.0), b"")
        store.prepare()
        took = seconds(lambda: fill(store.database, options.records))
        size = (folder / "ledger.db").stat().st_size / 2**20
        print(f"{options.records} records of {DAYS} days made in {took:.0f} s, {size:.0f} MiB")
        print(f"{'report of the month':<44}{'s':>8}{'goal':>8}")
        worst = 0.0
        for name, arguments in {
            "promptlane usage": ("usage",),
            "promptlane usage --by day --format csv": ("usage", "--by", "day", "--format", "csv"),
            "promptlane cost": ("cost",),
            "promptlane cost --by day --format json": ("cost", "--by", "day", "--format", "json"),
        }.items():
            took, _ = command(*arguments, "--config", config)
            worst = max(worst, took)
            print(f"{name:<44}{took:>8.2f}{GOAL:>8.1f}{'' if took <= GOAL else '  MISSED'}")
        took, counted = command("usage", "--from-records", "--config", config)
        print(f"{'promptlane usage --from-records':<44}{took:>8.2f}")
        same = counted == command("usage", "--config", config)[1]
        print(f"which {'says the same' if same else 'DIFFERS'}, in {len(counted.splitlines())} lines")
        store.database.close()
    return int(worst > GOAL or not same)


if __name__ == "__main__":
    sys.exit(main())
