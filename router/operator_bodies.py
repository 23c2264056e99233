"""Requests on the operator plane: orders of other sites' pages, bodies within bounds, refusals in OpenAI's shape.

Floor: under `router.admin` and its parts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import BodyTooLarge, Forbidden, GatewayError
from router.wire.errors import error_body

Handler = Callable[[Request], Awaitable[Response]]


def refusal(error: GatewayError) -> Response:
    return Response(error_body(error), error.status, media_type="application/json")


def answered(work: Handler) -> Handler:
    """The same, with the errors that it raises as answers."""
    return partial(_answer, work)


async def _answer(work: Handler, request: Request) -> Response:
    try:
        return await work(request)
    except GatewayError as error:
        return refusal(error)


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises BodyTooLarge."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes.")
    return bytes(data)


class OwnPagesOnly:
    """Refuses orders that a browser sends for a page of another site: an operator's browser reaches this plane, and
    whoever it visits could make keys here. Programs other than browsers send no `origin`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            headers = Request(scope).headers
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                message = "A page of another site may give no orders here."
                await refusal(Forbidden(message, code="cross_site"))(scope, receive, send)
                return
        await self._app(scope, receive, send)
