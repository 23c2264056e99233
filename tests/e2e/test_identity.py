"""Who a request belongs to: by host, by key, by both, or by a host that needs no key.

Floor: tests only.
"""

from __future__ import annotations

import subprocess

import httpx2
import pytest

from tests.e2e.bodies import chat
from tests.e2e.curl import curl_command
from tests.e2e.stack import (
    ACME_EXPIRED_KEY,
    ACME_HOST,
    ACME_KEY,
    ACME_OWN_HOST,
    ALIAS,
    GLOBEX_HOST,
    GLOBEX_KEY,
    GLOBEX_ONLY_MODEL,
    Stack,
)

CHAT = "/v1/chat/completions"


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize(
    "host",
    [None, ACME_HOST, ACME_OWN_HOST, "ACME.LLM.Example.COM", f"{ACME_HOST}:8443", f"{ACME_HOST}.", "unknown.example"],
)
def test_a_key_is_accepted_alone_and_on_each_of_its_tenants_hosts(stack: Stack, host: str | None) -> None:
    with stack.client(ACME_KEY, host) as client:
        answer = client.post(CHAT, json=chat())
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-promptlane-endpoint"].startswith("acme-")


@pytest.mark.parametrize("header", ["x-api-key", "api-key"])
def test_a_key_is_accepted_in_the_other_headers_that_clients_use(nobody: httpx2.Client, header: str) -> None:
    assert nobody.post(CHAT, json=chat(), headers={header: ACME_KEY}).status_code == 200


@pytest.mark.parametrize(
    ("key", "host"), [(ACME_KEY, GLOBEX_HOST), (GLOBEX_KEY, ACME_HOST), (GLOBEX_KEY, ACME_OWN_HOST)]
)
def test_a_key_on_another_tenants_host_is_a_403(stack: Stack, key: str, host: str) -> None:
    with stack.client(key, host) as client:
        assert refusal(client.post(CHAT, json=chat())) == (403, "wrong_tenant")
        assert refusal(client.get("/v1/models")) == (403, "wrong_tenant")


@pytest.mark.parametrize("key", [None, "pl-unknown", ACME_EXPIRED_KEY, "", ACME_KEY + "x", ACME_KEY[:-1]])
@pytest.mark.parametrize("host", [None, ACME_HOST])
def test_no_unknown_or_expired_key_is_a_401(stack: Stack, key: str | None, host: str | None) -> None:
    with stack.client(key, host) as client:
        assert refusal(client.post(CHAT, json=chat())) == (401, "invalid_api_key")


def test_an_anonymous_tenants_host_needs_no_key(stack: Stack) -> None:
    with stack.client(None, GLOBEX_HOST) as client:
        answer = client.post(CHAT, json=chat(GLOBEX_ONLY_MODEL))
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-promptlane-endpoint"] == "globex-0"


def test_an_unknown_key_is_refused_on_an_anonymous_host_too(stack: Stack) -> None:
    with stack.client("pl-unknown", GLOBEX_HOST) as client:
        assert refusal(client.post(CHAT, json=chat(GLOBEX_ONLY_MODEL))) == (401, "invalid_api_key")


def test_a_forwarded_host_from_an_untrusted_peer_counts_for_nothing(nobody: httpx2.Client) -> None:
    answer = nobody.post(CHAT, json=chat(GLOBEX_ONLY_MODEL), headers={"x-forwarded-host": GLOBEX_HOST})
    assert refusal(answer) == (401, "invalid_api_key")


def curl(stack: Stack, *arguments: str) -> str:
    argv = [*curl_command(), *arguments, f"{stack.url}{CHAT}"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_curl_with_only_a_host_header_and_a_key_works(stack: Stack) -> None:
    body = f'{{"model": "{ALIAS}", "max_tokens": 4, "messages": [{{"role": "user", "content": "Hi"}}]}}'
    answer = curl(stack, "-H", f"Host: {ACME_HOST}", "-H", f"Authorization: Bearer {ACME_KEY}", "--data", body)
    assert f'"model":"{ALIAS}"' in answer
    assert '"chat.completion"' in answer


def test_curl_with_only_a_host_header_is_refused(stack: Stack) -> None:
    assert '"invalid_api_key"' in curl(stack, "-H", f"Host: {ACME_HOST}", "--data", "{}")
