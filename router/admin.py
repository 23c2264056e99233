"""The operator plane: metrics, health, live state, reload. On its own port, never on the tenants'.

Floor: assembles; Starlette carries it, as nothing here is hot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from router.assembly import Runtime
from router.config import ConfigError, Problem
from router.errors import BodyTooLarge, GatewayError
from router.explain import explain
from router.live_state import describe
from router.metrics import CONTENT_TYPE, Metrics
from router.wire.errors import error_body

Reload = Callable[[], Awaitable[list[Problem]]]


def admin_app(runtime: Callable[[], Runtime], ready: Callable[[], bool], reload: Reload, metrics: Metrics) -> Starlette:
    """The ASGI app. `reload` returns warnings or raises ConfigError; `ready`: neither starting nor draining."""

    async def healthz(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def readyz(_: Request) -> Response:
        return JSONResponse({"status": "ready"}) if ready() else JSONResponse({"status": "not ready"}, 503)

    async def scrape(_: Request) -> Response:
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    async def state(_: Request) -> Response:
        return JSONResponse(describe(runtime()))

    async def reload_now(_: Request) -> Response:
        try:
            warnings = await reload()
        except ConfigError as error:
            return JSONResponse({"status": "refused", "problems": [str(problem) for problem in error.problems]}, 400)
        return JSONResponse({"status": "reloaded", "warnings": [str(problem) for problem in warnings]})

    async def explain_now(request: Request) -> Response:
        asked = request.query_params
        try:
            lines = await explain(
                runtime(),
                asked.get("tenant", ""),
                await _body(request, runtime().config.server.max_body_bytes),
                asked.get("path"),
                asked.get("lane"),
                live=True,
            )
        except GatewayError as error:
            return Response(error_body(error), error.status, media_type="application/json")
        return PlainTextResponse("\n".join(lines) + "\n")

    return Starlette(
        routes=[
            Route("/healthz", healthz),
            Route("/readyz", readyz),
            Route("/metrics", scrape),
            Route("/admin/state", state),
            Route("/admin/reload", reload_now, methods=["POST"]),
            Route("/admin/explain", explain_now, methods=["POST"]),
        ]
    )


async def _body(request: Request, limit: int) -> bytes:
    """The request's body. Raises BodyTooLarge."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes.")
    return bytes(data)
