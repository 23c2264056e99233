"""Keys on the operator plane: listed, made, revoked, rotated; in force on this process with the answer.

Floor: assembles, as `router.admin`, of which it is a part.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.assembly import Runtime
from router.config.section import Section
from router.errors import BadRequest
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
from router.operator_bodies import answered, read_body

_ORDER_BYTES = 64 * 1024  # far more than an order has
_NO_STORE = {"cache-control": "no-store"}  # an answer with a key is for nobody's cache
_Order = TypeVar("_Order", bound=Section)


def key_routes(runtime: Callable[[], Runtime], watch: KeyWatch | None) -> list[Route]:
    """`watch`: None where keys are not made at run time; then only those of the configuration are listed."""
    desk = _Desk(runtime, watch)
    return [
        Route("/admin/keys", answered(desk.list), methods=["GET"]),
        Route("/admin/keys", answered(desk.create), methods=["POST"]),
        Route("/admin/keys/{id}/revoke", answered(desk.revoke), methods=["POST"]),
        Route("/admin/keys/{id}/rotate", answered(desk.rotate), methods=["POST"]),
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
