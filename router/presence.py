"""Which of a pool's endpoints are not there at all: asked as soon as a request fails at one, before probes find out.

Floor: an adapter over `router.wake`, under `router.standbys`, which hears of every answer. Tasks are its owner's.
"""

from __future__ import annotations

from collections.abc import Callable

from policies.endpoint_state import EndpointState
from router.pools import Pool
from router.standby_engines import Tasks
from router.wake import EngineControl

AGAIN_SECONDS = 1.0  # between two questions to one that is gone


class Presence:
    """Of a pool's endpoints. `on_answer`: something may have changed.

    `gone`: names of those that do not answer, whatever their probes say.
    """

    def __init__(self, pool: Pool, control: EngineControl, tasks: Tasks, on_answer: Callable[[], None]) -> None:
        self._pool = pool
        self._control = control
        self._tasks = tasks
        self._on_answer = on_answer
        self.gone: set[str] = set()
        self._asking: set[str] = set()
        self._asked_at = 0.0

    @property
    def asking(self) -> bool:
        """Whether an answer is awaited."""
        return bool(self._asking)

    def doubt(self, state: EndpointState) -> None:
        """A request has failed there as it does where nobody is."""
        name = state.endpoint.name
        if name not in self.gone and name not in self._asking:
            self._ask(state)

    def look(self, now: float) -> None:
        """Now and then: asks those that are gone whether they are back."""
        if self.gone and now - self._asked_at >= AGAIN_SECONDS:
            self._asked_at = now
            for state in self._pool.states:
                if state.endpoint.name in self.gone:
                    self._ask(state)

    def _ask(self, state: EndpointState) -> None:
        self._asking.add(state.endpoint.name)
        self._tasks.begin(f"ask {state.endpoint.name}", self._ask_health(state))

    async def _ask_health(self, state: EndpointState) -> None:
        name = state.endpoint.name
        try:
            well = await self._control.healthy(state.endpoint.url)
        finally:
            self._asking.discard(name)
        if well:
            self.gone.discard(name)
        else:
            self.gone.add(name)
        self._on_answer()
