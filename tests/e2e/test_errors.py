"""Every wrong request gets a clear answer in the client's own format, and none reveals another tenant.

Floor: tests only.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx2
import pytest

from tests.e2e.bodies import chat, completion
from tests.e2e.stack import ALIAS, ENGINE_MODEL, GLOBEX_ONLY_MODEL, MAX_BODY_BYTES, Stack

CHAT = "/v1/chat/completions"


def error_of(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """The error object, after checking that it is one of the gateway's own: four fields, and a code that is a text."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert answer.headers["x-request-id"]
    assert list(answer.json()) == ["error"]
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["code"], str)
    assert isinstance(error["message"], str)
    assert "Traceback" not in answer.text
    return error


@pytest.mark.parametrize("model", ["no-such-model", GLOBEX_ONLY_MODEL, "globex-qwen", "acme-0"])
def test_a_model_that_is_not_the_tenants_is_a_404_without_a_list(acme: httpx2.Client, model: str) -> None:
    error = error_of(acme.post(CHAT, json=chat(model)), 404)
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    others = {ALIAS, ENGINE_MODEL, GLOBEX_ONLY_MODEL} - {model}
    assert not [name for name in others if name in error["message"]]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"not json", b'{"model": "qwen2-7b"', b"[1, 2]", b'"text"', b"null", b"\xff\xfe{}", b"[" * 5000],
    ids=["empty", "brace", "text", "cut", "list", "string", "null", "not UTF-8", "deep"],
)
def test_a_body_that_is_no_json_object_is_a_400(acme: httpx2.Client, body: bytes) -> None:
    answer = acme.post(CHAT, content=body, headers={"content-type": "application/json"})
    assert error_of(answer, 400)["type"] == "invalid_request_error"


def test_a_missing_model_is_a_400_that_names_the_field(acme: httpx2.Client) -> None:
    body = chat()
    del body["model"]
    error = error_of(acme.post(CHAT, json=body), 400)
    assert error["param"] == "model"


@pytest.mark.parametrize("model", [17, None, "", ["qwen2-7b"], {"name": "qwen2-7b"}])
def test_a_model_that_is_no_name_is_a_400(acme: httpx2.Client, model: object) -> None:
    assert error_of(acme.post(CHAT, json={**chat(), "model": model}), 400)["param"] == "model"


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/chat", "/v1/nothing", "/metrics", "/invocations", "/sleep", "/v1/load_lora_adapter"]
)
def test_an_unknown_route_is_a_404_and_is_never_forwarded(acme: httpx2.Client, path: str) -> None:
    assert error_of(acme.post(path, json=chat()), 404)["type"] == "invalid_request_error"
    assert error_of(acme.get(path), 404)["type"] == "invalid_request_error"


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("DELETE", CHAT), ("POST", "/v1/models")])
def test_a_wrong_method_is_a_405_that_names_the_right_one(acme: httpx2.Client, method: str, path: str) -> None:
    answer = acme.request(method, path)
    assert error_of(answer, 405)["code"] == "method_not_allowed"
    assert answer.headers["allow"]


def test_too_large_a_body_is_a_413(acme: httpx2.Client) -> None:
    body = json.dumps(chat(text="x" * MAX_BODY_BYTES)).encode()
    assert error_of(acme.post(CHAT, content=body), 413)["code"] == "request_too_large"


def test_too_large_a_body_of_unknown_length_is_a_413(acme: httpx2.Client) -> None:
    pieces = (b"x" * 65536 for _ in range(MAX_BODY_BYTES // 65536 + 2))
    try:
        answer = acme.post(CHAT, content=pieces)
    except httpx2.WriteError:
        return  # closed while the rest was still being sent, which HTTP allows
    assert error_of(answer, 413)["code"] == "request_too_large"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {**chat(ENGINE_MODEL), "temperature": -1}),
        (CHAT, {**chat(ENGINE_MODEL), "max_tokens": 900_000}),
        (CHAT, {**chat(ENGINE_MODEL), "messages": "not a list"}),
        (CHAT, {**chat(ENGINE_MODEL), "stream_options": {"include_usage": True}}),
        (CHAT, {"model": ENGINE_MODEL}),
        ("/v1/completions", {**completion(ENGINE_MODEL), "temperature": -1}),
    ],
    ids=["temperature", "max_tokens", "messages", "stream options", "nothing asked", "completion"],
)
def test_an_error_of_the_engine_passes_unchanged(
    stack: Stack, initech: httpx2.Client, path: str, body: dict[str, object]
) -> None:
    request_id = f"e2e-{uuid.uuid4().hex}"
    answer = initech.post(path, json=body, headers={"x-request-id": request_id})
    assert answer.status_code == 400
    assert answer.content == stack.tap.answer_holding(request_id.encode())
    assert answer.json()["error"]["code"] == 400, "the engine's own error, not the gateway's"


def test_an_error_of_the_engine_is_not_held_against_it(stack: Stack, acme: httpx2.Client) -> None:
    for _ in range(10):
        assert acme.post(CHAT, json=chat(temperature=-1)).status_code == 400
    assert all(endpoint["healthy"] for endpoint in stack.endpoints().values())
    assert acme.post(CHAT, json=chat()).status_code == 200


def test_the_anthropic_route_reports_errors_in_its_own_shape(acme: httpx2.Client, nobody: httpx2.Client) -> None:
    body = {"model": "no-such-model", "max_tokens": 8, "messages": [{"role": "user", "content": "Hi"}]}
    unknown = acme.post("/v1/messages", json=body)
    assert unknown.status_code == 404
    assert unknown.json()["type"] == "error"
    assert unknown.json()["error"]["type"] == "not_found_error"
    unidentified = nobody.post("/v1/messages", json=body)
    assert unidentified.status_code == 401
    assert unidentified.json()["error"]["type"] == "authentication_error"


def test_an_embedding_is_answered_or_refused_by_the_engine_itself(stack: Stack, acme: httpx2.Client) -> None:
    body = {"model": ENGINE_MODEL, "input": "a text"}
    through = acme.post("/v1/embeddings", json=body)
    direct = httpx2.post(f"{stack.engines['acme-0']}/v1/embeddings", json=body, timeout=60.0, trust_env=False)
    assert through.status_code == direct.status_code
    if stack.kind == "vllm":  # a model that generates has no embeddings: vLLM does not know the route
        assert (through.status_code, through.content) == (404, b'{"detail":"Not Found"}')
    else:
        assert len(through.json()["data"][0]["embedding"]) > 0
