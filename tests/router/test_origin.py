"""Where a request says it comes from, and how much of that is believed."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest

from router.client import Client
from router.errors import BadRequest
from router.origin import Origin, credential, request_id

Pairs = list[tuple[bytes, bytes]]
PROXY = Origin([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def client(headers: Pairs, peer: str | None = "10.1.2.3") -> Client:
    async def never(*_: Any) -> Any:
        raise AssertionError("nothing is read or sent here")

    scope = {"headers": headers, "client": (peer, 1234) if peer is not None else None}
    return Client(scope, never, never)


def test_the_host_header_names_the_host() -> None:
    assert Origin().host(client([(b"host", b"ACME.test:80")])) == "acme.test"
    assert Origin().host(client([])) is None
    assert Origin().host(client([(b"host", b"a b")])) is None


@pytest.mark.parametrize("second", [b"acme.test", b"globex.test"])
def test_two_host_headers_are_refused_even_when_they_agree(second: bytes) -> None:
    with pytest.raises(BadRequest):
        PROXY.host(client([(b"host", b"acme.test"), (b"host", second), (b"x-forwarded-host", b"acme.test")]))


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("10.1.2.3", "globex.test"),
        ("fd00::1", "globex.test"),
        ("11.1.2.3", "acme.test"),
        ("", "acme.test"),
        (None, "acme.test"),
    ],
)
def test_a_forwarded_host_counts_from_a_trusted_proxy_only(peer: str | None, host: str) -> None:
    headers = [(b"host", b"acme.test"), (b"x-forwarded-host", b"Globex.test:443")]
    assert PROXY.host(client(headers, peer)) == host
    assert Origin().host(client(headers, peer)) == "acme.test"


def test_an_empty_forwarded_host_is_none_and_of_several_the_clients_own_comes_first() -> None:
    host = (b"host", b"acme.test")
    assert PROXY.host(client([host, (b"x-forwarded-host", b"")])) == "acme.test"
    assert PROXY.host(client([host, (b"x-forwarded-host", b"globex.test, inner.proxy")])) == "globex.test"


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", b"198.51.100.1", "203.0.113.9"),
        ("10.1.2.3", b"198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", b"6.6.6.6, 198.51.100.1, 10.9.9.9", "198.51.100.1"),
        ("10.1.2.3", b"10.9.9.9", "10.1.2.3"),
        ("10.1.2.3", b"", "10.1.2.3"),
        ("10.1.2.3", b" , ,", "10.1.2.3"),
    ],
)
def test_the_clients_address_is_what_the_nearest_trusted_proxy_saw(peer: str, forwarded: bytes, address: str) -> None:
    assert PROXY.address(client([(b"x-forwarded-for", forwarded)], peer)) == address


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([(b"authorization", b"Bearer a")], b"a"),
        ([(b"x-api-key", b"b")], b"b"),
        ([(b"api-key", b"c")], b"c"),
        ([(b"authorization", b"Bearer a"), (b"x-api-key", b"b"), (b"api-key", b"c")], b"a"),
        ([(b"authorization", b"Basic a"), (b"x-api-key", b"b")], b"b"),
        ([(b"authorization", b"Bearer "), (b"x-api-key", b"")], None),
        ([], None),
    ],
)
def test_a_key_is_found_in_any_of_the_usual_headers(headers: Pairs, key: bytes | None) -> None:
    assert credential(client(headers)) == key


def test_a_sane_request_id_is_kept_and_another_is_made_anew_each_time() -> None:
    assert request_id(client([(b"x-request-id", b"req-1")])) == "req-1"
    odd = client([(b"x-request-id", b"a b")])
    assert len({request_id(odd), request_id(odd), request_id(client([]))}) == 3
    assert all(len(request_id(odd)) == 32 for _ in range(3))
