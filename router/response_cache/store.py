"""Where one tenant's answers lie, and what every such place can do.

Floor: an adapter; what goes first where there is no more room is decided in `policies.answer_shelf`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from policies.answer_shelf import AnswerShelf
from router.metrics import Metrics

# What a place was like when an answer was asked for: what was asked before a purge is not put in after it.
Age = bytes
ANSWERS: Final = "promptlane_cache_answers"


class StoreAway(Exception):
    """The place cannot be reached, or did not answer in time."""


class AnswerStore(Protocol):
    """Of one tenant. `get` and `put` never raise: a store that is away has nothing, and keeps nothing."""

    kind: str

    async def get(self, key: bytes) -> tuple[bytes | None, Age | None]:
        """The value, if there is one, and the store's age; None where nothing may be put in."""

    async def put(self, key: bytes, data: bytes, age: Age) -> None:
        """Keeps it, if there was no purge since."""

    async def purge(self) -> int:
        """Drops all, and says how many there were. Raises StoreAway."""

    def describe(self) -> dict[str, Any]:
        """How many there are and what they take, as last heard; and what else there is to say."""


class MemoryStore:
    """In this process alone, and gone with it. `clock`: monotonic seconds."""

    kind = "memory"

    def __init__(self, tenant: str, shelf: AnswerShelf, clock: Callable[[], float], metrics: Metrics) -> None:
        self._tenant = tenant
        self._shelf = shelf
        self._clock = clock
        self._metrics = metrics
        self._purges = 0

    async def get(self, key: bytes) -> tuple[bytes | None, Age | None]:
        return self._shelf.get(key, self._clock()), b"%d" % self._purges

    async def put(self, key: bytes, data: bytes, age: Age) -> None:
        if age != b"%d" % self._purges:
            return
        evicted = self._shelf.put(key, data, self._clock())
        self._metrics.add(ANSWERS, self._tenant, "too_long" if evicted is None else "stored")
        if evicted:
            self._metrics.add(ANSWERS, self._tenant, "evicted", amount=evicted)

    async def purge(self) -> int:
        self._purges += 1
        return self._shelf.clear()

    def describe(self) -> dict[str, Any]:
        return {"entries": len(self._shelf), "bytes": self._shelf.size}
