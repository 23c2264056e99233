"""Who is found serves: brings pools in line with what their sources tell, while requests are under way.

Floor: part of `router.assembly`, of one runtime. Which pool may have what is decided in `policies.discovery`, for all
pools at once; here pools, probes and standbys are told, in one synchronous step each.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from policies.discovery import Chosen, Found, choose
from policies.endpoint_state import RANKS
from policies.types import Endpoint
from router.discovery.source import Source
from router.kv_events import KvEventListener
from router.metrics import Metrics
from router.pools import Place, Pool
from router.probe import Prober
from router.standbys import Standbys

_log = logging.getLogger("promptlane.discovery")


@dataclass(frozen=True, slots=True)
class Member:
    """A pool whose endpoints are found. `endpoint`: what one is, in the configuration's words; `place`: makes it one of
    the pool; `standbys`, `listener`: None where it has none."""

    pool: Pool
    source: Source
    prober: Prober
    standbys: Standbys | None
    listener: KvEventListener | None
    endpoint: Callable[[Found], Endpoint]
    place: Callable[[Found], Place]


# Endpoints that are gone whose metrics are forgotten once more with the next: what was under way there has ended since.
_GONE = 256


class Roster:
    """`configured`: the pool of each URL of the configuration."""

    def __init__(self, configured: Mapping[str, str], members: Sequence[Member], metrics: Metrics) -> None:
        self._configured = configured
        self._members = tuple(members)
        self._metrics = metrics
        self._gone = {member.pool.name: deque[str](maxlen=_GONE) for member in members}
        self.refused: dict[str, tuple[Found, ...]] = {}

    def begin(self) -> None:
        """From now on sources tell this one."""
        for member in self._members:
            member.source.on_change = self.apply
        self.apply()

    def apply(self) -> None:
        """Brings all pools in line: one that lets go of a URL may leave it to another."""
        chosen = choose(self._configured, {one.pool.name: one.source.found or () for one in self._members})
        for member in self._members:
            _tell_refused(member.pool.name, chosen[member.pool.name], self.refused.get(member.pool.name, ()))
            self.refused[member.pool.name] = chosen[member.pool.name].refused
            if gone := _bring_in_line(member, chosen[member.pool.name].kept):
                self._forget(member.pool, gone)

    def _forget(self, pool: Pool, gone: Sequence[Place]) -> None:
        names = self._gone[pool.name]
        names.extend(place.state.endpoint.name for place in gone)
        self._metrics.forget(pool.name, set(names) - {state.endpoint.name for state in pool.states})


def _bring_in_line(member: Member, kept: Sequence[Found]) -> list[Place]:
    """Returns who is gone."""
    pool = member.pool
    known = {place.key: place for place in pool.places if place.key is not None}
    told, pool.known = pool.known, member.source.found is not None
    places = [place for place in pool.places if place.key is None]
    changed = told is not pool.known
    for found in kept:
        place = known.get(found.key)
        if place is None or place.state.endpoint.url != found.url:
            place = member.place(found)
        changed |= _update(place, found, member.endpoint(found))
        places.append(place)
    stays = set(map(id, places))
    gone = [place for place in pool.places if id(place) not in stays]
    if gone or len(places) != len(pool.places):
        pool.change(places)
        member.prober.refresh()
        if member.listener is not None:
            member.listener.refresh()
        _tell(
            pool.name, gone, [place for place in places if place.key is not None and known.get(place.key) is not place]
        )
    elif not changed:
        return gone
    if member.standbys is not None:
        member.standbys.refresh()
    pool.changed()
    for place in gone:
        place.upstream.close()
    return gone


def _update(place: Place, found: Found, endpoint: Endpoint) -> bool:
    """Whether something about it is another than it was."""
    state = place.state
    if (state.withdrawn, state.endpoint) == (found.withdrawn, endpoint):
        return False
    if state.endpoint.role is not endpoint.role:
        state.rank = RANKS[endpoint.role]
    state.withdrawn, state.endpoint = found.withdrawn, endpoint
    return True


def _tell(pool: str, gone: Sequence[Place], come: Sequence[Place]) -> None:
    for verb, places in (("is found", come), ("is gone", gone)):
        for place in places:
            _log.info("endpoint %s of pool %s %s", place.state.endpoint.name, pool, verb)


def _tell_refused(pool: str, chosen: Chosen, before: Sequence[Found]) -> None:
    known = {one.key for one in before}
    for one in chosen.refused:
        if one.key not in known:
            _log.error(
                "endpoint %s serves nobody: pool %s found it at %s, where another pool has one, too",
                *(one.name, pool, one.url),
            )
