"""Which of the endpoints that were found serve which pool.

Floor: `policies`, pure. Sources of several pools may tell of one URL: by a selector that is too wide, or because one
still lists a pod whose address another pod has by now. A request must never reach an engine of another pool, so a
doubtful URL serves nobody until the doubt is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from policies.types import Role


@dataclass(frozen=True, slots=True)
class Found:
    """An endpoint as a source tells of it. `key`: its identity, another for another engine at the same URL; `name`:
    unique among all pools; `since`: when it was made, Unix seconds, None where that is not told.

    `ready`: it may get requests; `leaving`: it is about to end, and gets none any more.
    """

    key: str
    name: str
    url: str
    role: Role = Role.HOT
    weight: float = 1.0
    ready: bool = True
    leaving: bool = False
    since: float | None = None

    @property
    def withdrawn(self) -> str:
        """Why it gets nothing new, in one word; empty when it does."""
        return "draining" if self.leaving else "" if self.ready else "unready"


@dataclass(frozen=True, slots=True)
class ServiceRecord:
    """An address of an SRV record (RFC 2782): `priority`, lower serves first, and `weight`, 0 for next to nothing."""

    address: str
    port: int
    priority: int
    weight: float


_LEAST_SHARE = 0.01  # of what the others take on average, for a weight of 0 beside others


def serving(records: Iterable[ServiceRecord]) -> dict[tuple[str, int], float]:
    """Address and port of those that serve, and what each takes beside an endpoint of weight 1: those of the lowest
    priority alone, whose weights are 1 on average, so that equal ones are as if nothing was said."""
    known = list(records)
    first = min((one.priority for one in known), default=0)
    weights: dict[tuple[str, int], float] = {}
    for one in known:
        if one.priority == first:
            weights[one.address, one.port] = max(one.weight, weights.get((one.address, one.port), 0.0))
    mean = sum(weights.values()) / len(weights) if weights else 0.0
    if not mean:
        return dict.fromkeys(weights, 1.0)
    return {place: max(weight / mean, _LEAST_SHARE) for place, weight in weights.items()}


@dataclass(frozen=True, slots=True)
class Chosen:
    """What a pool has of what its source tells: `kept`, and `refused` as another pool may have it."""

    kept: tuple[Found, ...]
    refused: tuple[Found, ...]


def choose(configured: Mapping[str, str], found: Mapping[str, Sequence[Found]]) -> dict[str, Chosen]:
    """For each pool what it may serve by. `configured`: the pool of each URL in the configuration, which it keeps;
    `found`: what each pool's source tells. Of two engines at one URL the one that was made later is there; where that
    cannot be told, neither serves. All replicas that see the same choose the same."""
    claims: dict[str, list[tuple[str, Found]]] = {}
    for pool, several in found.items():
        for one in several:
            claims.setdefault(one.url, []).append((pool, one))
    owners = {url: _owner(several) for url, several in claims.items() if url not in configured}
    return {
        pool: Chosen(
            tuple(one for one in several if owners.get(one.url) == (pool, one.key)),
            tuple(one for one in several if owners.get(one.url) != (pool, one.key)),
        )
        for pool, several in found.items()
    }


def _owner(claims: Sequence[tuple[str, Found]]) -> tuple[str, str] | None:
    """Pool and key of the engine that is at a URL now; None in doubt."""
    if len(claims) == 1:
        pool, one = claims[0]
        return pool, one.key
    made = [-1.0 if one.since is None else one.since for _, one in claims]
    newest = made.index(max(made))
    pool, one = claims[newest]
    others = [other for index, (_, other) in enumerate(claims) if index != newest]
    if one.since is None or any(other.since is None or other.since >= one.since for other in others):
        return None
    return (pool, one.key) if all(other.key != one.key for other in others) else None
