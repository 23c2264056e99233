"""Whatever a client sends, no byte of it reaches an engine of another tenant.

Random requests (hosts, keys, headers, bodies, raw bytes) go to a gateway with several tenants whose engines record
every byte. Each request carries a mark that occurs nowhere else.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.secret import cache_salt
from router.wire.openai import APIS, CONTROL_FIELDS
from tests.router.stack import SECRET, Stack, running

HOSTS = {"acme.llm.test": "acme", "llm.acme.example": "acme", "globex.llm.test": "globex", "open.llm.test": "open"}
KEYS = {"acme-key": "acme", "globex-key": "globex", "acme-scoped": "acme"}
POOLS = {"acme-0": "acme", "acme-1": "acme", "globex-0": "globex", "open-0": "open"}
ALLOWED = {b"host", b"content-length", b"content-type", b"accept-encoding", b"x-request-id", b"traceparent",
           b"tracestate", b"anthropic-version", b"anthropic-beta"}  # fmt: skip
PASSED = {"x-request-id", "traceparent"}
"""Of the odd headers those that engines get as they are: a key that a client writes there has not slipped out."""
MARKS = itertools.count()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running() as one:
        yield one


models = st.sampled_from(["tiny", "qwen2-7b", "secret-model", "free", "globex", "nothing", "acme/tiny"])
hosts = st.sampled_from(
    [*HOSTS, "ACME.LLM.TEST:80", "globex.llm.test.", "127.0.0.1", "x", "acme.llm.test@globex.llm.test"]
)
keys = st.sampled_from([*KEYS, "acme-old", "nobody", "", "acme-key,globex-key"])
odd_headers = st.dictionaries(
    st.sampled_from(
        [
            "x-forwarded-host",
            "x-vllm-priority",
            "x-session-id",
            "x-data-parallel-rank",
            "x-tenant",
            "x-request-id",
            "traceparent",
            "cookie",
            "x-promptlane-lane",
            "x-promptlane-endpoint",
            "forwarded",
            "api-key",
            "x-api-key",
        ]
    ),
    st.sampled_from(["globex.llm.test", "globex-key", "globex-0", "1", "batch", "00-0af7651916cd43dd8448eb211c80319c"]),
    max_size=4,
).map(lambda headers: {name: value for name, value in headers.items() if name not in PASSED or value not in KEYS})
odd_fields = st.dictionaries(
    st.sampled_from([*sorted(CONTROL_FIELDS), "user", "service_tier", "n", "stream", "stop", "vllm_xargs", "tenant"]),
    st.sampled_from([None, 1, -5, "globex", "flex", True, ["a"], {"kv_transfer_params": {"a": 1}, "priority": 1}]),
    max_size=4,
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, str, dict[str, str], dict[str, Any]]:
    path = draw(st.sampled_from([*APIS, "/v1/files", "/metrics"]))
    text = "mark"  # replaced by the request's own
    body = {
        "model": draw(models),
        "messages": [{"role": "user", "content": text}],
        "prompt": text,
        "input": draw(st.sampled_from([text, [text], [[1, 2, 3]]])),
        **draw(odd_fields),
    }
    for missing in draw(st.sets(st.sampled_from(["model", "messages", "prompt", "input"]), max_size=2)):
        body.pop(missing, None)
    return path, draw(hosts), draw(keys), draw(odd_headers), body


def owner(host: str, key: str, headers: dict[str, str]) -> str | None:
    """The only tenant whose engines this request may reach, by the rules as the docs have them."""
    of_host = HOSTS.get(host.lower().partition(":")[0].rstrip("."))
    credential = key or headers.get("x-api-key") or headers.get("api-key")
    if not credential:
        return of_host if of_host == "open" else None
    of_key = KEYS.get(credential)
    return None if of_host is not None and of_host != of_key else of_key


def check_engine_bytes(request: bytes, tenant: str) -> None:
    head, _, body = request.partition(b"\r\n\r\n")
    names = {line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]}
    assert names <= ALLOWED
    assert not any(key.encode() in head for key in KEYS)
    fields = json.loads(body)
    assert fields["cache_salt"] == cache_salt(SECRET, tenant)
    assert set(fields) & CONTROL_FIELDS == {"cache_salt"}
    if isinstance(fields.get("vllm_xargs"), dict):
        assert not set(fields["vllm_xargs"]) & CONTROL_FIELDS


@settings(
    max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(requests())
def test_no_byte_reaches_another_tenants_engine(
    stack: Stack, request: tuple[str, str, str, dict[str, str], dict[str, Any]]
) -> None:
    path, host, key, headers, body = request
    mark = f"mark-{next(MARKS)}-"
    for engine in stack.engines.values():
        engine.received.clear()
    sent = json.dumps(body).replace("mark", mark).encode()
    status, _, _ = stack.post(path, sent, key=key or None, headers={"host": host, **headers})
    assert 200 <= status < 600
    assert status != 500
    tenant = owner(host, key, headers)
    for name, engine in stack.engines.items():
        for received in engine.received:
            assert POOLS[name] == tenant, f"{name} was reached with the rights of {tenant}"
            check_engine_bytes(received, tenant)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(max_size=300), st.sampled_from(sorted(APIS)), st.sampled_from(["acme-key", "globex-key"]))
def test_any_bytes_as_a_body_are_answered_without_a_fault_of_ours(
    stack: Stack, body: bytes, path: str, key: str
) -> None:
    for engine in stack.engines.values():
        engine.received.clear()
    status, _, _ = stack.post(path, body, key=key)
    assert status in (200, 400, 404)
    assert all(POOLS[name] == KEYS[key] for name, engine in stack.engines.items() if engine.received)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.binary(min_size=1, max_size=200))
def test_raw_bytes_on_a_connection_never_reach_an_engine(stack: Stack, data: bytes) -> None:
    for engine in stack.engines.values():
        engine.received.clear()
    with stack.connect() as sock:
        sock.sendall(data + b"\r\n\r\n")
        sock.shutdown(1)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    assert b" 408 " not in answer, "who says no more is not waited for"
    assert not any(engine.received for engine in stack.engines.values())
