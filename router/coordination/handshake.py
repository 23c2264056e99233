"""Who are you? Both replicas prove that they have the gateway's secret, before the first frame.

Floor: sans-IO. Neither sees the secret, and both nonces are in both proofs, so that nothing recorded serves again:

    follower                                          owner
    hello: magic, version, nonce, life, given, name -->
                                                    <-- hello, the same
    HMAC(key, "follower", both hellos)              -->
                                                    <-- HMAC(key, "owner", both hellos)
    frames                                          <-> frames

The follower proves itself first: whoever only finds the port learns nothing that could be tried against a weak secret.
What follows is not encrypted; where others can read or change what is on the network, use TLS beside it.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Final, NamedTuple

VERSION: Final = 1
_MAGIC: Final = b"promptlane-link"
_NONCE: Final = 32
_LIFE: Final = 8
_GIVEN: Final = 8
_PROOF: Final = sha256().digest_size
_HEAD: Final = len(_MAGIC) + 1 + _NONCE + _LIFE + _GIVEN + 1  # up to and including the length of the name
_MAX_NAME: Final = 255


class Refused(Exception):
    """The peer is not let in; the message says why."""


class Peer(NamedTuple):
    """Who has proven itself. `replica`: its id; `life`: one of its lives, as ids of requests are counted anew in each;
    `given`: the highest such id that it has given so far."""

    replica: str
    life: bytes
    given: int


def link_key(secret: bytes) -> bytes:
    """The key of all links, derived from the gateway's secret: a proof tells nothing of what else the secret makes."""
    return hmac.digest(secret, b"coordination", "sha256")


def new_life() -> bytes:
    return secrets.token_bytes(_LIFE)


class Handshake:
    """One side of it. `calls`: this side is the follower. `peer`: who it is, once it is proven; `rest`: what came
    after that."""

    def __init__(self, key: bytes, me: Peer, *, calls: bool) -> None:
        name = me.replica.encode()
        if len(name) > _MAX_NAME:
            raise ValueError(f"a replica's id has at most {_MAX_NAME} bytes")
        given = me.given.to_bytes(_GIVEN, "big")
        nonce = secrets.token_bytes(_NONCE)
        self._hello = _MAGIC + bytes((VERSION,)) + nonce + me.life + given + bytes((len(name),)) + name
        self._key = key
        self._calls = calls
        self._got = b""
        self._theirs: bytes | None = None
        self._claimed: Peer | None = None
        self.peer: Peer | None = None
        self.rest = b""

    def begin(self) -> bytes:
        """What to say before anything has come."""
        return self._hello if self._calls else b""

    def feed(self, data: bytes) -> bytes:
        """What to answer to what came. Raises Refused."""
        self._got += data
        if self._theirs is not None:
            return self._check_proof(self._theirs)
        hello = self._take_hello()
        if hello is None:
            return b""
        if self._got:
            raise Refused("it spoke out of turn")
        self._theirs = hello
        return self._proof(hello, mine=True) if self._calls else self._hello

    def _take_hello(self) -> bytes | None:
        got = self._got
        if got[: len(_MAGIC)] != _MAGIC[: len(got)]:
            raise Refused("it does not speak the protocol of replicas")
        if len(got) > len(_MAGIC) and got[len(_MAGIC)] != VERSION:
            raise Refused(f"it speaks version {got[len(_MAGIC)]} of the protocol, this replica version {VERSION}")
        if len(got) < _HEAD or len(got) < _HEAD + got[_HEAD - 1]:
            return None
        end = _HEAD + got[_HEAD - 1]
        hello, self._got = got[:end], got[end:]
        self._claimed = _peer(hello)
        return hello

    def _check_proof(self, theirs: bytes) -> bytes:
        if len(self._got) < _PROOF:
            return b""
        proof, self.rest = self._got[:_PROOF], self._got[_PROOF:]
        self._got = b""
        if not hmac.compare_digest(proof, self._proof(theirs, mine=False)):
            raise Refused("it has another secret: PROMPTLANE_SECRET must be the same on every replica")
        if self.rest and not self._calls:
            raise Refused("it spoke out of turn")
        self.peer = self._claimed
        return b"" if self._calls else self._proof(theirs, mine=True)

    def _proof(self, theirs: bytes, *, mine: bool) -> bytes:
        """The role that proves is in it, or a peer could prove itself with our own words."""
        by_follower = mine == self._calls
        hellos = self._hello + theirs if self._calls else theirs + self._hello
        return hmac.digest(self._key, (b"follower" if by_follower else b"owner") + hellos, "sha256")


def _peer(hello: bytes) -> Peer:
    at = len(_MAGIC) + 1 + _NONCE
    life, given = hello[at : at + _LIFE], hello[at + _LIFE : at + _LIFE + _GIVEN]
    try:
        return Peer(hello[_HEAD:].decode(), life, int.from_bytes(given, "big"))
    except UnicodeDecodeError:
        raise Refused("its id is not UTF-8") from None
