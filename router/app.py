"""The data plane: paths to handlers, and the runtime that a reload swaps.

Floor: assembles; serves what tenants may reach and nothing else.
"""

from __future__ import annotations

import time

import msgspec
from starlette.middleware.cors import CORSMiddleware

from router.access_log import Line
from router.assembly import Runtime
from router.client import Client, Receive, Scope, Send
from router.config import CorsConfig
from router.errors import GatewayError, MethodNotAllowed, ModelNotFound, NotFound
from router.origin import request_id
from router.tenants import Identity
from router.usage_api import TenantUsage
from router.wire.errors import error_body, error_headers
from router.wire.openai import APIS

_MODELS = "/v1/models"
_USAGE = "/v1/usage"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})  # others are a client's own words
_JSON = (b"content-type", b"application/json")
# What a browser's page may read of an answer, where CORS is on.
_EXPOSED = (
    "x-request-id",
    "x-promptlane-lane",
    "x-promptlane-endpoint",
    "x-promptlane-cached-tokens",
    "x-promptlane-queue-ms",
    "x-promptlane-why",
    "x-promptlane-degraded",
    "x-promptlane-cache",
    "age",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-promptlane-limit",
    *(f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
)


class App:
    """Raw ASGI: the byte path has no framework in it. `usage`: None where no records are kept."""

    def __init__(self, runtime: Runtime, usage: TenantUsage | None = None) -> None:
        self.runtime = runtime
        self._usage = usage
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        client = Client(scope, receive, send)
        spec = APIS.get(scope["path"])
        if spec is not None and scope["method"] == "POST":
            await self.runtime.gateway.handle(spec, client)
        else:
            await self._other(client, scope["method"], scope["path"])

    async def _other(self, client: Client, method: str, path: str) -> None:
        headers = [(b"x-request-id", request_id(client).encode())]
        arrived_at = self.runtime.gateway.services.clock()
        tenant, api, status, code = "", "unknown", 200, None
        try:
            if path != _USAGE and path != _MODELS and not path.startswith(_MODELS + "/"):
                raise _not_served(method, path)
            api = "usage" if path == _USAGE else "models"
            if method != "GET":
                raise _wrong_method(method, "GET")
            identity = self.runtime.gateway.identify(client, api)
            tenant = identity.tenant.id
            if path == _USAGE:
                body = await self._used(identity, client)
            else:
                body = self._models(identity, path[len(_MODELS) + 1 :])
            headers.append(_JSON)
        except GatewayError as error:
            anthropic = path in APIS and APIS[path].anthropic
            code, status = error.code, error.status
            body = error_body(error, anthropic=anthropic)
            headers += error_headers(error)
        await client.respond(status, headers, body)
        services = self.runtime.gateway.services
        services.metrics.add("promptlane_requests", tenant, api, "", str(status))
        if services.access is not None:
            services.access.add(
                Line(
                    at=services.wall_clock(),
                    request_id=headers[0][1].decode(),
                    client=services.origin.address(client),
                    api=api,
                    status=status,
                    total_seconds=services.clock() - arrived_at,
                    method=method if method in _METHODS else "other",
                    tenant=tenant or None,
                    error=code,
                )
            )

    async def _used(self, identity: Identity, client: Client) -> bytes:
        if self._usage is None:
            raise NotFound("No usage is kept here.", code="usage_off")
        return await self._usage.answer(identity, client.scope.get("query_string", b""))

    def _models(self, identity: Identity, wanted: str) -> bytes:
        """The tenant's models that the key may use, in OpenAI's shape; or the wanted one."""
        names = [name for name in identity.tenant.models if identity.key is None or identity.key.allows_model(name)]
        objects = {
            name: {"id": name, "object": "model", "created": self._created, "owned_by": identity.tenant.id}
            for name in names
        }
        if not wanted:
            return msgspec.json.encode({"object": "list", "data": list(objects.values())})
        if wanted not in objects:
            raise ModelNotFound.named(wanted)
        return msgspec.json.encode(objects[wanted])


def with_cors(app: App, cors: CorsConfig) -> CORSMiddleware:
    """The app for browsers of other origins, as configured."""
    return CORSMiddleware(
        app,
        allow_origins=cors.allow_origins,
        allow_credentials=cors.allow_credentials,
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=_EXPOSED,
        max_age=cors.max_age,
    )


def _not_served(method: str, path: str) -> GatewayError:
    if path in APIS:
        return _wrong_method(method, "POST")
    return NotFound(f"Unknown request URL: {method} {path[:200]}. Please check the URL for typos.", code="unknown_url")


def _wrong_method(method: str, allowed: str) -> GatewayError:
    return MethodNotAllowed(
        f"This URL does not support {method}; use {allowed}.", headers=((b"allow", allowed.encode()),)
    )
