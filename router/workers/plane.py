"""The operator plane of all workers: one port, the same requests and answers as one process has on its own.

Floor: assembles, beside the supervisor. What all workers know together is put together here; what one of them can do is
done by the one that decides for the pool in question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.config import Config, ConfigError, Problem
from router.errors import WorkerUnavailable
from router.operator_bodies import OwnPagesOnly, answered, read_body
from router.workers.asking import Voice, each, first, owner
from router.workers.merged_metrics import MergedMetrics
from router.workers.merged_state import merged
from router.workers.metrics import SupervisorMetrics

_ORDER_BYTES = 64 * 1024  # as one process takes
_KEPT_HEADERS = ("content-type", "cache-control")
_READY_SECONDS = 1.0  # balancers wait for little longer
_WORK_SECONDS = 60.0  # to count a long prompt, or to ask a database that is slow


class Crew(Protocol):
    """The supervisor, as its operator plane knows it."""

    config: Config
    merged: MergedMetrics
    metrics: SupervisorMetrics

    @property
    def ready(self) -> bool:
        """Somebody serves, and will go on to."""

    def voices(self) -> list[Voice]:
        """Of the workers that serve."""

    def describe(self) -> Mapping[int, dict[str, Any]]:
        """All places, by index."""

    async def reload(self, dry_run: bool) -> list[Problem]:
        """Has all workers reload; returns warnings. Raises ConfigError, and then nobody has."""


class _Named(msgspec.Struct):
    """What of an order or a request says which pool it is about."""

    model: str | None = None
    tenant: str | None = None


def plane(crew: Crew) -> Starlette:
    """The ASGI app."""
    desk = _Desk(crew)
    return Starlette(
        routes=[
            Route("/healthz", desk.healthz),
            Route("/readyz", desk.readyz),
            Route("/metrics", desk.scrape),
            Route("/admin/state", answered(desk.state)),
            Route("/admin/reload", answered(desk.reload), methods=["POST"]),
            Route("/admin/explain", answered(desk.explain), methods=["POST"]),
            Route("/admin/drill", answered(desk.drill), methods=["POST"]),
            Route("/admin/cache/purge", answered(desk.purge), methods=["POST"]),
            Route("/admin/keys", answered(desk.keys), methods=["GET", "POST"]),
            Route("/admin/keys/{id}/{order}", answered(desk.keys), methods=["POST"]),
        ],
        middleware=[Middleware(OwnPagesOnly)],
    )


class _Desk:
    def __init__(self, crew: Crew) -> None:
        self._crew = crew
        self._scraping = asyncio.Lock()

    async def healthz(self, _: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(self, _: Request) -> Response:
        """Where one worker is, all together are: the kernel's queue is the same."""
        if not self._crew.ready:
            return JSONResponse({"status": "not ready", "why": "starting or draining"}, 503)
        answer = await first(self._crew.voices(), "/readyz", _READY_SECONDS)
        if answer is None:
            return JSONResponse({"status": "not ready", "why": "no worker answers"}, 503)
        return JSONResponse(answer.json(), answer.status_code)

    async def scrape(self, request: Request) -> Response:
        crew, accept = self._crew, request.headers.get("accept", "")
        async with self._scraping:  # what is older must not be heard after what is newer
            answers = await each(crew.voices(), "/metrics", headers={"accept": accept})
            there = {voice.life for voice in crew.voices()}  # who has ended meanwhile is counted already
            now = {
                one.life: crew.merged.heard(one.life, answer.text)
                for one, answer in answers.items()
                if one.life in there
            }
            text, kind = crew.merged.scraped(now, crew.metrics.render(), accept)
            return Response(text, media_type=kind)

    async def state(self, request: Request) -> Response:
        pool = request.query_params.get("pool")
        answers = await each(self._crew.voices(), "/admin/state", None if pool is None else {"pool": pool})
        state = merged({one.index: answer.json() for one, answer in answers.items()}, self._crew.describe())
        return JSONResponse(state if pool is None else {"pools": state["pools"]})

    async def reload(self, request: Request) -> Response:
        dry_run = request.query_params.get("dry_run") in ("1", "true")
        try:
            warnings = await self._crew.reload(dry_run)
        except ConfigError as error:
            return JSONResponse({"status": "refused", "problems": [str(problem) for problem in error.problems]}, 400)
        done = "good" if dry_run else "reloaded"
        return JSONResponse({"status": done, "warnings": [str(problem) for problem in warnings]})

    async def explain(self, request: Request) -> Response:
        data = await read_body(request, self._crew.config.server.max_body_bytes)
        voice = await self._of(request.query_params.get("tenant"), _named(data).model)
        return await self._passed_on(request, voice, data, _WORK_SECONDS)

    async def drill(self, request: Request) -> Response:
        data = await read_body(request, _ORDER_BYTES)
        named = _named(data)
        return await self._passed_on(request, await self._of(named.tenant, named.model), data, None)

    async def keys(self, request: Request) -> Response:
        return await self._passed_on(request, self._any(), await read_body(request, _ORDER_BYTES), _WORK_SECONDS)

    async def purge(self, request: Request) -> Response:
        """Of each worker: what is in memory, each has for itself."""
        if not (voices := self._crew.voices()):
            raise WorkerUnavailable("No worker serves at the moment.", retry_after=1.0)
        answers = [await self._passed_on(request, voice, b"", _WORK_SECONDS) for voice in voices]
        refused = next((answer for answer in answers if answer.status_code != 200), None)
        if refused is not None:
            return refused
        said = [msgspec.json.decode(bytes(answer.body)) for answer in answers]
        return JSONResponse({**said[0], "purged": sum(one["purged"] for one in said)})

    async def _passed_on(self, request: Request, voice: Voice, data: bytes, seconds: float | None) -> Response:
        """A worker's own answer. `seconds`: for it."""
        kind = request.headers.get("content-type")
        headers = {"content-type": kind} if kind is not None else {}
        answer = await voice.ask(
            request.method, request.url.path, params=dict(request.query_params), content=data, headers=headers,
            seconds=seconds,
        )  # fmt: skip
        kept = {name: answer.headers[name] for name in _KEPT_HEADERS if name in answer.headers}
        return Response(answer.content, answer.status_code, headers=kept)

    async def _of(self, tenant: str | None, model: str | None) -> Voice:
        """Who decides for the pool that they name; anybody, who then says what is wrong, where they name none."""
        pool = _pool(self._crew.config, tenant, model)
        return (None if pool is None else await owner(self._crew.voices(), pool)) or self._any()

    def _any(self) -> Voice:
        voices = self._crew.voices()
        if not voices:
            raise WorkerUnavailable("No worker serves at the moment.", retry_after=1.0)
        return voices[0]


def _pool(config: Config, tenant: str | None, model: str | None) -> str | None:
    found = config.tenants.get(tenant or "")
    if found is None:
        return None
    if model is not None:
        return found.models[model].pool if model in found.models else None
    pools = {one.pool for one in found.models.values()}
    return next(iter(pools)) if len(pools) == 1 else None


def _named(data: bytes) -> _Named:
    try:
        return msgspec.json.decode(data, type=_Named)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Named()  # who gets it says what is wrong with it
