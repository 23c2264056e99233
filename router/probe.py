"""Health, models and load of every endpoint of a pool, asked for at an interval.

Floor: an adapter around httpx; what an answer means for an endpoint is decided in `policies.health`. What happens
between two probes, `router.watch` sees.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, replace

import httpx2

from policies.endpoint_state import EndpointState
from policies.scorers.engine_load import STALE_SECONDS
from policies.types import Role
from router.canary import Canary
from router.errors import EngineError
from router.metrics import Metrics
from router.pools import Place, Pool
from router.watch import Watcher, WatchSettings
from router.wire.engine_metrics import EngineReading, EngineRun, read_engine_metrics
from router.wire.engine_models import read_engine_models

_log = logging.getLogger("promptlane.probe")
# An engine that is down is asked this often at least, so that it serves within about a second of coming up.
_DOWN_INTERVAL_SECONDS = 1.0
# vLLM's page has some 60 kB; a page beyond this is not one.
_LARGEST_PAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    """Times in seconds. `index_share`: share of an engine's KV capacity that its prefix index assumes.

    `tokens_per_block`: what one prefix block stands for. `canary_timeout`, `detect_hung`: see `router.watch`.
    `engine_models`: what the engines are asked for by tenants' models.
    """

    interval: float
    timeout: float
    scrape_interval: float
    index_share: float
    tokens_per_block: float
    canary_timeout: float = 5.0
    detect_hung: bool = True
    engine_models: tuple[str, ...] = ()


class Prober:
    """Probes the endpoints of one pool until `stop`."""

    def __init__(
        self,
        pool: Pool,
        settings: ProbeSettings,
        metrics: Metrics,
        *,
        ssl_context: ssl.SSLContext | None = None,
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._pool = pool
        self._settings = settings
        self._metrics = metrics
        self._jitter = random.Random()
        self._http = httpx2.AsyncClient(
            timeout=settings.timeout,
            verify=ssl_context if ssl_context is not None else True,
            headers=list(headers),
            trust_env=False,  # a proxy in the environment is for the outside world, not for our engines
            follow_redirects=False,
            event_hooks={"request": [self._meet_drill]},
        )
        self._runs: dict[str, EngineRun] = {}  # by endpoint
        self._useless: set[str] = set()  # endpoints warned of
        self._told: set[str] = set()  # endpoints that have told their models since they came up
        self._unserved: set[tuple[str, str]] = set()  # endpoints and models warned of
        watch = WatchSettings(settings.canary_timeout, settings.detect_hung)
        canary = Canary(self._http, settings.engine_models)
        self._watcher = Watcher(pool, canary, metrics, watch, self.figures, self.paused)
        self._task: asyncio.Task[None] | None = None
        self._group: asyncio.TaskGroup | None = None
        self._probing: dict[int, tuple[str, asyncio.Task[None]]] = {}  # by the state's id

    def start(self) -> None:
        """Begins probing, in a task of its own."""
        self._task = asyncio.create_task(self._run(), name=f"probe {self._pool.name}")

    async def stop(self) -> None:
        """Ends probing and closes its connections."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._http.aclose()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watcher.run(), name=f"watch {self._pool.name}")
            self._group = group
            self.refresh()

    def refresh(self) -> None:
        """Probes the endpoints that the pool has now, and no others."""
        if self._group is None:
            return
        now = {id(place.state): place for place in self._pool.places}
        for gone in self._probing.keys() - now.keys():
            name, task = self._probing.pop(gone)
            task.cancel()
            self._told.discard(name)
            self._useless.discard(name)
            self._runs.pop(name, None)
            self._unserved = {one for one in self._unserved if one[0] != name}
        for key in now.keys() - self._probing.keys():
            name = now[key].state.endpoint.name
            self._probing[key] = name, self._group.create_task(self._watch(now[key]), name=f"probe {name}")
        self._watcher.refresh()

    async def _watch(self, place: Place) -> None:
        scrape_at = 0.0
        while True:
            wait = self._settings.interval
            try:
                if not await self.probe(place):
                    wait = min(wait, _DOWN_INTERVAL_SECONDS)
                    self._told.discard(place.state.endpoint.name)
                else:
                    if self._pool.clock() >= scrape_at:
                        scrape_at = self._pool.clock() + self._settings.scrape_interval
                        await self.scrape(place)
                    await self.models(place)
                self._pool.changed(place.state)
            except Exception:  # a background loop ends with its process, not with one odd answer
                _log.exception("probing %s failed", place.state.endpoint.name)
                self._metrics.add("promptlane_internal_errors", "probe")
            await asyncio.sleep(wait * self._jitter.uniform(0.9, 1.1))  # replicas must not probe in step

    async def probe(self, place: Place) -> bool:
        """Asks `/health` once and tells the endpoint's health. True when the engine says it is well."""
        answer = await self._get(place, "/health")
        ok = answer is not None and answer.status_code == 200
        place.state.health.probe(ok, self._pool.clock())
        return ok

    async def models(self, place: Place) -> None:
        """Asks `/v1/models`, once for each time that the engine comes up."""
        state = place.state
        if state.endpoint.name in self._told:
            return
        answer = await self._get(place, "/v1/models")
        if answer is None:
            return
        self._told.add(state.endpoint.name)
        readable = answer.status_code == 200 and len(answer.content) <= _LARGEST_PAGE_BYTES
        state.served = read_engine_models(answer.content) if readable else None
        state.health.canaried = True
        if state.served:
            self._warn_of_unserved(state, {model.name for model in state.served})

    def _warn_of_unserved(self, state: EndpointState, served: set[str]) -> None:
        for model in self._settings.engine_models:
            key = (state.endpoint.name, model)
            if model not in served and key not in self._unserved:
                self._unserved.add(key)
                _log.warning("endpoint %s does not serve %s, which tenants' models are sent to it as", *key)

    async def scrape(self, place: Place) -> None:
        """Reads `/metrics` once; what cannot be read leaves the last reading to age."""
        reading = await self.figures(place)
        if reading is not None:
            self._note(place, replace(reading, asleep=await self._asleep(place, reading)))
            self._warn_of_useless_affinity(place.state)
        elif place.state.sleeping and self._pool.clock() - (place.state.scraped_at or 0.0) > STALE_SECONDS:
            place.state.sleeping = False  # nobody says so any more; where it is so after all a canary will show it

    async def figures(self, place: Place) -> EngineReading | None:
        """What `/metrics` says now; nothing is noted."""
        answer = await self._get(place, "/metrics")
        if answer is None or answer.status_code != 200 or len(answer.content) > _LARGEST_PAGE_BYTES:
            return None
        return read_engine_metrics(answer.text)

    async def paused(self, place: Place) -> bool:
        """Whether the engine says that it is paused."""
        return await self._says(place, "is_paused") is True

    async def _asleep(self, place: Place, reading: EngineReading) -> bool:
        """What its figures say, but for two cases in which they mislead, and it is asked: those of a paused engine say
        that it is awake, but requests hang there too, so a standby must be woken first; and `/resume` after a sleep at
        level 0 leaves them asleep for ever."""
        said = None
        if reading.asleep or place.state.endpoint.role is Role.WARM:
            said = await self._says(place, "is_sleeping")
        return bool(reading.asleep) if said is None else said

    async def _says(self, place: Place, what: str) -> bool | None:
        """The engine's answer to a question that only one in development mode answers."""
        answer = await self._get(place, f"/{what}")
        try:
            said = answer.json()[what] if answer is not None and answer.status_code == 200 else None
        except (ValueError, LookupError, TypeError):
            return None
        return said if isinstance(said, bool) else None

    def _note(self, place: Place, reading: EngineReading) -> None:
        state = place.state
        state.engine_running = reading.running
        if reading.asleep and not state.sleeping:
            state.index.clear()  # engines drop their caches to sleep, and wake without
        if state.sleeping and not reading.asleep:
            state.health.slow_start.begin(self._pool.clock())
        state.sleeping = bool(reading.asleep)
        state.scraped_at, state.in_flight_scraped = self._pool.clock(), state.in_flight
        self._note_run(state, reading)
        if reading.kv_capacity_tokens is not None:
            settings = self._settings
            state.learn_kv_capacity(reading.kv_capacity_tokens, settings.tokens_per_block, settings.index_share)
        state.scraped_usage(reading.kv_usage, reading.waiting)
        state.scraped_cache(reading.prefix_queries, reading.prefix_hits)

    def _note_run(self, state: EndpointState, reading: EngineReading) -> None:
        """The one place that sees an engine restart: what was learned of the process before is forgotten."""
        name = state.endpoint.name
        self._runs[name], restarted = self._runs.get(name, EngineRun()).followed_by(reading)
        if restarted:
            _log.info("endpoint %s has restarted: its cache is empty", name)
            state.restarted()
            state.health.slow_start.begin(self._pool.clock())
            self._told.discard(name)

    def _warn_of_useless_affinity(self, state: EndpointState) -> None:
        """Once, when it begins: requests are sent to where a prefix is believed to be, and the engine finds none."""
        name, useless = state.endpoint.name, state.feedback.useless
        if useless and name not in self._useless:
            feedback = state.feedback
            _log.warning(
                "affinity is useless at endpoint %s: of %.0f prompt tokens per answer %.0f were predicted to be cached "
                "and %.0f were; is prefix caching on, and does the chat template keep the beginning of prompts?",
                *(name, feedback.prompt, feedback.predicted, feedback.found),
            )
            self._useless.add(name)
        elif not useless:
            self._useless.discard(name)

    async def _meet_drill(self, request: httpx2.Request) -> None:
        """What a drill does to tenants' requests it does to ours: to all when nobody can connect, else only to those
        that make the engine work. `/health` of an engine that hangs is good."""
        url = str(request.url)
        for place in self._pool.places:
            fault = place.upstream.fault
            if fault is None or not url.startswith(place.state.endpoint.url.rstrip("/") + "/"):
                continue
            if fault.refuses or request.method == "POST":
                try:
                    await fault.meet(self._settings.timeout)
                except EngineError as error:
                    raise httpx2.ConnectError(error.message) from None

    async def _get(self, place: Place, path: str) -> httpx2.Response | None:
        try:
            return await self._http.get(place.state.endpoint.url.rstrip("/") + path)
        except httpx2.HTTPError:
            return None
