"""A canary: a tiny request of the gateway's own, by which an engine shows that it computes and does not only listen.

Floor: an adapter around httpx. What the answer means for the endpoint is decided in `policies.health`, and of a standby
that was woken in `router.wake`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from http import HTTPStatus
from secrets import token_hex
from typing import Any

import httpx2

from policies.endpoint_state import EndpointState

# Answers by which an engine with too much to do, or a proxy before it, says so: no word on what it can.
_BUSY = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_UNFINISHED = ("abort", "error")


class Verdict(StrEnum):
    """What became of a canary. CANNOT: the engine computes no completions (embeddings do not), or no model is known."""

    GOOD = "good"
    BAD = "bad"
    CANNOT = "cannot"


class Canary:
    """Sends canaries. `models`: what the pool's tenants call the engines' models, for engines that do not tell."""

    def __init__(self, http: httpx2.AsyncClient, models: Sequence[str]) -> None:
        self._http = http
        self._models = tuple(models)

    async def ask(self, state: EndpointState, seconds: float) -> Verdict:
        """Sends one and waits for it so long."""
        model = self._model(state)
        if model is None:
            return Verdict.CANNOT
        verdict, _ = await send_canary(self._http, state.endpoint.url, model, seconds)
        return verdict

    def _model(self, state: EndpointState) -> str | None:
        if state.served:
            return state.served[0].name
        return self._models[0] if self._models else None


async def send_canary(http: httpx2.AsyncClient, url: str, model: str, seconds: float) -> tuple[Verdict, str]:
    """Asks the engine at this URL for one token and waits for it so long: the verdict, and what came, for the log."""
    try:
        async with asyncio.timeout(seconds):
            answer = await http.post(url.rstrip("/") + "/v1/completions", json=_body(model), timeout=seconds)
    except (TimeoutError, httpx2.HTTPError):
        return Verdict.BAD, f"was not answered within {seconds:g} seconds"
    return _verdict(answer), f"was answered with {answer.status_code}"


def _body(model: str) -> dict[str, Any]:
    """The salt is new each time: nothing of it is found in a cache, and nobody's prompt finds anything of it."""
    return {"model": model, "prompt": "1", "max_tokens": 1, "temperature": 0, "cache_salt": token_hex(16)}


def _verdict(answer: httpx2.Response) -> Verdict:
    if 400 <= answer.status_code < 500 and answer.status_code not in _BUSY:
        return Verdict.CANNOT
    if answer.status_code != HTTPStatus.OK:
        return Verdict.BAD
    try:
        (choice,) = answer.json()["choices"]
        return Verdict.BAD if choice.get("finish_reason") in _UNFINISHED else Verdict.GOOD
    except (ValueError, LookupError, TypeError, AttributeError):  # not what an engine answers
        return Verdict.BAD
