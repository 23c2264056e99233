"""The operator plane: what it shows, and what it must never show."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest

from router.admin import admin_app
from router.assembly import Runtime
from router.config import ConfigError, Problem
from router.metrics import Metrics
from router.secret import cache_salt
from tests.router.stack import SECRET, sha256
from tests.router.test_assembly import built, changed


class Plane:
    """The app with what `serve` gives it, asked without sockets."""

    def __init__(self, runtime: Runtime) -> None:
        self.ready = True
        self.runtime = runtime
        self.refused: list[Problem] = []
        self.orders: list[tuple[bool, bytes]] = []
        app = admin_app(lambda: self.runtime, lambda: self.ready, self._reload, Metrics())
        self.http = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://operators")

    async def _reload(self, dry_run: bool, said: bytes) -> list[Problem]:
        self.orders.append((dry_run, said))
        if self.refused:
            raise ConfigError(self.refused)
        return [Problem("server.port", "changed; takes effect at the next restart", None)]

    async def get(self, path: str) -> httpx2.Response:
        return await self.http.get(path)


@pytest.fixture
def plane() -> Plane:
    secrets: dict[str, Any] = {"pools__one__engine_api_key": "an-engines-own-key"}
    return Plane(built(changed(**secrets)))


async def test_health_and_readiness_are_two_things(plane: Plane) -> None:
    assert (await plane.get("/healthz")).json() == {"status": "ok"}
    assert (await plane.get("/readyz")).status_code == 200
    plane.ready = False
    assert (await plane.get("/readyz")).status_code == 503
    assert (await plane.get("/healthz")).status_code == 200


async def test_a_gateway_that_reaches_no_engine_says_so_and_is_not_ready_where_that_is_asked_for(plane: Plane) -> None:
    answer = await plane.get("/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "why": "serving, reaches no engine, nor does any other replica"}
    plane.runtime = built(changed(server__ready_when="engines"))
    answer = await plane.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"status": "not ready", "why": "reaches no engine"})
    plane.runtime.pools["one"].states[0].health.probe(True, 0.0)
    assert (await plane.get("/readyz")).json() == {"status": "ready", "why": "serving"}


async def test_metrics_are_prometheus_text(plane: Plane) -> None:
    answer = await plane.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "# TYPE promptlane_requests_total counter" in answer.text


async def test_a_scraper_that_reads_open_metrics_gets_it(plane: Plane) -> None:
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.3"}
    answer = await plane.http.get("/metrics", headers=accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.text.endswith("# EOF\n")


async def test_the_state_shows_who_is_served_by_what(plane: Plane) -> None:
    state = (await plane.get("/admin/state")).json()
    assert state["tenants"]["acme"]["models"]["big"] == {"pool": "one", "engine_model": "tiny"}
    assert state["tenants"]["acme"]["limits"]["requests_per_minute"] == 5
    (endpoint, _) = state["pools"]["one"]["endpoints"]
    assert (endpoint["name"], endpoint["healthy"], endpoint["health"]) == ("one-0", False, "unknown")
    assert endpoint["engine"]["age_seconds"] is None
    assert state["calibration"]["acme/big"] == {"bytes_per_token": 4.0, "unsure_factor": 2.0, "block_bytes": 256}


async def test_the_state_shows_what_was_learned(plane: Plane) -> None:
    state = plane.runtime.pools["one"].states[0]
    state.feedback.answered(1000, 500, 480)
    plane.runtime.gateway.services.measurer.lengths.observe("acme", "big", 300)
    shown = (await plane.get("/admin/state")).json()
    (endpoint, _) = shown["pools"]["one"]["endpoints"]
    assert endpoint["learned"]["prefill_per_token"] == state.rates.prefill
    assert (endpoint["affinity"]["judged"], endpoint["affinity"]["found_tokens"]) == (1, 480.0)
    assert shown["pools"]["one"]["waiting_by_lane"] == {"short": 0, "long": 0, "batch": 0}
    assert [(one["tenant"], one["model"], one["answers"]) for one in shown["answers"]] == [("acme", "big", 1.0)]


async def test_a_body_is_explained_by_the_state_of_this_moment(plane: Plane) -> None:
    body = b'{"model": "big", "messages": [{"role": "user", "content": "why?"}]}'
    down = await plane.http.post("/admin/explain?tenant=acme", content=body)
    assert down.status_code == 200
    assert "as the pool is now" in down.text
    assert down.text.rstrip().endswith("choice     none: no_endpoint")
    for state in plane.runtime.pools["one"].states:
        state.health.probe(True, 100.0)
    up = await plane.http.post("/admin/explain?tenant=acme&lane=batch", content=body)
    assert "lane       batch" in up.text
    assert up.text.rstrip().splitlines()[-1].startswith("choice     one-")


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", b"{}", 400),
        ("?tenant=nobody", b"{}", 400),
        ("?tenant=acme", b"{", 400),
        ("?tenant=acme", b" " * 40_000_000, 413),
    ],
)
async def test_what_cannot_be_explained_is_an_error_in_openais_shape(
    plane: Plane, query: str, body: bytes, status: int
) -> None:
    answer = await plane.http.post(f"/admin/explain{query}", content=body)
    assert (answer.status_code, set(answer.json())) == (status, {"error"})


async def test_no_secret_key_hash_or_salt_is_ever_shown(plane: Plane) -> None:
    hidden = [SECRET.decode(), cache_salt(SECRET, "acme"), sha256("acme-key"), "an-engines-own-key", "acme-key"]
    for path in ("/admin/state", "/metrics", "/healthz", "/readyz"):
        text = (await plane.get(path)).text
        assert not [secret for secret in hidden if secret in text]


async def test_a_page_of_another_site_gives_no_orders(plane: Plane) -> None:
    for origin in ("https://elsewhere.example", "null", "http://operators:81"):
        answer = await plane.http.post("/admin/reload", headers={"origin": origin})
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "cross_site")
    assert (await plane.http.post("/admin/reload", headers={"origin": "http://operators"})).status_code == 200
    assert (await plane.http.get("/healthz", headers={"origin": "https://elsewhere.example"})).status_code == 200


async def test_a_reload_answers_with_its_warnings(plane: Plane) -> None:
    answer = await plane.http.post("/admin/reload")
    assert (answer.status_code, answer.json()["status"]) == (200, "reloaded")
    assert answer.json()["warnings"] == ["server.port: changed; takes effect at the next restart"]


async def test_a_dry_run_is_ordered_as_one_and_what_was_sent_goes_with_an_order(plane: Plane) -> None:
    answer = await plane.http.post("/admin/reload?dry_run=true", content=b"server: {}")
    assert (answer.status_code, answer.json()["status"]) == (200, "good")
    assert (await plane.http.post("/admin/reload")).json()["status"] == "reloaded"
    assert plane.orders == [(True, b"server: {}"), (False, b"")]


async def test_a_refused_reload_says_every_problem(plane: Plane) -> None:
    plane.refused = [Problem("a.b", "one", 3), Problem("c", "two", None)]
    answer = await plane.http.post("/admin/reload")
    assert (answer.status_code, answer.json()) == (
        400,
        {"status": "refused", "problems": ["a.b (line 3): one", "c: two"]},
    )


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/admin/reload", 405), ("POST", "/admin/state", 405), ("GET", "/v1/models", 404), ("GET", "/", 404)],
)
async def test_nothing_else_is_served_here(plane: Plane, method: str, path: str, status: int) -> None:
    assert (await plane.http.request(method, path)).status_code == status


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (b"{", "body: Invalid JSON"),
        (b'{"tenant": "acme", "fault": "flood"}', "fault: Input should be 'kill', 'hang', 'refuse' or 'slow'"),
        (b'{"tenant": "acme", "seconds": 0}', "seconds: "),
        (b'{"tenant": "acme", "hook": ["rm"]}', "hook: Extra inputs are not permitted"),
        (b'{"tenant": "nobody"}', "There is no tenant 'nobody'. Known: acme, globex"),
        (b'{"tenant": "acme"}', "has 2 pools: name a model. Known: big, small"),
        (b'{"tenant": "globex"}', "has 0 pools: name a model. Known: none"),
        (b'{"tenant": "acme", "model": "small"}', "no other endpoint that could take over"),
    ],
)
async def test_a_drill_that_cannot_be_is_refused(plane: Plane, order: bytes, said: str) -> None:
    answer = await plane.http.post("/admin/drill", content=order)
    assert (answer.status_code, said in answer.json()["error"]["message"]) == (400, True), answer.text


async def test_an_order_for_a_drill_is_bounded(plane: Plane) -> None:
    assert (await plane.http.post("/admin/drill", content=b" " * 100_000)).status_code == 413


async def test_a_dry_run_tells_the_plan(plane: Plane) -> None:
    answer = await plane.http.post("/admin/drill", json={"tenant": "acme", "model": "big", "dry_run": True})
    plan = answer.json()
    assert (answer.status_code, plan["status"], plan["pool"]) == (200, "planned", "one")
    assert plan["target_seconds"] == 5
    assert (await plane.get("/admin/state")).json()["drills"] == []
