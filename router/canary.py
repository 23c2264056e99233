"""A canary: a tiny request of the gateway's own, by which an engine shows that it computes and does not only listen.

Floor: an adapter around httpx. What the answer means for the endpoint is decided in `policies.health`, and of a standby
that was woken in `router.wake`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    """What became of a canary. CANNOT: the engine computes nothing that we can ask for, or no model is known."""

    GOOD = "good"
    BAD = "bad"
    CANNOT = "cannot"


@dataclass(frozen=True, slots=True)
class Way:
    """One API that makes an engine compute. `fields`: of the smallest request; `done`: whether an answer is whole,
    which may raise what reading odd JSON raises."""

    path: str
    fields: Mapping[str, Any]
    done: Callable[[Any], bool]


class Canary:
    """Sends canaries. `models`: what the pool's tenants call the engines' models, for engines that do not tell.

    An engine serves completions or pooling (embeddings, scores), seldom both, and says 4xx to the other: the ways are
    tried in turn, beginning with the one by which it last showed that it computes.
    """

    def __init__(self, http: httpx2.AsyncClient, models: Sequence[str]) -> None:
        self._http = http
        self._models = tuple(models)
        self._ways: dict[str, Way] = {}  # by endpoint

    async def ask(self, state: EndpointState, seconds: float) -> Verdict:
        """Sends one and waits for it so long."""
        model = self._model(state)
        if model is None:
            return Verdict.CANNOT
        known = self._ways.get(state.endpoint.name, WAYS[0])
        verdict, _, way = await send_canary(self._http, state.endpoint.url, model, seconds, known)
        if verdict is Verdict.GOOD:
            self._ways[state.endpoint.name] = way
        return verdict

    def _model(self, state: EndpointState) -> str | None:
        if state.served:
            return state.served[0].name
        return self._models[0] if self._models else None


async def send_canary(
    http: httpx2.AsyncClient, url: str, model: str, seconds: float, first: Way | None = None
) -> tuple[Verdict, str, Way]:
    """Asks the engine at this URL for the least that it can compute and waits for it so long, the `first` way first.

    The verdict, what came, for the log, and by which way.
    """
    known = first or WAYS[0]
    way, what = known, "was not sent"
    try:
        async with asyncio.timeout(seconds):
            for way in (known, *(one for one in WAYS if one is not known)):
                # The salt is new each time: nothing of it is found in a cache, and it finds nobody's prompt.
                body = {"model": model, **way.fields, "cache_salt": token_hex(16)}
                answer = await http.post(url.rstrip("/") + way.path, json=body, timeout=seconds)
                verdict, what = _verdict(way, answer), f"was answered with {answer.status_code}"
                if verdict is not Verdict.CANNOT:
                    return verdict, what, way
    except (TimeoutError, httpx2.HTTPError):
        return Verdict.BAD, f"was not answered within {seconds:g} seconds", way
    return Verdict.CANNOT, what, way


def _verdict(way: Way, answer: httpx2.Response) -> Verdict:
    if 400 <= answer.status_code < 500 and answer.status_code not in _BUSY:
        return Verdict.CANNOT
    if answer.status_code != HTTPStatus.OK:
        return Verdict.BAD
    try:
        return Verdict.GOOD if way.done(answer.json()) else Verdict.BAD
    except (ValueError, LookupError, TypeError, AttributeError):  # not what an engine answers
        return Verdict.BAD


def _completed(answer: Any) -> bool:
    (choice,) = answer["choices"]
    return choice.get("finish_reason") not in _UNFINISHED


def _pooled(answer: Any) -> bool:
    (one,) = answer["data"]
    return "embedding" in one or "score" in one


WAYS = (
    Way("/v1/completions", {"prompt": "1", "max_tokens": 1, "temperature": 0}, _completed),
    Way("/v1/embeddings", {"input": "1"}, _pooled),
    Way("/v1/score", {"text_1": "1", "text_2": "1"}, _pooled),
)
