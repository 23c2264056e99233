"""What a body says of the cache, and the key that its answer is kept under."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.response_cache import has_one_answer
from router.response_cache.asked import asked_of, key_of, wishes
from router.secret import response_cache_key
from router.wire.openai import APIS, read_body

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
MESSAGES = [{"role": "user", "content": "hello"}]
SECRET = response_cache_key(b"a secret", "acme")


def one_answer(path: str, **fields: Any) -> bool:
    data = json.dumps({"model": "m", **fields}).encode()
    body = read_body(APIS[path], data)
    return has_one_answer(asked_of(APIS[path], body, data))


def image(url: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]


@pytest.mark.parametrize(
    ("path", "fields", "one"),
    [
        (CHAT, {"temperature": 0}, True),
        (CHAT, {"temperature": 0.0, "stream": True, "n": 1, "best_of": 1}, True),
        (CHAT, {"seed": 0}, True),
        (CHAT, {"seed": -5, "temperature": 0.7}, True),
        (CHAT, {}, False),
        (CHAT, {"temperature": None, "seed": None}, False),
        (CHAT, {"temperature": False}, False),
        (CHAT, {"temperature": "0"}, False),
        (CHAT, {"temperature": [0]}, False),
        (CHAT, {"temperature": 0, "n": 2}, False),
        ("/v1/completions", {"seed": 1, "best_of": 3}, False),
        (CHAT, {"temperature": 0, "messages": image("data:image/png;base64,AAAA")}, True),
        (CHAT, {"temperature": 0, "messages": image("https://example.com/now.png")}, False),
        (CHAT, {"temperature": 0, "messages": [{"role": "user", "content": '{"url": "https://example.com"}'}]}, True),
        ("/v1/messages", {"temperature": 0, "max_tokens": 5}, True),
        ("/v1/messages", {"seed": 1, "max_tokens": 5}, False),
        ("/v1/messages/count_tokens", {"temperature": 0}, False),
        (RESPONSES, {"temperature": 0, "store": False}, True),
        (RESPONSES, {"temperature": 0}, False),
        (RESPONSES, {"temperature": 0, "store": False, "previous_response_id": "r"}, False),
        (RESPONSES, {"temperature": 0, "store": False, "tools": [{"type": "mcp"}]}, False),
        ("/v1/embeddings", {"input": "x"}, True),
        ("/v1/rerank", {"query": "x", "documents": ["y"]}, True),
        ("/tokenize", {"prompt": "x"}, False),
    ],
)
def test_a_body_says_whether_it_has_one_answer(path: str, fields: dict[str, Any], one: bool) -> None:
    assert one_answer(path, **fields) is one


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        (None, (True, True)),
        (b"no-store", (False, False)),
        (b"no-cache", (False, True)),
        (b"No-Cache, No-Store", (False, False)),
        (b"max-age=5 , NO-CACHE", (False, True)),
        (b"no-cachet", (True, True)),
    ],
)
def test_a_client_may_want_a_new_answer_or_nothing_of_the_cache(said: bytes | None, wanted: tuple[bool, bool]) -> None:
    assert wishes(said) == wanted


def test_another_tenant_api_model_pool_dialect_or_body_is_another_key() -> None:
    spec, ask = APIS[CHAT], b'{"model":"m"}'
    keys = [
        key_of(SECRET, spec, ("m", "p"), [], ask),
        key_of(response_cache_key(b"a secret", "globex"), spec, ("m", "p"), [], ask),
        key_of(response_cache_key(b"another", "acme"), spec, ("m", "p"), [], ask),
        key_of(SECRET, APIS[RESPONSES], ("m", "p"), [], ask),
        key_of(SECRET, spec, ("n", "p"), [], ask),
        key_of(SECRET, spec, ("m", "q"), [], ask),
        key_of(SECRET, spec, ("mp", ""), [], ask),
        key_of(SECRET, spec, ("m", "p"), [(b"anthropic-version", b"2023-06-01")], ask),
        key_of(SECRET, spec, ("m", "p"), [(b"anthropic-beta", b"2023-06-01")], ask),
        key_of(SECRET, spec, ("m", "p"), [], b'{"model":"m","seed":1}'),
        key_of(SECRET, spec, ("m", "p"), [], b'{"model":"m","seed":1,"tools":[{"a":1,"b":2}]}'),
        key_of(SECRET, spec, ("m", "p"), [], b'{"model":"m","seed":1,"tools":[{"b":2,"a":1}]}'),
        key_of(SECRET, spec, ("m", "p"), [], b"no JSON"),
    ]
    assert len(set(keys)) == len(keys)
    assert {len(key) for key in keys} == {32}


def test_headers_that_engines_do_not_read_and_their_order_change_no_key() -> None:
    version, beta = (b"anthropic-version", b"1"), (b"anthropic-beta", b"2")
    keys = {
        key_of(SECRET, APIS[CHAT], ("m", "p"), headers, b"{}")
        for headers in ([version, beta, (b"x-request-id", b"1")], [(b"traceparent", b"00"), beta, version])
    }
    assert len(keys) == 1


def test_how_a_body_is_spelled_changes_no_key() -> None:
    bodies = (b'{"model":"m","stop":["a","b"]}', b'{ "stop": ["\\u0061" , "b"],\n"model":"m" }')
    assert len({key_of(SECRET, APIS[CHAT], ("m", "p"), [], body) for body in bodies}) == 1


@given(st.lists(st.text(max_size=4), min_size=2, max_size=2), st.lists(st.text(max_size=4), min_size=2, max_size=2))
def test_parts_never_run_into_each_other(one: list[str], other: list[str]) -> None:
    def key(places: list[str]) -> bytes:
        return key_of(SECRET, APIS[CHAT], places, [], b"{}")

    assert (key(one) == key(other)) == (one == other)
