"""Addresses are read as they are written, and what is none is refused with an example."""

from __future__ import annotations

import pytest

from router.coordination.address import Address, BadAddress


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://10.0.0.1:7000", Address("10.0.0.1", 7000)),
        ("tcp://pod-a.gateway:0", Address("pod-a.gateway", 0)),
        ("tcp://[::1]:7000", Address("::1", 7000)),
        ("unix:/run/promptlane/a.sock", Address("", 0, "/run/promptlane/a.sock")),
    ],
)
def test_an_address_is_read_as_it_is_written(text: str, address: Address) -> None:
    assert Address.parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    ["", "tcp://", "tcp://host", "tcp://:70", "tcp://h:x", "tcp://h:99999", "http://h:1", "tcp://h:1/x", "unix:"],
)
def test_what_is_no_address_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(BadAddress, match="tcp://HOST:PORT or unix:/PATH"):
        Address.parse(text)
