"""A drill's own request: a tiny completion as the tenant, through the very line that clients' requests take.

Floor: assembles. Neither limited nor counted, as nobody asked for it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from policies.drill import Probe
from policies.types import Tenant
from router.client import Client, Message
from router.gateway import Gateway
from router.tenants import Identity
from router.wire.openai import APIS

_PATH = "/v1/completions"


async def send_probe(gateway: Gateway, tenant: Tenant, model: str, clock: Callable[[], float]) -> Probe:
    """Sends one and waits for its end, which the gateway's own limits bring."""
    exchange = _Exchange(json.dumps({"model": model, "prompt": "ready?", "max_tokens": 1, "temperature": 0}).encode())
    scope = {"type": "http", "method": "POST", "path": _PATH, "headers": [(b"content-type", b"application/json")]}
    began = clock()
    await gateway.handle(APIS[_PATH], Client(scope, exchange.receive, exchange.send), Identity(tenant, None))
    return Probe(began, clock(), exchange.endpoint, exchange.why)


class _Exchange:
    """The client's end of it: what an ASGI server would be."""

    def __init__(self, body: bytes) -> None:
        self._request: bytes | None = body
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._answer = b""

    async def receive(self) -> Message:
        request, self._request = self._request, None
        if request is not None:
            return {"type": "http.request", "body": request, "more_body": False}
        await asyncio.get_running_loop().create_future()  # it never leaves
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], dict(message["headers"])
        else:
            self._answer += message.get("body", b"")

    @property
    def endpoint(self) -> str:
        return self._headers.get(b"x-promptlane-endpoint", b"").decode("latin-1")

    @property
    def why(self) -> str:
        """Empty for a completion."""
        body = self._json()
        if self._status == 200 and body.get("choices"):
            return ""
        error = body.get("error")
        code = error.get("code") or error.get("type") if isinstance(error, dict) else None
        return f"{self._status} {code or 'no completion'}"

    def _json(self) -> dict[str, Any]:
        try:
            found = json.loads(self._answer)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
