"""`promptlane ledger`: what it prints, what it refuses, and its exit status."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from policies.ledger.chain import Mark, fingerprint
from router.database.engine import Database
from router.database.tables import ledger_records
from router.ledger.mover import Mover
from router.ledger.spool import Spool
from router.ledger.store import LedgerStore
from router.secret import ledger_key
from router.wire.record import Record
from tests.router.ledger.records import AT, request
from tests.router.test_assembly import changed
from tests.router.test_cli import ran, written

SECRET = "a secret for tests, 32 characters"
KEY = ledger_key(SECRET.encode())
REPLICA = f"{fingerprint(KEY)}-0123456789ab"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROMPTLANE_CONFIG", raising=False)
    monkeypatch.setenv("PROMPTLANE_SECRET", SECRET)


@pytest.fixture
def store(tmp_path: Path) -> LedgerStore:
    made = LedgerStore(Database(f"sqlite:///{tmp_path}/ledger.db", 20.0), KEY)
    made.prepare()
    return made


@pytest.fixture
def config(tmp_path: Path, store: LedgerStore) -> Path:
    """Of a gateway that has answered two requests and failed over once."""
    folder = tmp_path / "spool" / REPLICA
    folder.mkdir(parents=True)
    spool = Spool(folder, REPLICA, KEY, Mark(), 2**20)
    move = {"from": "hot", "to": "warm", "cause": "nobody"}
    spool.append([
        request("a", model="big", outcome="complete", prompt_tokens=12, total_seconds=0.25),
        Record("", 0, "failover", AT + 60, tenant="acme", pool="p", outcome="moved", detail=move),
        request("b", AT + 120, tenant="globex"),
    ])  # fmt: skip
    Mover(folder, KEY, store).move()
    places = {"state__ledger_url": f"sqlite:///{tmp_path}/ledger.db", "ledger__spool_dir": str(tmp_path / "spool")}
    return written(tmp_path, changed(**places))


def listed(capsys: pytest.CaptureFixture[str], config: Path, *arguments: str) -> list[dict[str, Any]]:
    status, out, err = ran(capsys, "ledger", "list", "--config", config, "--format", "json", *arguments)
    assert (status, err) == (0, "")
    found: list[dict[str, Any]] = json.loads(out)["records"]
    return found


def test_records_are_listed_as_a_table(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out, _ = ran(capsys, "ledger", "list", "--config", config)
    head, first, second, _ = out.splitlines()
    assert status == 0
    assert head.split()[:4] == ["time", "kind", "tenant", "model"]
    cells = "2027-01-15T08:00:00Z request acme big - - complete 200 12 - 0.250 -"
    assert first.split() == cells.split()
    assert second.endswith("cause=nobody from=hot to=warm")


def test_records_are_listed_by_kind_tenant_and_time_as_json(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    (failover,) = listed(capsys, config, "--kind", "failover", "--tenant", "acme")
    assert failover["detail"] == {"from": "hot", "to": "warm", "cause": "nobody"}
    assert failover["time"] == "2027-01-15T08:01:00Z"
    assert listed(capsys, config, "--kind", "failover", "--tenant", "globex") == []
    assert [one["request_id"] for one in listed(capsys, config, "--from", "2027-01-15T08:01:30Z")] == ["b"]
    assert [one["request_id"] for one in listed(capsys, config, "--to", "2027-01-15T08:00:30Z")] == ["a"]
    assert [one["request_id"] for one in listed(capsys, config, "--limit", "1")] == ["b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--from", "yesterday"], "--from: expected a date"),
        (["--to", "2027-01-15T08:00:00"], "--to: expected a date"),
        (["--limit", "0"], "--limit: expected a number"),
    ],
)
def test_what_was_asked_wrongly_is_said(
    capsys: pytest.CaptureFixture[str], config: Path, arguments: list[str], said: str
) -> None:
    status, out, err = ran(capsys, "ledger", "list", "--config", config, *arguments)
    assert (status, out) == (1, "")
    assert said in err


def test_without_a_ledger_that_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    status, _, err = ran(capsys, "ledger", "list", "--config", written(tmp_path, changed()))
    assert status == 1
    assert "state.ledger_url" in err


def test_a_whole_chain_is_said_to_be_one(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    for where in ([], ["--spool"]):
        status, out, _ = ran(capsys, "ledger", "verify", "--config", config, "--tenant", "acme", *where)
        assert status == 0
        assert out.splitlines() == [
            f"{REPLICA}: records 1 to 3, 2027-01-15T08:00:00Z to 2027-01-15T08:02:00Z, 2 of acme: whole",
            "1 of 1 chains are whole.",
        ]


def test_a_broken_chain_is_said_with_its_place_and_the_status_says_so_too(
    capsys: pytest.CaptureFixture[str], config: Path, store: LedgerStore
) -> None:
    with store.database.writing() as connection:
        connection.execute(delete(ledger_records).where(ledger_records.c.sequence == 2))
    status, out, _ = ran(capsys, "ledger", "verify", "--config", config)
    assert status == 1
    assert "records 1 to 1, 2027-01-15T08:00:00Z to 2027-01-15T08:00:00Z: BROKEN: record 2 is missing" in out
    status, out, _ = ran(capsys, "ledger", "verify", "--config", config, "--format", "json")
    (chain,) = json.loads(out)["chains"]
    assert (status, chain["whole"], chain["sequence"], chain["why"], chain["records"]) == (1, False, 2, "missing", 1)


@pytest.mark.parametrize("damage", ["changed", "torn"])
def test_a_spool_is_verified_by_itself_alone(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, damage: str
) -> None:
    (file,) = (tmp_path / "spool" / REPLICA).glob("*.log")
    data = file.read_bytes()
    file.write_bytes(data[:-9] if damage == "torn" else data.replace(b'"to":"warm"', b'"to":"cold"'))
    (tmp_path / "ledger.db").unlink()
    status, out, _ = ran(capsys, "ledger", "verify", "--config", config, "--spool")
    assert status == 1
    assert ("record 3 is missing" if damage == "torn" else "record 2 is not as it was written") in out


def test_a_replica_that_there_is_not_is_said(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, _, err = ran(capsys, "ledger", "verify", "--config", config, "--replica", "nobody")
    assert status == 1
    assert "nobody" in err
    assert ran(capsys, "ledger", "verify", "--config", config, "--replica", REPLICA)[0] == 0


def test_with_another_secret_nothing_is_verified_and_without_one_none_is_made(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTLANE_SECRET", "another secret, as long as that one")
    status, out, _ = ran(capsys, "ledger", "verify", "--config", config)
    assert status == 1
    assert "another secret" in out
    monkeypatch.delenv("PROMPTLANE_SECRET")
    monkeypatch.chdir(tmp_path)
    status, _, err = ran(capsys, "ledger", "verify", "--config", config)
    assert status == 1
    assert "PROMPTLANE_SECRET" in err
    assert not (tmp_path / "promptlane.secret").exists()


@pytest.mark.parametrize("command", [("ledger", "list"), ("ledger", "verify"), ("usage",), ("cost",)])
def test_reports_of_a_database_that_does_not_exist_name_it_and_do_not_make_it(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, config: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "ledger.db"
    file.unlink()
    status, out, err = ran(capsys, *command, "--config", config)
    assert (status > 0, out) == (True, "")
    assert f"does not exist: '{file}'" in err
    assert not file.exists()
