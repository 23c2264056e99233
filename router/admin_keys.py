"""Keys on the operator plane: listed, made, revoked, rotated; in force on this process with the answer.

Floor: assembles, as `router.admin`, of which it is a part.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.assembly import Runtime
from router.config.section import Section
from router.errors import BadRequest, GatewayError
from router.key_builder import keys_off
from router.key_orders import (
    KeyOrder,
    NoOrder,
    RotateOrder,
    create,
    known_tenant,
    listed,
    read_order,
    revoke,
    rotate,
    shown,
)
from router.key_watch import KeyWatch
from router.operator_bodies import read_body, refusal

_ORDER_BYTES = 64 * 1024  # far more than an order has
_NO_STORE = {"cache-control": "no-store"}  # an answer with a key is for nobody's cache
_Order = TypeVar("_Order", bound=Section)
_Handler = Callable[[Request], Awaitable[Response]]


def key_routes(runtime: Callable[[], Runtime], watch: KeyWatch | None) -> list[Route]:
    """`watch`: None where keys are not made at run time; then only those of the configuration are listed."""
    desk = _Desk(runtime, watch)
    return [
        Route("/admin/keys", _answered(desk.list), methods=["GET"]),
        Route("/admin/keys", _answered(desk.create), methods=["POST"]),
        Route("/admin/keys/{id}/revoke", _answered(desk.revoke), methods=["POST"]),
        Route("/admin/keys/{id}/rotate", _answered(desk.rotate), methods=["POST"]),
    ]


class _Desk:
    def __init__(self, runtime: Callable[[], Runtime], watch: KeyWatch | None) -> None:
        self._runtime = runtime
        self._watch = watch

    async def list(self, request: Request) -> Response:
        config, asked = self._runtime().config, request.query_params.get("tenant")
        tenant = known_tenant(config, asked) if asked is not None else None
        stored = await self._watch.ask(lambda store: store.every(tenant)) if self._watch is not None else []
        return JSONResponse({"keys": listed(config, stored, self._now(), tenant)}, headers=_NO_STORE)

    async def create(self, request: Request) -> Response:
        order = await _order(request, KeyOrder)
        config, now = self._runtime().config, self._now()
        made = await self._on().change(lambda store: create(store, config, order, now))
        answer = {"key": made.key} | shown(config, made.stored, now)
        return JSONResponse(answer, 201, headers=_NO_STORE)

    async def revoke(self, request: Request) -> Response:
        await _order(request, NoOrder)
        config, now, key_id = self._runtime().config, self._now(), request.path_params["id"]
        key = await self._on().change(lambda store: revoke(store, config, key_id, now))
        return JSONResponse(shown(config, key, now), headers=_NO_STORE)

    async def rotate(self, request: Request) -> Response:
        order = await _order(request, RotateOrder)
        config, now, key_id = self._runtime().config, self._now(), request.path_params["id"]
        made = await self._on().change(lambda store: rotate(store, config, key_id, order, now))
        answer = {"key": made.key} | shown(config, made.stored, now)
        if made.old is not None:
            answer["old"] = shown(config, made.old, now)
        return JSONResponse(answer, 201, headers=_NO_STORE)

    def _on(self) -> KeyWatch:
        if self._watch is None:
            raise keys_off()
        return self._watch

    def _now(self) -> float:
        return self._runtime().gateway.services.wall_clock()


def _answered(work: _Handler) -> _Handler:
    return partial(_answer, work)


async def _answer(work: _Handler, request: Request) -> Response:
    try:
        return await work(request)
    except GatewayError as error:
        return refusal(error)


async def _order(request: Request, kind: type[_Order]) -> _Order:
    """The body as an order; none is an empty one. Raises BadRequest or BodyTooLarge."""
    data = await read_body(request, _ORDER_BYTES)
    try:
        said: Any = json.loads(data) if data else {}
    except (ValueError, RecursionError):
        raise BadRequest("The body is not valid JSON.", code="invalid_json") from None
    if not isinstance(said, dict):
        raise BadRequest("The body must be a JSON object.")
    return read_order(kind, said)
