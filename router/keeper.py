"""What a pool asks of its standbys, and the way out that they may show: another pool, on its terms.

Floor: a port of `router.pools`, whose other side is `router.standbys`; nothing is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from policies.standby import Level
from policies.waiting import Waiting
from router.tickets import Watcher

if TYPE_CHECKING:  # a pool has its keeper
    from router.pools import Pool


class Keeper(Watcher, Protocol):
    """A pool's standbys, as far as the pool asks them (`router.standbys`)."""

    def holds(self, waiting: Waiting, now: float) -> bool:
        """Whether a request that nobody can take now may wait, as a standby is on its way."""

    def released(self, waiting: Waiting) -> None:
        """A request that was held waits no longer."""

    def instead(self) -> Detour | None:
        """Where requests may go that nobody here can take."""

    def aside(self) -> Detour | None:
        """The same, where another replica has found that nobody can."""

    @property
    def level(self) -> Level:
        """Who serves now."""

    @property
    def held(self) -> int:
        """Requests that are held."""


class Detour(Exception):
    """Not a failure: the request is to be dispatched in another pool, with less (`degraded`). `watcher` wants to know
    how it fares there."""

    def __init__(self, pool: Pool, watcher: Watcher, terms: Terms) -> None:
        super().__init__()
        self.pool = pool
        self.watcher = watcher
        self.terms = terms


@dataclass(frozen=True, slots=True)
class Terms:
    """What a pool's requests get while it is degraded. `engine_model`: what the other pool's engines call the model,
    None where it is the same; `max_tokens`: per answer; `shared`: other tenants use that pool."""

    engine_model: str | None
    max_tokens: int
    refuse_batch: bool
    shared: bool
