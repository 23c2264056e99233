"""The sockets on which tenants' connections come in. They are the supervisor's: a worker that dies takes none with it.

Floor: over `router.surroundings`. On Linux each worker has a socket of its own for the same port, and the kernel deals
connections out evenly; what came in for one that has died waits for its successor. Elsewhere all accept from one.
"""

from __future__ import annotations

import socket
import sys

from router.config import ServerConfig
from router.surroundings import bind

_KEY = "server.port"


class TenantSockets:
    """Raises CannotServe, also where somebody else listens there: several of us could without noticing."""

    def __init__(self, server: ServerConfig, workers: int) -> None:
        self._host = server.host
        self.each_its_own = sys.platform == "linux"
        first = bind(server.host, server.port, _KEY)
        self._port = first.getsockname()[1]
        self._sockets: list[socket.socket | None]
        if self.each_its_own:
            first.close()
            self._sockets = [bind(self._host, self._port, _KEY, shared=True) for _ in range(workers)]
        else:
            self._sockets = [first] * workers

    @property
    def any(self) -> socket.socket:
        """One of them, to be asked for its name."""
        return next(one for one in self._sockets if one is not None)

    def of(self, index: int) -> socket.socket:
        """What the worker of this index accepts from. Raises CannotServe."""
        found = self._sockets[index]
        if found is None:
            found = self._sockets[index] = bind(self._host, self._port, _KEY, shared=True)
        return found

    def put_away(self, index: int) -> None:
        """Nobody accepts there for a while: connections go to the others. Not the last one, nor one of all."""
        found = self._sockets[index]
        if self.each_its_own and found is not None and sum(one is not None for one in self._sockets) > 1:
            found.close()
            self._sockets[index] = None

    def close(self) -> None:
        """Workers that live go on to accept from theirs."""
        for one in self._sockets:
            if one is not None:
                one.close()
