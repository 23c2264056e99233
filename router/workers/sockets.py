"""The sockets on which tenants' connections come in. They are the supervisor's: a worker that ends takes none with it.

Floor: over `router.surroundings`. On Linux each worker has a socket of its own for the same port, and the kernel deals
connections out evenly; what comes in for one that does not accept is accepted by all others (`deal`), or waits for its
successor. Elsewhere all accept from one.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Sequence

from router.config import ServerConfig
from router.surroundings import bind
from router.workers.assignment import Relieved, Stand
from router.workers.place import Place

_KEY = "server.port"


class TenantSockets:
    """Raises CannotServe, also where somebody else listens there: several of us could without noticing."""

    def __init__(self, server: ServerConfig, workers: int) -> None:
        self.each_its_own = sys.platform == "linux"
        first = bind(server.host, server.port, _KEY)
        port = first.getsockname()[1]
        if self.each_its_own:
            first.close()
            self._sockets = [bind(server.host, port, _KEY, shared=True) for _ in range(workers)]
        else:
            self._sockets = [first] * workers

    @property
    def any(self) -> socket.socket:
        """One of them, to be asked for its name."""
        return self._sockets[0]

    @property
    def descriptors(self) -> tuple[int, ...]:
        """By the workers' indexes."""
        return tuple(one.fileno() for one in self._sockets)

    def deal(self, places: Sequence[Place]) -> None:
        """Every socket has somebody who accepts from it, as long as there is anybody. Who leaves goes on to until
        others do it in its place."""
        standing = [place for place in places if place.stands]
        absent = tuple(place.index for place in places if not place.stands) if self.each_its_own else ()
        for place in standing:
            place.say(Stand(absent))
        for place in places if standing else ():
            if place.leaving:
                place.say(Stand(()))
                place.say(Relieved())

    def close(self) -> None:
        """Workers that live go on to accept from theirs."""
        for one in self._sockets:
            one.close()
