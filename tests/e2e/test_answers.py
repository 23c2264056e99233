"""What a tenant's client is answered, and that it is the engine's own answer.

Floor: tests only.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx2
import pytest

from tests.e2e.bodies import MESSAGE, RESPONSE, as_if_not_asked, chat, completion, events, tool_conversation
from tests.e2e.stack import ALIAS, ENGINE_MODEL, GLOBEX_ONLY_MODEL, Stack


def test_a_chat_is_answered_by_an_engine_of_the_tenants_own_pool(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/chat/completions", json=chat())
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"]
    assert body["usage"]["completion_tokens"] == 8
    assert answer.headers["x-promptlane-endpoint"] in {"acme-0", "acme-1"}


def test_every_answer_carries_the_routing_headers_and_a_request_id(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/chat/completions", json=chat())
    assert answer.headers["x-promptlane-lane"] == "short"
    assert int(answer.headers["x-promptlane-cached-tokens"]) >= 0
    assert float(answer.headers["x-promptlane-queue-ms"]) >= 0
    assert answer.headers["x-request-id"]


def test_a_request_id_of_the_client_reaches_the_engine_and_comes_back(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/chat/completions", json=chat(), headers={"x-request-id": "e2e-request-17"})
    assert answer.headers.get_list("x-request-id") == ["e2e-request-17"]
    assert answer.json()["id"] == "chatcmpl-e2e-request-17"


@pytest.mark.parametrize("unusable", ['has spaces and "quotes"', "x" * 5000])
def test_an_unusable_request_id_is_replaced(acme: httpx2.Client, unusable: str) -> None:
    answer = acme.post("/v1/chat/completions", json=chat(), headers={"x-request-id": unusable})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-request-id"] not in ("", unusable)


def test_a_completion_is_answered(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/completions", json=completion())
    assert answer.status_code == 200, answer.text
    assert answer.json()["object"] == "text_completion"
    assert answer.json()["choices"][0]["text"]


def test_a_stream_ends_with_usage_when_asked_for(acme: httpx2.Client) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    answer = acme.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    chunks = events(answer.content)
    assert chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 8


def test_a_stream_has_no_usage_when_not_asked_for(acme: httpx2.Client) -> None:
    chunks = events(acme.post("/v1/chat/completions", json=chat(stream=True)).content)
    assert all(chunk["choices"] and not chunk.get("usage") for chunk in chunks)


USAGE: dict[str, Any] = {"stream_options": {"include_usage": True}}
BODIES = {
    "chat": ("/v1/chat/completions", chat()),
    "chat stream": ("/v1/chat/completions", chat(stream=True, **USAGE)),
    "long stream": ("/v1/chat/completions", chat(stream=True, max_tokens=200, **USAGE)),
    "tools": ("/v1/chat/completions", tool_conversation()),
    "completion": ("/v1/completions", completion()),
    "completion stream": ("/v1/completions", completion(stream=True, **USAGE)),
    "echoed model pair": ("/v1/completions", completion(prompt='He wrote "model":"tiny" there', echo=True)),
    "message": ("/v1/messages", MESSAGE),
    "message stream": ("/v1/messages", {**MESSAGE, "stream": True}),
    "response": ("/v1/responses", RESPONSE),
    "response stream": ("/v1/responses", {**RESPONSE, "stream": True}),
}


NOT_ASKED = {
    "chat": ("/v1/chat/completions", chat(stream=True)),
    "long": ("/v1/chat/completions", chat(stream=True, max_tokens=200)),
    "log probabilities": ("/v1/chat/completions", chat(stream=True, logprobs=True, top_logprobs=2)),
    "token ids": ("/v1/chat/completions", chat(stream=True, return_token_ids=True)),
    "three choices": ("/v1/chat/completions", chat(stream=True, n=3, temperature=1.0, stop=["e"], max_tokens=40)),
    "other options": ("/v1/chat/completions", chat(stream=True, stream_options={"continuous_usage_stats": True})),
    "completion": ("/v1/completions", completion(stream=True)),
    "echo": ("/v1/completions", completion(prompt='"usage":{} "choices":[]', echo=True, stream=True)),
    "two prompts": ("/v1/completions", completion(prompt=["Once upon", "a time"], stream=True)),
}


@pytest.mark.parametrize("model", [ENGINE_MODEL, ALIAS])
@pytest.mark.parametrize("kind", NOT_ASKED)
def test_a_client_that_did_not_ask_for_usage_gets_the_bytes_that_it_would_get_from_the_engine(
    stack: Stack, initech: httpx2.Client, kind: str, model: str
) -> None:
    path, body = NOT_ASKED[kind]
    request_id = f"e2e-{uuid.uuid4().hex}"
    answer = initech.post(path, json={**body, "model": model}, headers={"x-request-id": request_id})
    assert answer.status_code == 200, answer.text
    engines_own = stack.tap.answer_holding(request_id.encode())
    assert b'"choices":[],"usage":{' in engines_own, "the engine was not asked"
    wanted = as_if_not_asked(engines_own)
    assert answer.content == wanted.replace(f'"model":"{ENGINE_MODEL}"'.encode(), f'"model":"{model}"'.encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat(ENGINE_MODEL, max_tokens=1, stream=True)),
        ("/v1/completions", completion(ENGINE_MODEL, max_tokens=1, stream=True)),
    ],
)
def test_a_stream_of_one_token_is_the_one_that_the_engine_itself_sends(
    stack: Stack, initech: httpx2.Client, path: str, body: dict[str, Any]
) -> None:
    def same(answer: httpx2.Response) -> bytes:
        return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", answer.content)

    direct = httpx2.post(stack.engines["acme-0"] + path, json=body, timeout=60.0, trust_env=False)
    assert same(initech.post(path, json=body)) == same(direct)
    assert b"usage" not in direct.content


@pytest.mark.parametrize("options", [[], "yes", {"include_usage": "banana"}, 5])
def test_stream_options_that_are_none_get_the_engines_own_error(initech: httpx2.Client, options: object) -> None:
    answer = initech.post("/v1/chat/completions", json=chat(stream=True, stream_options=options))
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] in ("Bad Request", "BadRequestError")


@pytest.mark.parametrize("kind", BODIES)
def test_without_an_alias_every_byte_is_the_engines_own(stack: Stack, initech: httpx2.Client, kind: str) -> None:
    path, body = BODIES[kind]
    request_id = f"e2e-{uuid.uuid4().hex}"
    answer = initech.post(path, json={**body, "model": ENGINE_MODEL}, headers={"x-request-id": request_id})
    assert answer.status_code == 200, answer.text
    assert answer.content == stack.tap.answer_holding(request_id.encode())


@pytest.mark.parametrize("kind", BODIES)
def test_an_alias_is_all_that_differs_from_the_engines_own_bytes(
    stack: Stack, initech: httpx2.Client, kind: str
) -> None:
    path, body = BODIES[kind]
    request_id = f"e2e-{uuid.uuid4().hex}"
    answer = initech.post(path, json={**body, "model": ALIAS}, headers={"x-request-id": request_id})
    assert answer.status_code == 200, answer.text
    alias, own = f'"model":"{ALIAS}"'.encode(), f'"model":"{ENGINE_MODEL}"'.encode()
    engines_own = stack.tap.answer_holding(request_id.encode())
    assert own not in answer.content
    assert answer.content.count(alias) == engines_own.count(own) > 0
    assert answer.content == engines_own.replace(own, alias)


def test_an_alias_stands_in_every_chunk_of_a_stream(acme: httpx2.Client) -> None:
    body = chat(stream=True, stream_options={"include_usage": True})
    chunks = events(acme.post("/v1/chat/completions", json=body).content)
    assert {chunk["model"] for chunk in chunks} == {ALIAS}


def test_tenants_reach_only_their_own_engines(stack: Stack, acme: httpx2.Client, globex: httpx2.Client) -> None:
    def prompt_tokens(endpoint: str) -> float:
        return stack.metric(endpoint, "vllm:prompt_tokens_total")

    before = {name: prompt_tokens(name) for name in stack.engines}
    answer = globex.post("/v1/chat/completions", json=chat(GLOBEX_ONLY_MODEL))
    assert answer.headers["x-promptlane-endpoint"] == "globex-0"
    assert prompt_tokens("globex-0") > before["globex-0"]
    assert [prompt_tokens(name) for name in ("acme-0", "acme-1")] == [before["acme-0"], before["acme-1"]]
    after = prompt_tokens("globex-0")
    acme.post("/v1/chat/completions", json=chat())
    assert prompt_tokens("globex-0") == after


def test_responses_are_answered_under_the_alias(acme: httpx2.Client) -> None:
    answer = acme.post("/v1/responses", json=RESPONSE)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["object"], body["model"]) == ("response", ALIAS)
    assert body["usage"]["output_tokens"] == 8
    assert answer.headers["x-promptlane-endpoint"] in {"acme-0", "acme-1"}


def test_text_is_turned_into_tokens_and_back(acme: httpx2.Client) -> None:
    text = "hello there, said the fox"
    tokens = acme.post("/tokenize", json={"model": ALIAS, "prompt": text, "add_special_tokens": False})
    assert tokens.status_code == 200, tokens.text
    assert tokens.json()["count"] == len(tokens.json()["tokens"]) > 0
    back = acme.post("/detokenize", json={"model": ALIAS, "tokens": tokens.json()["tokens"]})
    assert back.json()["prompt"] == text


def test_the_model_list_is_the_tenants_own(acme: httpx2.Client, globex: httpx2.Client) -> None:
    assert {model["id"] for model in acme.get("/v1/models").json()["data"]} == {ALIAS, ENGINE_MODEL}
    assert {model["id"] for model in globex.get("/v1/models").json()["data"]} == {GLOBEX_ONLY_MODEL}


def test_one_model_is_shown_to_its_tenant_only(acme: httpx2.Client, globex: httpx2.Client) -> None:
    shown = globex.get(f"/v1/models/{GLOBEX_ONLY_MODEL}").json()
    assert (shown["id"], shown["object"]) == (GLOBEX_ONLY_MODEL, "model")
    assert acme.get(f"/v1/models/{GLOBEX_ONLY_MODEL}").status_code == 404
