"""What a gateway process keeps over every reload of its configuration.

Floor: data for `router.assembly`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from policies.output_length import OutputLengths
from policies.prefix_blocks import ChainMemo
from router.access_log import AccessLog
from router.coordination.replicas import Replicas
from router.counting import TokenCounter
from router.ledger.books import Ledger
from router.metrics import Metrics
from router.tenants import KeyRing
from router.tracing import Tracing
from router.wake import Leases


@dataclass(frozen=True, slots=True)
class Worker:
    """This process as one of several of a machine. `index`: from 0, of `count`. `folder`: private to all of them, and
    gone with their supervisor."""

    index: int
    count: int
    folder: Path

    @property
    def limits(self) -> Path:
        """The socket behind which the supervisor shares limits, without Redis."""
        return self.folder / "limits"


@dataclass(frozen=True, slots=True)
class Process:
    """What outlives every reload. `clock`: monotonic seconds; `wall_clock`: Unix seconds; `secret`: see `secret.py`;
    `replicas`: None where this process is the only one; `worker`: None where no supervisor keeps it; `ledger`: None
    where no records are kept; `access`: None where requests are not logged; `tracing`: None where they are not traced.
    """

    secret: bytes
    counter: TokenCounter
    metrics: Metrics
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    chains: ChainMemo = field(default_factory=lambda: ChainMemo(threading.Lock()))
    lengths: OutputLengths = field(default_factory=OutputLengths)
    ring: KeyRing = field(default_factory=KeyRing)
    leases: Leases = field(default_factory=Leases)
    replicas: Replicas | None = None
    worker: Worker | None = None
    ledger: Ledger | None = None
    access: AccessLog | None = None
    tracing: Tracing | None = None
