"""The command `promptlane`: check, keys, explain, help. `serve` has a file of its own."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from router.cli import main
from router.database.engine import Database
from router.database.migrate import prepare
from tests.router.test_assembly import CONFIG, changed
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "tests" / "examples" / "two-tenants.yaml"
CHAT = {"model": "big", "messages": [{"role": "user", "content": "hello " * 300}]}


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PROMPTLANE_CONFIG", "PROMPTLANE_SECRET", "PROMPT_TOKEN_THRESHOLD", "ENABLE_KV_AWARE_ROUTING"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path, CONFIG)


def written(folder: Path, config: dict[str, Any] | str) -> Path:
    path = folder / "promptlane.yaml"
    path.write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    return path


def ran(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as end:
        status = int(end.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


# -- check


def test_the_contract_file_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = ran(capsys, "check", "--config", EXAMPLE)
    assert (status, "2 tenants, 2 pools, 4 endpoints" in out) == (0, True)


def test_every_mistake_is_said_at_once_with_its_place(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = changed(server__port="many", tenants__acme__tier="tin", pools__one__retires=1, routing__ageing=-1)
    status, out, err = ran(capsys, "check", "--config", written(tmp_path, config))
    assert (status, out) == (1, "")
    assert "4 mistakes" in err
    for place in ("server.port", "tenants.acme.tier", "pools.one.retires", "routing.ageing"):
        assert re.search(rf"^  {re.escape(place)} \(line \d+\): ", err, re.MULTILINE), place
    assert "did you mean 'retries'?" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("content", ["", "a: [", "\x00", "- a", "server: 7"])
def test_a_file_that_is_no_configuration_is_said_to_be_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    status, out, err = ran(capsys, "check", "--config", written(tmp_path, content))
    assert "Traceback" not in err
    assert (status, out) == (1, "")
    assert "mistake" in err


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_is_not_there_is_a_clear_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    status, _, err = ran(capsys, "check", "--config", tmp_path / name)
    assert (status, "Traceback" in err) == (1, False)
    assert str(tmp_path) in err


def test_what_is_allowed_and_probably_not_meant_is_a_warning(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, out, err = ran(capsys, "check", "--config", written(tmp_path, changed(tenants__acme__models={})))
    assert (status, ": good (" in out) == (0, True)
    assert "warning: pools.one: no tenant uses this pool" in err


def test_the_environment_names_the_file_and_overrides_its_keys(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMPTLANE_CONFIG", str(config))
    assert ran(capsys, "check")[0] == 0
    monkeypatch.setenv("PROMPTLANE_SERVER__PORT", "many")
    status, _, err = ran(capsys, "check")
    assert (status, "PROMPTLANE_SERVER__PORT" in err) == (1, True)


def test_without_a_file_the_arguments_are_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = ran(capsys, "check")
    assert (status, "--config" in err) == (2, True)


# -- keys


def key_and_line(out: str) -> tuple[str, str]:
    (key,) = re.findall(r"^  (pl-\S+)$", out, re.MULTILINE)
    (line,) = re.findall(r"^  - (\{.*\})$", out, re.MULTILINE)
    return key, line


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--id", "ci"),
        ("--id", "20270131"),
        ("--id", "on"),
        ("--id", "2027-01-31"),
        ("--expires", "2999-01-31"),
        ("--expires", "2999-01-31T12:00:00+02:00"),
        ("--expires", "2999-01-31T12:00:00Z"),
    ],
    ids=lambda options: " ".join(options) or "plain",
)
def test_the_printed_line_is_accepted_as_it_is_and_is_the_keys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, options: tuple[str, ...]
) -> None:
    status, out, _ = ran(capsys, "keys", "create", "--tenant", "acme", *options)
    key, line = key_and_line(out)
    assert status == 0
    assert out.count(key) == 1
    assert hashlib.sha256(key.encode()).hexdigest() in line
    text = yaml.safe_dump(changed(tenants__acme__api_keys="HERE")).replace("HERE", f"\n    - {line}")
    status, out, err = ran(capsys, "check", "--config", written(tmp_path, text))
    assert (status, "mistake" in err) == (0, False), err


@pytest.mark.parametrize("name", ["a b", "x}", "a\nb"])
def test_an_id_that_the_configuration_would_refuse_is_refused_before_a_key_is_shown(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    status, out, err = ran(capsys, "keys", "create", "--tenant", "acme", "--id", name)
    assert (status, out) == (1, "")
    assert "--id" in err


@pytest.mark.parametrize("when", ["2020-01-01", "tomorrow", "2999-13-01", "2999-01-01T00:00:00", "29990101"])
def test_an_expiry_that_makes_no_sense_is_refused(capsys: pytest.CaptureFixture[str], when: str) -> None:
    status, out, err = ran(capsys, "keys", "create", "--tenant", "acme", "--expires", when)
    assert (status, out) == (1, "")
    assert "--expires" in err


def test_two_keys_made_on_one_day_can_both_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    lines = [key_and_line(ran(capsys, "keys", "create", "--tenant", "acme")[1])[1] for _ in range(2)]
    both = "".join(f"\n    - {line}" for line in lines)
    text = yaml.safe_dump(changed(tenants__acme__api_keys="HERE")).replace("HERE", both)
    status, _, err = ran(capsys, "check", "--config", written(tmp_path, text))
    assert (status, "mistake" in err) == (0, False), err


def test_scopes_are_in_the_line_and_a_label_is_not(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    scope = ("--model", "big", "--model", "small", "--api", "chat")
    _, line = key_and_line(ran(capsys, "keys", "create", "--tenant", "acme", *scope)[1])
    text = yaml.safe_dump(changed(tenants__acme__api_keys="HERE")).replace("HERE", f"\n    - {line}")
    assert ran(capsys, "check", "--config", written(tmp_path, text))[0] == 0
    (key,) = yaml.safe_load(text)["tenants"]["acme"]["api_keys"]
    assert (key["models"], key["apis"]) == (["big", "small"], ["chat"])
    status, out, err = ran(capsys, "keys", "create", "--tenant", "acme", "--label", "robot")
    assert (status, out, "--label" in err) == (1, "", True)


# -- keys in a database


@pytest.fixture
def keeping(tmp_path: Path) -> Path:
    """A configuration with a database."""
    url = f"sqlite:///{tmp_path}/keys.db"
    prepare(Database(url, 5.0))
    return written(tmp_path, changed(state__ledger_url=url))


def keys(capsys: pytest.CaptureFixture[str], config: Path, command: str, *arguments: str) -> tuple[int, str, str]:
    return ran(capsys, "keys", command, "--config", config, *arguments)


def listed(capsys: pytest.CaptureFixture[str], config: Path, *options: str) -> dict[str, dict[str, Any]]:
    status, out, err = keys(capsys, config, "list", "--json", *options)
    assert (status, err) == (0, "")
    return {key["id"]: key for key in json.loads(out)["keys"] if key["source"] == "database"}


def key_of(out: str) -> str:
    (key,) = re.findall(r"^  (pl-\S+)$", out, re.MULTILINE)
    return str(key)


def test_keys_are_made_rotated_and_revoked_without_a_gateway(
    capsys: pytest.CaptureFixture[str], keeping: Path, tmp_path: Path
) -> None:
    options = ("--tenant", "acme", "--id", "ci", "--label", "robot", "--model", "big", "--expires", "2999-01-31")
    status, out, err = keys(capsys, keeping, "create", *options)
    assert (status, err, str(tmp_path / "keys.db") in out) == (0, "", True)
    assert hashlib.sha256(key_of(out).encode()).digest() in (tmp_path / "keys.db").read_bytes()
    assert key_of(out).encode() not in (tmp_path / "keys.db").read_bytes()
    status, turned, _ = keys(capsys, keeping, "rotate", "ci", "--grace", "60")
    assert (status, key_of(turned) != key_of(out), "'ci' stays valid until" in turned) == (0, True, True)
    status, ended, _ = keys(capsys, keeping, "revoke", "ci")
    assert (status, "Revoked: 'ci' of acme" in ended) == (0, True)
    found = listed(capsys, keeping)
    assert {name: key["status"] for name, key in found.items()} == {"ci": "revoked", "ci-r2": "active"}
    assert (found["ci-r2"]["label"], found["ci-r2"]["models"]) == ("robot", ["big"])


def test_the_table_shows_every_key_and_no_digest(capsys: pytest.CaptureFixture[str], keeping: Path) -> None:
    keys(capsys, keeping, "create", "--tenant", "acme", "--id", "ci", "--api", "chat", "--label", "a robot")
    status, out, _ = keys(capsys, keeping, "list")
    rows = [re.split(r"  +", line) for line in out.splitlines()]
    assert (status, rows[0][:4]) == (0, ["id", "tenant", "source", "status"])
    assert ["main", "acme", "config", "active", "-", "all", "all", "-"] in rows
    assert ["ci", "acme", "database", "active", "-", "all", "chat", "a robot"] in rows
    assert not re.search(r"[0-9a-f]{64}", out)
    assert list(listed(capsys, keeping, "--tenant", "globex")) == []


def test_the_line_can_be_had_also_where_there_is_a_database(capsys: pytest.CaptureFixture[str], keeping: Path) -> None:
    status, out, _ = keys(capsys, keeping, "create", "--tenant", "acme", "--line")
    assert (status, key_and_line(out)[0][:3]) == (0, "pl-")
    assert listed(capsys, keeping) == {}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("create", "--tenant", "acne"),
            "--tenant: there is no tenant 'acne' in the configuration; did you mean 'acme'?",
        ),
        (("create", "--tenant", "acme", "--model", "bog"), "--model: expected a model of acme; got 'bog'"),
        (("create", "--tenant", "acme", "--api", "chess"), "--api: expected one of chat"),
        (("create", "--tenant", "acme", "--id", "main"), "The configuration of acme, globex has a key 'main'"),
        (("list", "--tenant", "acne"), "--tenant: there is no tenant 'acne'"),
        (("revoke", "nobody"), "The database has no key 'nobody'."),
        (("revoke", "main"), "'main' of acme is in the configuration file"),
        (("rotate", "main"), "'main' of acme is in the configuration file"),
        (("rotate", "nobody", "--grace", "long"), "--grace: expected null or a number from 0 to 7776000; got 'long'"),
        (("rotate", "nobody", "--expires", "2020-01-01"), "--expires: expected a moment in the future"),
    ],
)
def test_what_cannot_be_done_is_a_clear_line_that_names_the_option(
    capsys: pytest.CaptureFixture[str], keeping: Path, arguments: tuple[str, ...], said: str
) -> None:
    status, out, err = keys(capsys, keeping, *arguments)
    assert (status, out, "Traceback" in err) == (1, "", False)
    assert said in err


@pytest.mark.parametrize("command", [("revoke", "ci"), ("rotate", "ci")])
def test_without_a_database_keys_cannot_be_changed(
    capsys: pytest.CaptureFixture[str], config: Path, command: tuple[str, ...]
) -> None:
    status, out, err = keys(capsys, config, *command)
    assert (status, out, "give state.ledger_url, or set keys.at_run_time: true" in err) == (1, "", True)


@pytest.mark.parametrize("command", [("list",), ("list", "--json"), ("revoke", "ci"), ("rotate", "ci")])
def test_keys_of_a_file_that_does_not_exist_are_a_clear_line_and_no_new_file(
    capsys: pytest.CaptureFixture[str], keeping: Path, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "keys.db"
    file.unlink()
    status, out, err = keys(capsys, keeping, *command)
    assert (status, out, "Traceback" in err) == (1, "", False)
    assert f"The database of keys does not exist: '{file}' (state.ledger_url)" in err
    assert not file.exists()


def test_the_first_key_makes_the_database(capsys: pytest.CaptureFixture[str], keeping: Path, tmp_path: Path) -> None:
    (tmp_path / "keys.db").unlink()
    assert keys(capsys, keeping, "create", "--tenant", "acme", "--id", "ci")[0] == 0
    assert list(listed(capsys, keeping)) == ["ci"]


@pytest.mark.parametrize("arguments", [("--tenant", "acne"), ("--tenant", "acme", "--model", "bog")])
def test_a_key_that_cannot_be_made_makes_no_database(
    capsys: pytest.CaptureFixture[str], keeping: Path, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "keys.db").unlink()
    assert keys(capsys, keeping, "create", *arguments)[0] == 1
    assert not (tmp_path / "keys.db").exists()


def test_a_database_that_cannot_be_used_is_a_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    url = f"postgresql://u:SECRET@127.0.0.1:{free_port()}/db"
    status, out, err = keys(capsys, written(tmp_path, changed(state__ledger_url=url)), "list")
    assert (status, out, "Traceback" in err, "SECRET" in err) == (1, "", False, False)
    assert "The database of keys cannot be used: " in err
    assert "refused" in err


# -- explain


def explained(
    capsys: pytest.CaptureFixture[str], config: Path, body: dict[str, Any] | bytes, *options: str, tenant: str = "acme"
) -> tuple[int, str, str]:
    file = config.parent / "body.json"
    file.write_bytes(body if isinstance(body, bytes) else json.dumps(body).encode())
    return ran(capsys, "explain", "--config", config, "--tenant", tenant, "--body", file, *options)


def test_explain_shows_lane_tokens_blocks_table_and_choice(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, out, err = explained(capsys, config, CHAT)
    assert (status, err) == (0, "")
    rows = dict(re.findall(r"^(\w+) +(.*)$", out, re.MULTILINE))
    assert rows["api"] == "chat (/v1/chat/completions)"
    assert rows["tenant"] == "acme (tier platinum, priority 0)"
    assert rows["model"] == "big -> pool one, engine model tiny"
    assert re.match(r"4\d\d prompt tokens, estimated at 4.00 bytes per token; answer of about 256", rows["tokens"])
    assert rows["lane"] == "short"
    assert rows["prefix"].startswith("7 blocks of about 64 tokens")
    assert len(re.findall(r"^ +\[\d\] [0-9a-f]{16}$", out, re.MULTILINE)) == 7
    for endpoint in ("one-0", "one-1"):
        assert re.search(rf"^{endpoint} +hot +passed +0 +[\d.]+ +[\d.]+  predicted-ttft [\d.]+$", out, re.MULTILINE), (
            out
        )
    assert rows["choice"] in ("one-0", "one-1")
    assert "hello" not in out


@pytest.mark.parametrize(
    ("body", "api"),
    [
        ({"prompt": "a"}, "completions (/v1/completions)"),
        ({"input": "a"}, "responses (/v1/responses)"),
        ({"query": "a", "documents": ["a"]}, "rerank (/v1/rerank)"),
        ({"text_1": "a", "text_2": "b"}, "score (/v1/score)"),
        ({"tokens": [1]}, "tokenize (/detokenize)"),
        ({}, "chat (/v1/chat/completions)"),
    ],
)
def test_explain_tells_the_api_from_the_body(
    capsys: pytest.CaptureFixture[str], config: Path, body: dict[str, Any], api: str
) -> None:
    status, out, _ = explained(capsys, config, {"model": "small", **body})
    assert (status, out.splitlines()[0]) == (0, f"api        {api}")


def test_explain_takes_path_and_lane_as_a_request_would(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    body = {"model": "small", "input": ["a", "b"]}
    status, out, _ = explained(capsys, config, body, "--path", "/v1/embeddings", "--lane", "batch")
    assert status == 0
    assert "embeddings (/v1/embeddings)" in out
    assert re.search(r"^lane +batch$", out, re.MULTILINE)


def test_explain_reads_standard_input(
    capsys: pytest.CaptureFixture[str], config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(CHAT).encode())))
    status, out, _ = ran(capsys, "explain", "--config", config, "--tenant", "acme", "--body", "-")
    assert (status, "choice" in out) == (0, True)


@pytest.mark.parametrize(
    ("body", "options", "said"),
    [
        ({"model": "nothing"}, (), "no model 'nothing'. Known: big, small"),
        (b"{", (), "not valid JSON"),
        (b"[]", (), "must be a JSON object"),
        ({"messages": []}, (), "model parameter"),
        ({"model": "big", "messages": 7}, (), "messages"),
        ({"model": "big"}, ("--path", "/v1/files"), "'/v1/files' is not served"),
        ({"model": "big"}, ("--lane", "express"), "lane must be one of batch, long, short"),
    ],
)
def test_explain_refuses_as_the_gateway_would(
    capsys: pytest.CaptureFixture[str], config: Path, body: Any, options: tuple[str, ...], said: str
) -> None:
    status, _, err = explained(capsys, config, body, *options)
    assert (status, "Traceback" in err) == (1, False)
    assert said in err


def test_explain_of_an_unknown_tenant_names_the_known_ones(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, _, err = explained(capsys, config, CHAT, tenant="nobody")
    assert (status, "no tenant 'nobody'. Known: acme, globex" in err) == (1, True)


def test_explain_of_a_missing_body_is_a_clear_line(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    status, _, err = ran(
        capsys, "explain", "--config", config, "--tenant", "acme", "--body", config.parent / "none.json"
    )
    assert status == 1
    assert "none.json: No such file" in err


@pytest.mark.parametrize("profile", ["least-outstanding", "round-robin", "random"])
def test_explain_works_for_every_profile(capsys: pytest.CaptureFixture[str], tmp_path: Path, profile: str) -> None:
    config = written(tmp_path, changed(routing={"profile": profile}))
    status, out, _ = explained(capsys, config, CHAT)
    assert (status, f"profile    {profile}" in out) == (0, True)


# -- drill


def test_a_drill_without_a_gateway_is_a_clear_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = written(tmp_path, changed(server__admin_port=free_port()))
    status, out, err = ran(capsys, "drill", "--config", config, "--tenant", "acme")
    assert (status, out, "Traceback" in err) == (1, "", False)
    assert "operator plane" in err
    assert "does not answer" in err


@pytest.mark.parametrize("options", [("--fault", "flood"), ("--seconds", "long")])
def test_a_drill_that_makes_no_sense_ends_with_2(
    capsys: pytest.CaptureFixture[str], config: Path, options: tuple[str, ...]
) -> None:
    assert ran(capsys, "drill", "--config", config, "--tenant", "acme", *options)[0] == 2


# -- help


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("serve",),
        ("check",),
        ("keys",),
        ("keys", "create"),
        ("keys", "list"),
        ("keys", "rotate"),
        ("explain",),
        ("drill",),
    ],
)
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: tuple[str, ...]) -> None:
    status, out, err = ran(capsys, *command, "--help")
    assert (status, err) == (0, "")
    assert out.startswith("usage: promptlane " + " ".join(command))
    assert max(map(len, out.splitlines())) <= 130


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    from router import __version__

    assert ran(capsys, "--version")[1] == f"promptlane {__version__}\n"


@pytest.mark.parametrize("arguments", [(), ("nonsense",), ("keys",), ("keys", "create"), ("explain",), ("drill",)])
def test_wrong_arguments_end_with_2_and_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    status, _, err = ran(capsys, *arguments)
    assert (status, err.startswith("usage: promptlane")) == (2, True)
