"""The ledger of real processes: killed, cut off from their database, on a full disk; and what the command shows of it.

Floor: tests only; what stands behind the gateways does not matter.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import select

from router.database.engine import Database
from router.database.errors import DatabaseAway
from router.database.tables import ledger_records
from router.ledger.store import LedgerStore, Wanted
from router.wire.record import Record
from tests.router.gateway_process import ROOT, SECRET, Engines, Gateway, configuration
from tests.router.stack import read_answer
from tests.servers import PostgresServer, ServerFailed, bring_back, start_postgres, take_away

ASK = {"model": "qwen", "messages": [{"role": "user", "content": "who keeps the books?"}]}
SLOW = 60.0
"""Seconds for what takes a fraction of a second on a machine that is not busy."""
SAFE_SECONDS = 1.0
"""What was answered so long ago is never lost."""


@pytest.fixture(scope="module")
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    if request.config.getoption("--engine") != "sim":
        pytest.skip("records are the same whatever engine answers")
    made = Engines("e0", "e1")
    yield made
    made.stop()


@dataclass
class Books:
    """A folder with a spool, a database, and the gateway that serves now."""

    folder: Path
    config: dict[str, Any]
    database: PostgresServer | Path
    gateway: Gateway | None = None

    @property
    def url(self) -> str:
        return self.database.url if isinstance(self.database, PostgresServer) else f"sqlite:///{self.database}"

    def start(self) -> Gateway:
        self.gateway = Gateway(self.folder, self.config, PROMPTLANE_SECRET=SECRET).wait_ready()
        self.gateway.wait_healthy("e0")
        return self.gateway

    def stop(self) -> None:
        if self.gateway is not None:
            self.gateway.stop()
            self.gateway = None

    def kill(self) -> None:
        assert self.gateway is not None
        self.gateway.signal(signal.SIGKILL)
        self.gateway.process.wait(SLOW)
        self.gateway = None

    def recorded(self) -> Counter[str]:
        """How often each request is in the database."""
        database = Database(self.url, 20.0)
        try:
            with database.reading() as connection:
                wanted = select(ledger_records.c.request_id).where(ledger_records.c.kind == "request")
                return Counter(map(str, connection.execute(wanted).scalars()))
        finally:
            database.close()

    def command(self, *arguments: str, status: int = 0) -> str:
        """What `promptlane ledger …` prints, or `usage` and `cost`."""
        room = [] if arguments[0] in ("usage", "cost") else ["ledger"]
        config = str(self.folder / "promptlane.yaml")
        argv = [sys.executable, "-m", "router.cli", *room, arguments[0], "--config", config]
        env = {**os.environ, "PROMPTLANE_SECRET": SECRET}
        ran = subprocess.run([*argv, *arguments[1:]], cwd=ROOT, env=env, capture_output=True, text=True, timeout=SLOW)
        assert (ran.returncode, ran.stderr) == (status, ""), ran.stdout + ran.stderr
        return ran.stdout

    def listed(self, *arguments: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.command("list", "--format", "json", *arguments))["records"]
        return found

    def found(self, kind: str) -> list[Record]:
        """Acme's of that kind, without the time that a command takes to start."""
        store = LedgerStore(Database(self.url, 20.0), b"")
        try:
            return store.find(Wanted(kind=kind, tenant="acme"), 100)
        finally:
            store.database.close()

    def until(self, condition: Any, what: str) -> None:
        end = time.monotonic() + SLOW
        while not condition():
            assert time.monotonic() < end, f"{what}\n{self.gateway.output if self.gateway is not None else ''}"
            time.sleep(0.05)

    def metric(self, row: str) -> float:
        assert self.gateway is not None
        text = self.gateway.admin("/metrics").text
        rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return sum(float(value) for name, value in rows if name == row)

    def go_away(self) -> None:
        take_away(self.database)

    def come_back(self) -> None:
        bring_back(self.database)


def config_of(engines: Engines, url: str, folder: Path, **ledger: Any) -> dict[str, Any]:
    config = configuration({"e0": engines.url("e0")})
    config["tenants"]["acme"].pop("limits")
    state = {"ledger_url": url, "ledger_timeout": 1}
    return {**config, "state": state, "ledger": {"spool_dir": str(folder / "spool"), **ledger}}


@pytest.fixture(params=["sqlite", "postgres"])
def books(request: pytest.FixtureRequest, engines: Engines, tmp_path: Path) -> Iterator[Books]:
    database: PostgresServer | Path = start_postgres() if request.param == "postgres" else tmp_path / "ledger.db"
    made = Books(tmp_path, {}, database)
    made.config = config_of(engines, made.url, tmp_path)
    try:
        yield made
    finally:
        made.come_back()
        made.stop()
        if isinstance(database, PostgresServer):
            database.stop()


