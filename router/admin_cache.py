"""The cache on the operator plane: emptied for one tenant.

Floor: assembles, as `router.admin`, of which it is a part.
"""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from router.assembly import Runtime
from router.errors import BadRequest, Conflict, Overloaded
from router.key_orders import known_tenant
from router.operator_bodies import answered
from router.response_cache.store import StoreAway


def cache_routes(runtime: Callable[[], Runtime]) -> list[Route]:
    async def purge(request: Request) -> Response:
        asked = request.query_params.get("tenant")
        if asked is None:
            raise BadRequest("Say whose cache: ?tenant=T.", param="tenant", code="missing_required_parameter")
        tenant = known_tenant(runtime().config, asked)
        caches = runtime().caches
        cache = caches.of.get(tenant) if caches is not None else None
        if cache is None:
            raise Conflict(f"The tenant '{tenant}' has no cache: give tenants.{tenant}.cache.", code="cache_off")
        try:
            return JSONResponse({"tenant": tenant, "purged": await cache.purge()})
        except StoreAway as error:
            message = f"The answers of '{tenant}' could not be dropped: {error}."
            raise Overloaded(message, code="cache_unavailable", retry_after=1.0) from None

    return [Route("/admin/cache/purge", answered(purge), methods=["POST"])]
