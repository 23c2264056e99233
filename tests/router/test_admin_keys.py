"""Keys on the operator plane: what may be asked, what is answered, and what is never told."""

from __future__ import annotations

import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from router.admin import admin_app
from router.assembly import Runtime
from router.errors import InvalidKey
from router.key_builder import key_watch
from router.key_watch import KeyWatch
from router.process import Process
from tests.router.stack import sha256
from tests.router.test_assembly import built, changed, process

NOW = 1_790_000_000.0


class Office:
    """The app on a database of its own, asked without sockets. `wall`: what the clock on the wall says."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.wall = NOW
        plain = process()
        self.process = Process(plain.secret, plain.counter, plain.metrics, plain.clock, lambda: self.wall)
        self.runtime: Runtime = built(config, self.process)
        self.watch: KeyWatch | None = key_watch(self.runtime.config, self.process, lambda: self.runtime.config)
        app = admin_app(lambda: self.runtime, lambda: True, self._no_reload, self.process.metrics, self.watch)
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://operators")

    async def _no_reload(self, dry_run: bool, said: bytes) -> list[Any]:
        raise AssertionError("nobody reloads here")

    async def post(self, path: str, order: Any = None) -> tuple[int, dict[str, Any]]:
        answer = await self.http.post(f"/admin/keys{path}", json=order)
        return answer.status_code, answer.json()

    async def refused(self, path: str, order: Any = None) -> tuple[int, str, str | None, str]:
        status, answer = await self.post(path, order)
        error = answer["error"]
        return status, error["code"], error["param"], error["message"]

    async def listed(self, query: str = "") -> dict[str, dict[str, Any]]:
        keys = (await self.http.get(f"/admin/keys{query}")).json()["keys"]
        return {f"{key['tenant']}/{key['id']}": key for key in keys}

    def opens(self, key: str) -> str:
        try:
            return self.runtime.gateway.directory.identify(None, key.encode(), self.wall).tenant.id
        except InvalidKey:
            return "401"


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(changed(state__ledger_url=f"sqlite:///{tmp_path}/keys.db"))
    yield made
    assert made.watch is not None
    await made.watch.stop()


async def test_a_key_is_told_once_and_works_when_it_is(office: Office) -> None:
    order = {
        "tenant": "acme",
        "id": "ci",
        "label": "robot",
        "models": ["big"],
        "apis": ["chat"],
        "expires": "2999-01-31",
    }
    status, made = await office.post("", order)
    key = made.pop("key")
    assert status == 201
    assert made == {
        "id": "ci", "tenant": "acme", "source": "database", "status": "active", "label": "robot", "models": ["big"],
        "apis": ["chat"], "created_at": "2026-09-21T14:13:20+00:00", "expires_at": "2999-01-31T00:00:00+00:00",
        "revoked_at": None, "replaces": None, "grace_until": None,
    }  # fmt: skip
    assert office.opens(key) == "acme"
    everything = (await office.http.get("/admin/keys")).text + (await office.http.get("/metrics")).text
    for secret in (key, hashlib.sha256(key.encode()).hexdigest(), sha256("acme-key")):
        assert secret not in everything


async def test_an_answer_with_a_key_is_kept_by_no_cache(office: Office) -> None:
    answer = await office.http.post("/admin/keys", json={"tenant": "acme"})
    assert answer.headers["cache-control"] == "no-store"
    assert re.fullmatch(r"key-20260921-[0-9a-f]{6}", answer.json()["id"])


async def test_keys_of_the_file_and_of_the_database_are_listed_together(office: Office) -> None:
    await office.post("", {"tenant": "acme", "id": "ci"})
    assert {name: key["source"] for name, key in (await office.listed()).items()} == {
        "acme/main": "config",
        "globex/main": "config",
        "acme/ci": "database",
    }
    assert set(await office.listed("?tenant=globex")) == {"globex/main"}
    answer = await office.http.get("/admin/keys?tenant=acne")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tenant")
    assert "did you mean 'acme'?" in answer.json()["error"]["message"]


async def test_rotation_gives_a_new_key_and_a_grace_to_the_old_one(office: Office) -> None:
    old = (await office.post("", {"tenant": "acme", "id": "ci", "models": ["big"]}))[1]["key"]
    status, made = await office.post("/ci/rotate")
    assert (status, made["id"], made["replaces"], made["models"]) == (201, "ci-r2", "ci", ["big"])
    assert (made["old"]["status"], made["old"]["grace_until"]) == ("grace", "2026-09-22T14:13:20+00:00")
    assert (office.opens(old), office.opens(made["key"])) == ("acme", "acme")
    office.wall += 86_400
    assert (office.opens(old), office.opens(made["key"])) == ("401", "acme")
    assert (await office.listed())["acme/ci"]["status"] == "replaced"


async def test_a_rotation_without_grace_ends_the_old_key_at_once(office: Office) -> None:
    old = (await office.post("", {"tenant": "acme", "id": "ci"}))[1]["key"]
    _, made = await office.post("/ci/rotate", {"grace_seconds": 0, "expires": "2999-01-31"})
    assert (office.opens(old), office.opens(made["key"])) == ("401", "acme")
    assert made["expires_at"] == "2999-01-31T00:00:00+00:00"


async def test_a_revoked_key_opens_nothing_any_more(office: Office) -> None:
    key = (await office.post("", {"tenant": "acme", "id": "ci"}))[1]["key"]
    status, ended = await office.post("/ci/revoke")
    assert (status, ended["status"], ended["revoked_at"]) == (200, "revoked", "2026-09-21T14:13:20+00:00")
    assert office.opens(key) == "401"
    assert (await office.post("/ci/revoke"))[0] == 200, "asking twice does no harm"
    assert (await office.refused("/ci/rotate"))[:3] == (409, "key_conflict", "id")


async def test_a_key_of_the_file_is_changed_in_the_file_only(office: Office) -> None:
    for action in ("revoke", "rotate"):
        status, code, _, message = await office.refused(f"/main/{action}")
        assert (status, code) == (409, "key_conflict")
        assert "'main' of acme is in the configuration file" in message
    assert (await office.refused("", {"tenant": "acme", "id": "main"}))[:3] == (409, "key_conflict", "id")
    assert office.opens("acme-key") == "acme"


async def test_a_key_that_the_file_has_later_overrules_the_databases(office: Office) -> None:
    made = (await office.post("", {"tenant": "acme", "id": "ci"}))[1]["key"]
    kept = (await office.post("", {"tenant": "globex", "id": "robot"}))[1]["key"]
    own = [{"id": "ci", "sha256": sha256("the files own")}]
    url = office.runtime.config.state.ledger_url
    office.runtime = built(changed(state__ledger_url=url, tenants__acme__api_keys=own), office.process, office.runtime)
    assert (office.opens(made), office.opens("the files own"), office.opens(kept)) == ("401", "acme", "globex")
    assert (await office.listed())["acme/ci"]["status"] == "overruled"
    assert (await office.refused("/ci/revoke"))[:2] == (409, "key_conflict")
    office.runtime = built(changed(state__ledger_url=url, tenants__globex=None), office.process, office.runtime)
    assert (office.opens(made), office.opens(kept)) == ("acme", "401")
    assert (await office.listed())["globex/robot"]["status"] == "unknown_tenant"
    assert (await office.post("/robot/revoke"))[0] == 200


@pytest.mark.parametrize(
    ("order", "param", "said"),
    [
        ({}, "tenant", "tenant: missing"),
        ({"tenant": "acne"}, "tenant", "there is no tenant 'acne' in the configuration; did you mean 'acme'?"),
        ({"tenant": 7}, "tenant", "expected a name"),
        (
            {"tenant": "acme", "models": ["big", "bog"]},
            "models[1]",
            "expected a model of acme; got 'bog'; did you mean",
        ),
        ({"tenant": "acme", "models": "big"}, "models", "expected null or a list"),
        ({"tenant": "acme", "apis": ["chat", "chess"]}, "apis[1]", "expected one of chat, completions"),
        ({"tenant": "acme", "id": "a b"}, "id", "expected null or a name of letters"),
        ({"tenant": "acme", "label": "a\nb"}, "label", "one line"),
        ({"tenant": "acme", "expires": "2020-01-01"}, "expires", "a moment in the future"),
        ({"tenant": "acme", "expires": "soon"}, "expires", "a date"),
        ({"tenant": "acme", "expiry": "2999-01-01"}, "expiry", "unknown key; did you mean 'expires'?"),
    ],
)
async def test_an_order_that_makes_no_sense_names_its_field(
    office: Office, order: dict[str, Any], param: str, said: str
) -> None:
    status, code, field, message = await office.refused("", order)
    assert (status, code, field) == (400, "invalid_request", param)
    assert said in message
    assert set(await office.listed()) == {"acme/main", "globex/main"}


@pytest.mark.parametrize(
    ("path", "order", "answer"),
    [
        ("/nobody/revoke", None, (404, "key_not_found", "id")),
        ("/nobody/rotate", None, (404, "key_not_found", "id")),
        ("/ci/rotate", {"grace_seconds": -1}, (400, "invalid_request", "grace_seconds")),
        ("/ci/rotate", {"grace": 1}, (400, "invalid_request", "grace")),
        ("/ci/rotate", {"expires": "2020-01-01"}, (400, "invalid_request", "expires")),
        ("/ci/revoke", {"when": "now"}, (400, "invalid_request", "when")),
        ("", ["acme"], (400, "invalid_request", None)),
        ("", "x" * 70_000, (413, "request_too_large", None)),
    ],
)
async def test_every_refusal_has_openais_shape(office: Office, path: str, order: Any, answer: tuple[Any, ...]) -> None:
    await office.post("", {"tenant": "acme", "id": "ci"})
    assert (await office.refused(path, order))[:3] == answer


async def test_a_body_that_is_no_json_is_said_to_be_none(office: Office) -> None:
    answer = await office.http.post("/admin/keys", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_a_database_that_is_away_refuses_changes_and_no_request(office: Office, tmp_path: Path) -> None:
    key = (await office.post("", {"tenant": "acme", "id": "ci"}))[1]["key"]
    (tmp_path / "keys.db").unlink()
    for path, order in (("", {"tenant": "acme"}), ("/ci/revoke", None), ("/ci/rotate", None)):
        assert (await office.refused(path, order))[:2] == (503, "database_unavailable")
    assert (await office.http.get("/admin/keys")).status_code == 503
    assert office.opens(key) == "acme"
    assert not (tmp_path / "keys.db").exists()


async def test_without_a_database_only_the_files_keys_are_listed_and_changes_are_refused() -> None:
    office = Office(changed())
    assert office.watch is None
    assert set(await office.listed()) == {"acme/main", "globex/main"}
    for path, order in (("", {"tenant": "acme"}), ("/ci/revoke", None), ("/ci/rotate", None)):
        status, code, _, message = await office.refused(path, order)
        assert (status, code, "keys.at_run_time: true" in message) == (409, "keys_off", True)
