"""Axes that are measured on the whole gateway process: what a request or a chunk costs with so many of something.

Floor: benchmarks.
"""

from __future__ import annotations

import resource

from benchmarks.overhead_parts.processes import cores
from benchmarks.overhead_parts.traffic import Scenario
from benchmarks.scale_parts.curve import Point
from benchmarks.scale_parts.rig import Rig, ScaleGateway, asking, rig

_CONNECTIONS = 16
_SHORT = Scenario(_CONNECTIONS)
_TURN_CHARS = 500  # a question and the answer before it
_CHUNKS_PER_SECOND = 4_000  # over all streams, however many there are: a gateway that is not busy to the brim
_SECONDS_OF_CHUNKS = 37  # of a stream that is not meant to end while it is watched
_LEAST_CHUNKS, _MOST_CHUNKS = (
    64,
    8_192,
)  # tokens asked for: 10,000 streams of more would not fit into the engines' caches
_SPARE_FILES = 500  # of the gateway's: its database, its probes, connections that are being closed
IDLE_TENANTS, OPEN_STREAMS = 1_000, 1_000


def tenants(size: int, seconds: float) -> Point:
    """A short chat while so many tenants are configured, of which up to a thousand ask in turns."""
    with rig(cores(), seconds) as here, here.serving(ScaleGateway(tenants=size)) as gateway:
        return _loaded(here, gateway, size, asking(size - 1))


def keys(size: int, seconds: float) -> Point:
    """The same while one tenant has so many keys in the database, of which up to a thousand ask in turns."""
    with rig(cores(), seconds) as here, here.serving(ScaleGateway(stored_keys=size)) as gateway:
        return _loaded(here, gateway, size, asking(size))


def _loaded(here: Rig, gateway: ScaleGateway, size: int, keys: tuple[str, ...]) -> Point:
    microseconds = here.request_us(gateway, _SHORT, keys)
    return Point(size, microseconds, gateway.load_seconds, gateway.rss_mb)


def prompt(size: int, seconds: float) -> Point:
    """A chat of so many characters, of which no two begin alike."""
    connections = _CONNECTIONS if size < 100_000 else 4
    return _with_one_tenant(size, Scenario(connections, size), seconds)


def turns(size: int, seconds: float) -> Point:
    """The last few turns of conversations of so many, of which the gateway knows all but the newest."""
    return _with_one_tenant(size, Scenario(_CONNECTIONS, _TURN_CHARS * size, turns=size), seconds)


def _with_one_tenant(size: int, scenario: Scenario, seconds: float) -> Point:
    with rig(cores(), seconds) as here, here.serving(ScaleGateway()) as gateway:
        return Point(size, here.request_us(gateway, scenario), rss_mb=gateway.rss_mb)


def streams(size: int, seconds: float) -> Point:
    """A chunk while so many streams are open; together they have as many chunks a second, however many they are. Fewer
    where the gateway may not open a file to the client and one to the engine for each."""
    size = min(size, (resource.getrlimit(resource.RLIMIT_NOFILE)[1] - _SPARE_FILES) // 2)
    with rig(cores(), seconds, size / _CHUNKS_PER_SECOND * 1000) as here, here.serving(ScaleGateway()) as gateway:
        microseconds, rss_mb = here.chunk_us(gateway, _open(size))
        return Point(size, microseconds, rss_mb=rss_mb)


def _open(streams: int) -> Scenario:
    chunks = _SECONDS_OF_CHUNKS * _CHUNKS_PER_SECOND // streams
    return Scenario(streams, chunks=max(_LEAST_CHUNKS, min(chunks, _MOST_CHUNKS)))


def resident_mb(seconds: float) -> float:
    """Memory with idle tenants and open streams, as the goal has them, of a gateway whose database is there already."""
    gap_ms = OPEN_STREAMS / _CHUNKS_PER_SECOND * 1000
    with (
        rig(cores(), seconds, gap_ms) as here,
        here.serving(ScaleGateway(tenants=IDLE_TENANTS + 1, stored_keys=1)) as gateway,
    ):
        return here.chunk_us(gateway, _open(OPEN_STREAMS))[1]
