"""Header rules and errors as bytes: what may pass, what a host, a key and a request id look like, how a no is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.http import (
    REQUEST_ALLOWED,
    RESPONSE_ALLOWED,
    bearer,
    host_name,
    request_headers,
    response_headers,
    sane_request_id,
)

header_names = st.sampled_from(sorted(REQUEST_ALLOWED | RESPONSE_ALLOWED)) | st.binary(min_size=1, max_size=12)
headers = st.lists(st.tuples(header_names, st.binary(max_size=12)), max_size=12)


@given(headers)
def test_an_engine_gets_our_three_headers_and_the_allowed_ones_in_their_order(
    received: list[tuple[bytes, bytes]],
) -> None:
    sent = request_headers(received, b"id-1")
    assert sent[:3] == [
        (b"content-type", b"application/json"), (b"accept-encoding", b"identity"), (b"x-request-id", b"id-1")
    ]  # fmt: skip
    assert sent[3:] == [pair for pair in received if pair[0] in REQUEST_ALLOWED]


@given(headers)
def test_a_client_gets_only_what_describes_the_answer(received: list[tuple[bytes, bytes]]) -> None:
    assert response_headers(received) == [pair for pair in received if pair[0] in RESPONSE_ALLOWED]


@pytest.mark.parametrize(
    "name",
    [b"authorization", b"cookie", b"x-vllm-priority", b"x-data-parallel-rank", b"x-session-id", b"host", b"connection",
     b"transfer-encoding", b"content-length", b"x-request-id", b"x-api-key", b"x-forwarded-for"],
)  # fmt: skip
def test_what_engines_and_hops_read_is_not_a_clients_to_say(name: bytes) -> None:
    assert name not in REQUEST_ALLOWED


@pytest.mark.parametrize(
    ("value", "host"),
    [
        (b"acme.llm.test", "acme.llm.test"),
        (b"ACME.LLM.test:8443", "acme.llm.test"),
        (b" acme.llm.test. ", "acme.llm.test"),
        (b"[::1]:80", "[::1]"),
        (b"127.0.0.1:1", "127.0.0.1"),
        (b"", None),
        (b".", None),
        (b"a b", None),
        (b"a:port", None),
        (b"a@b", None),
        (b"a/b", None),
        (b"acme\xff", None),
        (b"acme\r\nx: y", None),
    ],
)
def test_a_host_is_read_without_port_case_and_final_dot(value: bytes, host: str | None) -> None:
    assert host_name(value) == host


@given(st.binary(max_size=40))
def test_any_bytes_are_a_harmless_host_or_none(value: bytes) -> None:
    host = host_name(value)
    assert host is None or (host == host.lower() and host.isascii() and not set(host) & set(" @/\\\r\n"))


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (b"Bearer pl-1", b"pl-1"),
        (b"bEARER   pl-1  ", b"pl-1"),
        (b"Bearer ", None),
        (b"Bearer", None),
        (b"Basic pl-1", None),
        (b"", None),
        (None, None),
    ],
)
def test_only_a_bearer_credential_is_a_key(value: bytes | None, key: bytes | None) -> None:
    assert bearer(value) == key


@given(st.binary(max_size=140))
def test_a_request_id_is_short_printable_and_harmless_or_refused(value: bytes) -> None:
    kept = sane_request_id(value)
    assert kept in (None, value)
    if kept is not None:
        assert 0 < len(kept) <= 128
        assert kept.decode("ascii").isprintable()
        assert not set(kept) & set(b" \"'<>\\\r\n;,")


def test_usual_request_ids_are_kept() -> None:
    for value in (b"req_011CSHoEeqs5C35K2UUqR7Fy", b"01ARZ3NDEKTSV4RRFFQ69G5FAV", b"a:b.c-d", b"x" * 128):
        assert sane_request_id(value) == value
