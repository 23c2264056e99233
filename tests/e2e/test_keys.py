"""Keys at run time: two gateway processes on one database, the command line beside them, and databases that go away.

Floor: tests only; what stands behind the gateways does not matter.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from router.database.engine import Database
from router.database.migrate import prepare, version
from tests.router.gateway_process import ROOT, SECRET, Engines, Gateway, configuration
from tests.servers import PostgresServer, bring_back, free_port, start_postgres, take_away

ASK = {"model": "qwen", "messages": [{"role": "user", "content": "who may ask?"}]}
SLOW = 90.0
"""Seconds for what takes a fraction of a second on a machine that is not busy."""

_names = count()


@dataclass
class Pair:
    """Two replicas on one database."""

    first: Gateway
    second: Gateway
    database: PostgresServer | Path

    def both(self, key: str, status: int) -> None:
        """Until both answer a request with this key so."""
        for one in (self.first, self.second):
            one.until(lambda one=one: asked(one, key) == status, f"{status} at both")

    def command(self, *arguments: str) -> str:
        """What `promptlane keys …` prints, run beside the gateways."""
        argv = [sys.executable, "-m", "router.cli", "keys", arguments[0], "--config", str(self.first.file)]
        ran = subprocess.run([*argv, *arguments[1:]], cwd=ROOT, capture_output=True, text=True, timeout=SLOW)
        assert (ran.returncode, ran.stderr) == (0, ""), ran.stderr
        return ran.stdout

    def go_away(self) -> None:
        take_away(self.database)

    def come_back(self) -> None:
        bring_back(self.database)


def asked(gateway: Gateway, key: str) -> int:
    return gateway.post(ASK, key=key)[0]


def key_in(text: str) -> str:
    (key,) = re.findall(r"^  (pl-\S+)$", text, re.MULTILINE)
    return str(key)


def name() -> str:
    return f"key-{next(_names)}"


def metric(gateway: Gateway, row: str) -> float:
    found = re.search(rf"^{re.escape(row)} (\S+)$", gateway.admin("/metrics").text, re.MULTILINE)
    return float(found[1]) if found is not None else 0.0


def config_for(engines: Engines, url: str | None, **keys: Any) -> dict[str, Any]:
    config = configuration({"e0": engines.url("e0")})
    config["tenants"]["acme"].pop("limits")
    config["tenants"]["acme"]["models"]["other"] = {"pool": "acme", "engine_model": "tiny"}
    return {**config, "state": {"ledger_url": url, "ledger_timeout": 1}, "keys": keys}


def started(folder: Path, config: dict[str, Any]) -> Gateway:
    folder.mkdir()
    return Gateway(folder, config, PROMPTLANE_SECRET=SECRET)


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines("e0")
    yield made
    made.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def pair(request: pytest.FixtureRequest, engines: Engines, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("pair")
    database: PostgresServer | Path = start_postgres() if request.param == "postgres" else folder / "keys.db"
    config = config_for(engines, database.url if isinstance(database, PostgresServer) else f"sqlite:///{database}")
    gateways = [started(folder / side, config) for side in ("first", "second")]  # they make the tables together
    try:
        yield Pair(gateways[0].wait_ready(), gateways[1].wait_ready(), database)
    finally:
        for gateway in gateways:
            gateway.stop()
        if isinstance(database, PostgresServer):
            database.send(signal.SIGCONT)
            database.stop()


def test_a_key_made_by_the_command_works_on_both_and_only_within_its_scope(pair: Pair) -> None:
    key = key_in(pair.command("create", "--tenant", "acme", "--id", name(), "--model", "other"))
    pair.both(key, 403)  # known by now, and not for this model
    for gateway in (pair.first, pair.second):
        assert gateway.post({**ASK, "model": "other"}, key=key)[0] == 200


def test_a_key_made_by_the_operator_plane_works_at_once_there_and_soon_on_the_other(pair: Pair) -> None:
    answer = pair.first.admin("/admin/keys", "POST", {"tenant": "acme", "id": name(), "label": "a robot"})
    assert answer.status_code == 201, answer.text
    key = answer.json()["key"]
    assert asked(pair.first, key) == 200
    pair.both(key, 200)
    assert metric(pair.second, 'promptlane_keys{source="database",tenant="acme"}') >= 1
    assert metric(pair.second, 'promptlane_keys{source="config",tenant="acme"}') == 1
    assert asked(pair.second, "acme-key") == 200, "the file's key goes on beside it"


def test_a_rotated_key_works_beside_the_new_one_and_no_longer_after_its_grace(pair: Pair) -> None:
    first = name()
    old = key_in(pair.command("create", "--tenant", "acme", "--id", first))
    pair.both(old, 200)
    new = key_in(pair.command("rotate", first))  # a day, by default
    pair.both(new, 200)
    assert [asked(gateway, old) for gateway in (pair.first, pair.second)] == [200, 200]
    newest = pair.second.admin(f"/admin/keys/{first}-r2/rotate", "POST", {"grace_seconds": 0.5})
    assert newest.json()["old"]["grace_until"], newest.text
    pair.both(new, 401)
    pair.both(newest.json()["key"], 200)
    assert [asked(gateway, old) for gateway in (pair.first, pair.second)] == [200, 200], "it has a grace of its own"


@pytest.mark.parametrize("by", ["command", "operators"])
def test_a_revoked_key_is_refused_on_both(pair: Pair, by: str) -> None:
    one = name()
    key = key_in(pair.command("create", "--tenant", "acme", "--id", one))
    pair.both(key, 200)
    if by == "command":
        assert one in pair.command("revoke", one)
    else:
        assert pair.second.admin(f"/admin/keys/{one}/revoke", "POST").status_code == 200
        assert asked(pair.second, key) == 401, "at once where it was asked"
    pair.both(key, 401)
    listed = {key["id"]: key for key in pair.first.admin("/admin/keys?tenant=acme").json()["keys"]}
    assert (listed[one]["status"], listed["main"]["source"]) == ("revoked", "config")


def test_while_the_database_is_away_requests_go_on_and_afterwards_changes_do_too(pair: Pair) -> None:
    one = name()
    key = key_in(pair.command("create", "--tenant", "acme", "--id", one))
    pair.both(key, 200)
    failed = 'promptlane_key_looks_total{result="failed"}'
    before = metric(pair.first, failed)
    pair.go_away()
    try:
        pair.first.until(lambda: metric(pair.first, failed) > before, "a look failed")
        assert {asked(gateway, key) for gateway in (pair.first, pair.second) for _ in range(10)} == {200}
        refused = pair.first.admin(f"/admin/keys/{one}/revoke", "POST")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "database_unavailable")
        assert asked(pair.first, key) == 200
        assert "known keys stay valid until it is back" in pair.first.output
    finally:
        pair.come_back()
    pair.first.until(lambda: "answers again" in pair.first.output, "it is back")
    assert pair.first.admin(f"/admin/keys/{one}/revoke", "POST").status_code == 200
    pair.both(key, 401)


def test_a_killed_postgresql_takes_no_request_with_it(engines: Engines, tmp_path: Path) -> None:
    server = start_postgres()
    gateway = started(tmp_path / "one", config_for(engines, server.url))
    try:
        gateway.wait_ready()
        key = gateway.admin("/admin/keys", "POST", {"tenant": "acme"}).json()["key"]
        server.send(signal.SIGKILL)
        gateway.until(lambda: metric(gateway, 'promptlane_key_looks_total{result="failed"}') > 1, "it is away")
        assert {asked(gateway, key) for _ in range(10)} == {200}
        age = metric(gateway, "promptlane_keys_look_age_seconds")
        gateway.until(lambda: metric(gateway, "promptlane_keys_look_age_seconds") > age, "it grows older")
        assert gateway.output.count("the database of keys is away") == 1, "once, not every second"
    finally:
        gateway.stop()
        server.stop()


def test_a_process_that_starts_without_its_database_serves_the_files_keys_and_says_so(
    engines: Engines, tmp_path: Path
) -> None:
    gateway = started(tmp_path / "one", config_for(engines, f"postgresql://u:SECRET@127.0.0.1:{free_port()}/db"))
    try:
        gateway.wait_ready()
        assert (asked(gateway, "acme-key"), asked(gateway, "pl-unknown")) == (200, 401)
        assert "only keys of the configuration are valid" in gateway.output
        assert "SECRET" not in gateway.output
    finally:
        gateway.stop()


def test_a_program_older_than_its_database_refuses_to_start(engines: Engines, tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/keys.db", SLOW)
    prepare(database)
    with database.writing() as connection:
        connection.execute(version.update().values(version_num="9999"))
    gateway = started(tmp_path / "one", config_for(engines, f"sqlite:///{tmp_path}/keys.db"))
    try:
        gateway.until(lambda: os.path.exists(gateway.log) and "9999" in gateway.output, "it says why")
        assert gateway.ended() == 1
        assert "newer Promptlane" in gateway.output
        assert "Traceback" not in gateway.output
    finally:
        gateway.stop()
