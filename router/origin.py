"""Where a request says it comes from, and how much of that is believed.

Floor: an adapter. `x-forwarded-host` and `x-forwarded-for` count only when the peer is a trusted proxy.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from random import getrandbits

from router.client import Client
from router.errors import BadRequest
from router.wire.http import bearer, host_name, sane_request_id

Network = IPv4Network | IPv6Network


class Origin:
    """Reads host, client address, credential and request id of requests. `trusted`: networks of our own proxies."""

    def __init__(self, trusted: Sequence[Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def host(self, client: Client) -> str | None:
        """The host name asked for, lower-case and without port. Raises BadRequest when there are several."""
        hosts = [value for name, value in client.raw_headers if name == b"host"]
        if len(hosts) > 1:
            raise BadRequest("The request has more than one Host header.", param="host")
        if self._trusted and self.from_proxy(client):
            forwarded = client.header(b"x-forwarded-host")
            if forwarded:
                return host_name(forwarded.partition(b",")[0])
        return host_name(hosts[0]) if hosts else None

    def address(self, client: Client) -> str:
        """The client's address: the peer's, or what the nearest trusted proxy says it is."""
        peer = _peer(client)
        if not self._trusted or not self._trusts(peer):
            return peer
        hops = [hop.strip() for hop in (client.header(b"x-forwarded-for") or b"").decode("latin-1").split(",")]
        return next((hop for hop in reversed(hops) if hop and not self._trusts(hop)), peer)

    def from_proxy(self, client: Client) -> bool:
        """Whether the peer is one of our own proxies."""
        return self._trusts(_peer(client))

    def _trusts(self, address: str) -> bool:
        try:
            parsed = ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._trusted)


def credential(client: Client) -> bytes | None:
    """The API key sent, in any of the three usual headers; None when there is none."""
    return bearer(client.header(b"authorization")) or client.header(b"x-api-key") or client.header(b"api-key") or None


def request_id(client: Client) -> str:
    """The client's own request id when it is sane, else a new one."""
    given = sane_request_id(client.header(b"x-request-id"))
    if given is not None:
        return given.decode("ascii")
    return getrandbits(128).to_bytes(16, "big").hex()  # unique, not secret


def _peer(client: Client) -> str:
    peer = client.scope.get("client")
    return str(peer[0]) if peer else ""
