"""A connection to a server that is silent for too long is broken off.

Floor: an adapter. No setting of a server bounds the wait for one that has stopped: its machine still acknowledges
every packet, so neither keep-alives nor the kernel's own timeouts notice.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def broken_off_after(seconds: float, descriptor: int | None) -> Iterator[None]:
    """Shuts the socket down unless the block ends in time; who waits for it then reads its end. None: no socket.

    The socket is held by a descriptor of its own, so that one which was closed and is somebody else's by now is safe.
    """
    if descriptor is None:
        yield
        return
    held = socket.socket(fileno=os.dup(descriptor))
    timer = threading.Timer(seconds, _shut_down, (held,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        held.close()


def _shut_down(held: socket.socket) -> None:
    with contextlib.suppress(OSError):  # the block ended in this very moment, or the peer was faster
        held.shutdown(socket.SHUT_RDWR)
