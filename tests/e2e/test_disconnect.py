"""A client that leaves frees the engine's slot at once; a client that stays gets each chunk as it is made.

Floor: tests only.
"""

from __future__ import annotations

import json
import subprocess

import httpx2
import pytest

from tests.e2e.bodies import LONG_OUTPUT_TOKENS, chat
from tests.e2e.curl import curl_command
from tests.e2e.stack import ACME_KEY, Stack, poll

ACME = ("acme-0", "acme-1")


def curl_until_killed(stack: Stack, *, stream: bool) -> subprocess.Popen[bytes]:
    body = json.dumps(chat(max_tokens=LONG_OUTPUT_TOKENS, stream=stream))
    argv = [*curl_command(), "-H", f"Authorization: Bearer {ACME_KEY}"]
    argv += ["--data", body, f"{stack.url}/v1/chat/completions"]
    return subprocess.Popen(argv, stdout=subprocess.PIPE)


def in_flight(stack: Stack) -> int:
    endpoints = stack.endpoints()
    return sum(endpoints[name]["in_flight"] for name in ACME)


@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "waiting for the whole answer"])
def test_a_client_that_is_killed_frees_the_engines_slot(stack: Stack, stream: bool) -> None:
    poll("no request of an earlier test", lambda: stack.running(*ACME) == 0)
    with curl_until_killed(stack, stream=stream) as client:
        try:
            if stream:
                assert client.stdout is not None
                assert client.stdout.readline().startswith(b"data: ")
            poll("the engine runs the request", lambda: stack.running(*ACME) == 1)
            assert in_flight(stack) == 1
        finally:
            client.kill()
    poll("the engine's slot is free", lambda: stack.running(*ACME) == 0)
    poll("the gateway's reservation is settled", lambda: in_flight(stack) == 0)


def test_a_client_that_closes_its_stream_frees_the_engines_slot(stack: Stack, acme: httpx2.Client) -> None:
    body = chat(max_tokens=LONG_OUTPUT_TOKENS, stream=True)
    with acme.stream("POST", "/v1/chat/completions", json=body) as answer:
        pieces = answer.iter_bytes()  # kept: dropping the iterator would close the connection here already
        assert next(pieces).startswith(b"data: ")
        # It has hundreds of chunks still to make; its gauge follows the first one by a moment.
        poll("the engine is still generating", lambda: stack.running(*ACME) == 1)
    poll("the engine's slot is free", lambda: stack.running(*ACME) == 0)


def test_a_killed_client_is_not_held_against_the_engine(stack: Stack, acme: httpx2.Client) -> None:
    for _ in range(6):
        with acme.stream(
            "POST", "/v1/chat/completions", json=chat(max_tokens=LONG_OUTPUT_TOKENS, stream=True)
        ) as answer:
            next(answer.iter_bytes())
    poll("every slot is free", lambda: stack.running(*ACME) == 0)
    assert all(endpoint["healthy"] for endpoint in stack.endpoints().values())
    assert acme.post("/v1/chat/completions", json=chat()).status_code == 200
