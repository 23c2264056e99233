"""The data plane's edges: models, paths, methods and what browsers of other origins may do."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from router.app import App, with_cors
from router.assembly import build
from router.metrics import Metrics
from router.process import Process
from tests.router.stack import COUNTER, SECRET, Stack, two_tenants

ORIGIN = "https://app.example.com"


def app_of(**server: Any) -> Any:
    """The app as `serve` wraps it; its engines are never reached."""
    stack = Stack(two_tenants(**server), ["acme-0", "acme-1", "globex-0", "open-0"])
    for port, engine in enumerate(stack.engines.values(), start=1):
        engine.port = port
    config = stack.configure(two_tenants(**server))
    stack.loop.close()
    app = App(build(config, Process(SECRET, COUNTER, Metrics())))
    return with_cors(app, config.server.cors) if config.server.cors is not None else app


def ask(app: Any, method: str, path: str, **headers: str) -> tuple[int, dict[str, str], Any]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False} if not sent else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": fields, "client": ("127.0.0.1", 1)}
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent)
    found = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], found, json.loads(body) if body[:1] in (b"{", b"[") else body


@pytest.fixture(scope="module")
def app() -> Any:
    return app_of()


@pytest.fixture(scope="module")
def cors_app() -> Any:
    return app_of(cors={"allow_origins": [ORIGIN], "max_age": 120})


def test_a_model_is_described_as_openai_does(app: Any) -> None:
    status, headers, body = ask(app, "GET", "/v1/models/tiny", authorization="Bearer acme-key")
    assert (status, headers["content-type"]) == (200, "application/json")
    assert body.keys() == {"id", "object", "created", "owned_by"}
    assert (body["id"], body["object"], body["owned_by"]) == ("tiny", "model", "acme")
    assert isinstance(body["created"], int)


@pytest.mark.parametrize("name", ["nothing", "secret-model", "tiny/", "TINY", "../models"])
def test_a_model_that_is_not_the_tenants_is_404(app: Any, name: str) -> None:
    status, _, body = ask(app, "GET", f"/v1/models/{name}", authorization="Bearer acme-key")
    assert (status, body["error"]["code"]) == (404, "model_not_found")


def test_an_unknown_url_is_cut_in_its_error_and_needs_no_key(app: Any) -> None:
    status, headers, body = ask(app, "GET", "/" + "x" * 5000)
    assert (status, body["error"]["code"]) == (404, "unknown_url")
    assert len(body["error"]["message"]) < 400
    assert headers["x-request-id"]


def test_anthropics_paths_refuse_in_anthropics_shape(app: Any) -> None:
    status, headers, body = ask(app, "GET", "/v1/messages")
    assert (status, headers["allow"], body["type"]) == (405, "POST", "error")


def test_an_answer_always_carries_a_request_id(app: Any) -> None:
    for method, path in (("GET", "/v1/models"), ("GET", "/x"), ("POST", "/v1/chat/completions")):
        assert ask(app, method, path, x_request_id="mine-1")[1]["x-request-id"] == "mine-1"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT", "PATCH", "TRACE"])
def test_other_methods_are_refused(app: Any, method: str) -> None:
    assert ask(app, method, "/v1/models")[0] == 405
    assert ask(app, method, "/v1/chat/completions")[0] == 405


def test_an_overlong_model_name_is_not_sent_back_whole() -> None:
    async def scenario() -> bytes:
        sent: list[dict[str, Any]] = []
        messages = [{"type": "http.request", "body": json.dumps({"model": "x" * 100_000}).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            await asyncio.Event().wait()
            raise AssertionError

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", b"Bearer acme-key")]
        await app_of()(
            {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": headers, "client": None},
            receive,
            send,
        )
        return b"".join(message.get("body", b"") for message in sent)

    body = asyncio.run(scenario())
    assert json.loads(body)["error"]["code"] == "model_not_found"
    assert len(body) < 2000


# -- browsers


def test_without_cors_nothing_is_said_to_browsers(app: Any) -> None:
    status, headers, _ = ask(app, "OPTIONS", "/v1/models", origin=ORIGIN, access_control_request_method="POST")
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]


def test_a_preflight_request_is_answered_for_the_configured_origin(cors_app: Any) -> None:
    status, headers, _ = ask(
        cors_app,
        "OPTIONS",
        "/v1/chat/completions",
        origin=ORIGIN,
        access_control_request_method="POST",
        access_control_request_headers="authorization,content-type,x-stainless-os",
    )
    assert (status, headers["access-control-allow-origin"], headers["access-control-max-age"]) == (200, ORIGIN, "120")
    assert "POST" in headers["access-control-allow-methods"]
    assert "x-stainless-os" in headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in headers


def test_another_origin_gets_no_leave(cors_app: Any) -> None:
    status, headers, _ = ask(
        cors_app, "OPTIONS", "/v1/models", origin="https://evil.example", access_control_request_method="GET"
    )
    assert status == 400
    assert "access-control-allow-origin" not in headers
    assert "access-control-allow-origin" not in ask(cors_app, "GET", "/v1/models", origin="https://evil.example")[1]


def test_a_page_may_read_refusals_too(cors_app: Any) -> None:
    status, headers, body = ask(cors_app, "GET", "/v1/models", origin=ORIGIN)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert headers["access-control-allow-origin"] == ORIGIN


def test_a_page_may_read_every_header_that_sdks_act_on(cors_app: Any) -> None:
    _, headers, _ = ask(cors_app, "GET", "/v1/models", origin=ORIGIN, authorization="Bearer acme-key")
    exposed = {name.strip() for name in headers["access-control-expose-headers"].lower().split(",")}
    assert {"x-request-id", "retry-after", "x-promptlane-lane", "x-promptlane-endpoint"} <= exposed
    assert {"retry-after-ms", "x-should-retry", "x-ratelimit-remaining-requests", "x-ratelimit-reset-tokens"} <= exposed


# -- usage (what it says: tests/router/test_cli_usage.py)


def test_usage_is_for_keys_that_may_ask_for_it(app: Any) -> None:
    assert ask(app, "GET", "/v1/usage")[0] == 401
    status, _, body = ask(app, "GET", "/v1/usage", authorization="Bearer acme-scoped")
    assert (status, body["error"]["code"]) == (403, "scope_denied")
    status, headers, _ = ask(app, "POST", "/v1/usage", authorization="Bearer acme-key")
    assert (status, headers["allow"]) == (405, "GET")


def test_where_no_records_are_kept_there_is_no_usage(app: Any) -> None:
    status, _, body = ask(app, "GET", "/v1/usage", authorization="Bearer acme-key")
    assert (status, body["error"]["code"]) == (404, "usage_off")
