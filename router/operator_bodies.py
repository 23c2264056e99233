"""Bodies on the operator plane: read within bounds, and refusals in OpenAI's shape.

Floor: under `router.admin` and its parts.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from router.errors import BodyTooLarge, GatewayError
from router.wire.errors import error_body


def refusal(error: GatewayError) -> Response:
    return Response(error_body(error), error.status, media_type="application/json")


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body. Raises BodyTooLarge."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes.")
    return bytes(data)
