"""An order of endpoints that belongs to a prefix or a session, without anyone remembering it.

Floor: `policies`, pure. Rendezvous hashing (Thaler and Ravishankar 1998): every key has its own order of all endpoints;
when one goes or comes only the keys that had it, or now have it, first move.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

from xxhash import xxh3_64_intdigest

from policies.endpoint_state import EndpointState
from policies.types import Endpoint, InferenceRequest

_HASHES = 2.0**64


def affinity_key(request: InferenceRequest) -> int:
    """What a tie is broken by: the second block, or the only one, or for a prompt shorter than a block the request."""
    blocks = request.prefix_blocks
    if len(blocks) > 1:
        return blocks[1]
    return blocks[0] if blocks else xxh3_64_intdigest(request.id.encode())


def session_key(request: InferenceRequest) -> int:
    """The client's session, or what its prefix says where there is none. Sessions of two tenants are never the same."""
    if request.session is None:
        return affinity_key(request)
    return xxh3_64_intdigest(f"{request.tenant}\0{request.session}".encode("utf-8", "surrogatepass"))


def place(endpoint: Endpoint, key: int) -> int:
    """Where the endpoint stands in the key's order: lower goes first, all alike."""
    return xxh3_64_intdigest(endpoint.name_bytes, key)


def first(states: Sequence[EndpointState], columns: Sequence[int], key: int) -> int:
    """Of these columns the one whose endpoint goes first in the key's order; at least one is given."""
    places = [xxh3_64_intdigest(states[column].endpoint.name_bytes, key) for column in columns]
    return columns[places.index(min(places))]


def ranks(states: Sequence[EndpointState], key: int) -> list[int]:
    """Each endpoint's place in the key's order, 0 for the first. An endpoint of weight 2 is first for twice as many.

    -ln(u)/w is exponential with rate w for u uniform in (0, 1], and the least of such has each with chance w/Σw.
    """
    distances = [-log((place(state.endpoint, key) + 1) / _HASHES) / state.endpoint.weight for state in states]
    found = [0] * len(states)
    for rank, column in enumerate(sorted(range(len(states)), key=distances.__getitem__)):
        found[column] = rank
    return found