on_sqlite = pytest.mark.parametrize("books", ["sqlite"], indirect=True)


@dataclass
class Load:
    """Clients that ask without a pause. `answered`: request ids with the moment at which the answer was there."""

    gateway: Gateway
    answered: dict[str, float] = field(default_factory=dict)
    refused: Counter[int] = field(default_factory=Counter)
    over: threading.Event = field(default_factory=threading.Event)

    def client(self) -> None:
        while not self.over.is_set():
            try:
                status, headers, _ = self.gateway.post(ASK)
            except (OSError, ValueError, IndexError):
                continue
            if status == 200:
                self.answered[headers["x-request-id"]] = time.monotonic()
            else:
                self.refused[status] += 1


@contextlib.contextmanager
def load(gateway: Gateway, clients: int = 3) -> Iterator[Load]:
    made = Load(gateway)
    threads = [threading.Thread(target=made.client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield made
    finally:
        made.over.set()
        for thread in threads:
            thread.join()


def test_a_gateway_that_is_killed_under_load_loses_nothing_answered_a_second_ago_and_doubles_nothing(
    books: Books,
) -> None:
    safe: set[str] = set()
    answered = 0
    for _ in range(3):
        with load(books.start()) as asked:
            books.until(lambda asked=asked: len(asked.answered) >= 200, "200 answers")
            first = len(asked.answered)
            time.sleep(SAFE_SECONDS + 0.3)  # what was answered by now has to survive; and some that need not
            books.until(lambda asked=asked, first=first: len(asked.answered) > first, "more answers")
            killed = time.monotonic()
            books.kill()
        safe |= {name for name, at in asked.answered.items() if at < killed - SAFE_SECONDS}
        answered += len(asked.answered)
    books.start()
    books.until(lambda: safe <= set(books.recorded()), f"{len(safe)} requests are in the database")
    books.until(lambda: books.metric("promptlane_ledger_lag_seconds") == 0, "all are moved")
    found = books.recorded()
    assert set(found.values()) == {1}, "each once"
    books.stop()
    whole = json.loads(books.command("verify", "--format", "json", "--tenant", "acme"))["chains"]
    assert [(one["whole"], one["of_tenant"]) for one in whole] == [(True, len(found))]
    print(f"\n{answered} answers, 3 kills: {len(safe)} had to be there, {len(found)} are")


def test_a_database_that_is_away_only_delays_records(books: Books) -> None:
    gateway = books.start()
    before = [gateway.post(ASK)[1]["x-request-id"] for _ in range(5)]
    books.until(lambda: set(before) <= set(books.recorded()), "the first are there")
    books.go_away()
    during = []
    for _ in range(50):
        status, headers, _ = gateway.post(ASK)
        assert status == 200
        during.append(headers["x-request-id"])
    books.until(lambda: books.metric("promptlane_ledger_database_errors_total") >= 1, "the outage is noticed")
    assert books.metric("promptlane_ledger_lag_seconds") > 0
    assert "records cannot be moved to the database" in gateway.output
    books.come_back()

    def all_there() -> bool:
        try:
            return set(during) <= set(books.recorded())
        except DatabaseAway:
            return False

    books.until(all_there, "all are there")
    assert set(books.recorded().values()) == {1}
    assert "1 of 1 chains are whole" in books.command("verify")


def test_a_record_says_by_which_parameters_of_which_prompt_and_by_which_weights_it_was_answered(books: Books) -> None:
    digest = f"sha256:{'0a' * 32}"
    books.config["pools"]["acme"]["endpoints"][0]["weights_digest"] = digest
    books.config["tenants"]["acme"]["requests"] = {"max_tokens": 20}
    word = "zyxwordzyx"
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 20, "min_p": 0.1, "seed": 3, "presence_penalty": 0.25}
    gateway = books.start()
    for body in (ASK, {**ASK, **sampling, "max_tokens": 900, "stop": [word], "stream": True}):
        assert gateway.post(body)[0] == 200
    books.until(lambda: len(books.found("request")) == 2, "both are there")
    plain, sampled = books.listed("--kind", "request", "--tenant", "acme")
    assert plain["parameters"] == {"max_tokens": 20}, "the bound is the tenant's"
    (stop,) = sampled["parameters"].pop("stop")
    assert (len(stop), sampled["parameters"]) == (16, {**sampling, "max_tokens": 20})
    assert plain["prompt_hash"] == sampled["prompt_hash"]
    assert {one["weights_digest"] for one in (plain, sampled)} == {digest}
    assert word not in json.dumps(sampled)
    assert "1 of 1 chains are whole" in books.command("verify")


def limit_files(gateway: Gateway, most: int) -> None:
    """From now on the gateway can write no file beyond so many bytes: with 0, as if every disk were full."""
    _, hard = psutil.Process(gateway.process.pid).rlimit(resource.RLIMIT_FSIZE)
    psutil.Process(gateway.process.pid).rlimit(resource.RLIMIT_FSIZE, (most, hard))


@on_sqlite
def test_on_a_full_disk_requests_are_answered_and_what_is_missing_is_known(books: Books) -> None:
    gateway = books.start()
    gateway.post(ASK)
    limit_files(gateway, 0)
    names = []
    for _ in range(20):
        status, headers, _ = gateway.post(ASK)
        assert status == 200
        names.append(headers["x-request-id"])
    books.until(lambda: books.metric('promptlane_ledger_write_errors_total{cause="disk_full"}') >= 1, "it is noticed")
    assert books.metric("promptlane_ledger_waiting") >= 20
    limit_files(gateway, resource.RLIM_INFINITY)
    books.until(lambda: set(names) <= set(books.recorded()), "they are there after all")
    assert books.metric("promptlane_ledger_lost_total") == 0
    assert "records are written again" in gateway.output
    assert "1 of 1 chains are whole" in books.command("verify")


@on_sqlite
def test_on_a_full_disk_with_refuse_requests_get_503_until_there_is_room(books: Books) -> None:
    books.config["ledger"]["on_full"] = "refuse"
    gateway = books.start()
    assert gateway.post(ASK)[0] == 200
    limit_files(gateway, 0)
    books.until(lambda: gateway.post(ASK)[0] == 503, "requests are refused")
    status, _, body = gateway.post(ASK)
    assert (status, body["error"]["code"]) == (503, "ledger_unavailable")
    limit_files(gateway, resource.RLIM_INFINITY)
    books.until(lambda: gateway.post(ASK)[0] == 200, "requests are answered")
    books.until(lambda: books.metric("promptlane_ledger_lag_seconds") == 0, "all are moved")
    assert "1 of 1 chains are whole" in books.command("verify")


@on_sqlite
def test_a_gateway_that_is_told_to_end_leaves_nothing_in_the_spool(books: Books) -> None:
    gateway = books.start()
    names = [gateway.post(ASK)[1]["x-request-id"] for _ in range(20)]
    gateway.signal(signal.SIGTERM)
    assert gateway.ended() == 0
    books.gateway = None
    assert set(names) == set(books.recorded())


@on_sqlite
def test_a_failover_and_its_recovery_and_a_drill_are_listed_for_the_tenant(books: Books, engines: Engines) -> None:
    endpoints = books.config["pools"]["acme"]["endpoints"]
    endpoints.append({"name": "e1", "url": engines.url("e1"), "role": "warm"})
    books.config["tenants"]["acme"]["tier"] = "platinum"
    books.config["pools"]["acme"]["standby"] = {"calm_seconds": 0.2, "max_failovers": 100}
    gateway = books.start()
    drill = subprocess.run(
        [sys.executable, "-m", "router.cli", "drill", "--config", str(books_file(books, gateway)), "--tenant", "acme",
         "--seconds", "1", "--json"],
        cwd=ROOT, capture_output=True, text=True, timeout=SLOW,
    )  # fmt: skip
    result = json.loads(drill.stdout)
    assert result["status"] == "passed", drill.stdout + drill.stderr
    books.until(lambda: books.found("drill"), "the drill is there")
    (kept,) = books.listed("--kind", "drill", "--tenant", "acme")
    assert (kept["outcome"], kept["pool"], kept["model"]) == ("passed", "acme", "qwen")
    assert kept["detail"]["rto_seconds"] == result["rto_seconds"]

    books.until(lambda: level(gateway) == "hot", "the hot endpoint serves again")
    before = len(books.found("recovery"))
    engines.run(engines["e0"].stop())
    try:
        status, headers, _ = gateway.post(ASK)
        assert (status, headers["x-promptlane-endpoint"]) == (200, "e1")
        books.until(lambda: len(books.found("recovery")) > before, "the recovery is there")
    finally:
        engines.run(engines["e0"].start(engines["e0"].port))
    moves = [one["detail"] for one in books.listed("--kind", "failover", "--tenant", "acme")]
    assert {"from": "hot", "to": "warm", "cause": "nobody"} in moves
    recovery = books.listed("--kind", "recovery", "--tenant", "acme")[-1]
    assert recovery["detail"]["met"] is True
    assert 0 < recovery["detail"]["rto_seconds"] < recovery["detail"]["target_seconds"] == 5.0
    assert books.listed("--kind", "failover", "--tenant", "globex") == []
    assert " to=warm" in books.command("list", "--kind", "failover", "--tenant", "acme")


def level(gateway: Gateway) -> str:
    return str(gateway.admin("/admin/state").json()["pools"]["acme"]["standby"]["level"])


def books_file(books: Books, gateway: Gateway) -> Path:
    """The configuration with the ports that the gateway has picked: a command asks its operator plane."""
    server = {**books.config["server"], "port": gateway.port, "admin_port": gateway.admin_port}
    file = books.folder / "with-ports.yaml"
    file.write_text(json.dumps({**books.config, "server": server}))
    return file


@on_sqlite
def test_two_gateways_on_one_spool_have_a_chain_each(books: Books) -> None:
    first = books.start()
    folder = books.folder / "second"
    folder.mkdir()
    second = Gateway(folder, books.config, PROMPTLANE_SECRET=SECRET).wait_ready()
    try:
        second.wait_healthy("e0")
        names = {gateway.post(ASK)[1]["x-request-id"] for gateway in (first, second) for _ in range(10)}
        books.until(lambda: names <= set(books.recorded()), "all are there")
    finally:
        second.stop()
    assert "2 of 2 chains are whole" in books.command("verify")
    assert "2 of 2 chains are whole" in books.command("verify", "--spool")


@on_sqlite
def test_whoever_changes_a_record_is_found_out_by_the_command(books: Books) -> None:
    gateway = books.start()
    names = [gateway.post(ASK)[1]["x-request-id"] for _ in range(5)]
    books.until(lambda: set(names) <= set(books.recorded()), "all are there")
    database = Database(books.url, 20.0)
    with database.writing() as connection:
        connection.execute(ledger_records.update().where(ledger_records.c.sequence == 3).values(completion_tokens=0))
    database.close()
    assert "BROKEN: record 3 is not as it was written" in books.command("verify", status=1)


def test_a_spool_that_cannot_be_made_is_said_at_the_start(engines: Engines, tmp_path: Path) -> None:
    config = config_of(engines, f"sqlite:///{tmp_path}/ledger.db", tmp_path)
    (tmp_path / "spool").write_text("a file")
    gateway = Gateway(tmp_path, config, PROMPTLANE_SECRET=SECRET)
    try:
        with pytest.raises(ServerFailed):
            gateway.wait_ready()
        assert "ledger.spool_dir" in gateway.output
        assert "Traceback" not in gateway.output
    finally:
        gateway.stop()


@on_sqlite
def test_usage_and_cost_of_a_gateway_are_what_its_records_say(books: Books) -> None:
    books.config["pools"]["acme"]["endpoints"][0]["hourly_cost"] = 3600
    books.config["tenants"]["acme"]["models"]["qwen"]["prices"] = {"input": 1, "output": 10}
    gateway = books.start()
    for _ in range(20):
        assert gateway.post(ASK)[0] == 200

    def used() -> dict[str, Any]:
        with gateway.connect() as sock:
            sock.sendall(b"GET /v1/usage?from=2020-01-01 HTTP/1.1\r\nhost: g\r\nauthorization: Bearer acme-key\r\n\r\n")
            status, _, body = read_answer(sock)
        assert status == 200, body
        rows: list[dict[str, Any]] = json.loads(body)["rows"]
        return rows[0] if rows else {"requests": 0}

    books.until(lambda: used()["requests"] == 20, "all are in the sums")
    row = used()
    assert (row["tenant"], row["model"], row["failed"]) == ("acme", "qwen", 0)
    assert row["cost_micro_usd"] == row["prompt_tokens"] + 10 * row["completion_tokens"] > 0
    books.stop()
    since = ("--from", "2020-01-01", "--format", "json")
    told = json.loads(books.command("usage", *since))
    assert told["rows"] == [row]
    assert json.loads(books.command("usage", *since, "--from-records"))["rows"] == [row]
    kept = [one for one in books.listed() if one["kind"] == "endpoint"]
    assert {(one["endpoint"], one["detail"]["role"]) for one in kept} == {("e0", "hot")}
    borne = json.loads(books.command("cost", *since))
    assert borne["total"]["cost_micro_usd"] == sum(one["cost_micro"] for one in kept) > 0
    assert borne["rows"][0]["cost_micro_usd"] == borne["total"]["cost_micro_usd"], "nobody else bears any of it"
