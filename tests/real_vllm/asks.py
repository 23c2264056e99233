"""Requests whose right answers an unbroken server has given first: what they get later is compared byte for byte.

Floor: tests only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import httpx2

from tests.chaos.ask import PATHS, Ask, Expected
from tests.e2e.front import WAIT_SECONDS
from tests.e2e.stack import ENGINE_MODEL

TOKENS = 300
"""Some seconds of decoding: long enough to be struck in the middle."""
AT_ONCE = 8
BEGUN_BYTES = 1500
"""The head of a stream and some events, however many tokens a busy engine puts into each."""


@dataclass(frozen=True)
class RealAsk(Ask):
    """`right`: what an unbroken server has said."""

    right: Expected | None = None

    @property
    def expected(self) -> Expected:
        assert self.right is not None
        return self.right


async def asks(url: str, tenant: str, model: str, name: str) -> list[RealAsk]:
    """Streams and whole answers, chats and completions, each asked of the server at this URL first. The prompts are
    this name's own, or affinity would send them all to one server."""
    found = []
    async with httpx2.AsyncClient(base_url=url, timeout=120.0, trust_env=False) as http:
        for number in range(AT_ONCE):
            api, stream = ("completions", "chat")[number % 4 > 0], number % 4 != 3
            prompt = f"{name} {number} return the value of the object when the list is called with name"
            one = RealAsk(tenant, api, stream, stream and number % 2 == 0, prompt, TOKENS, model, ENGINE_MODEL)
            body = {**one.body, "model": ENGINE_MODEL, "stream": False}
            body.pop("stream_options", None)
            answer = (await http.post(PATHS[api], json=body)).json()
            (choice,), usage = answer["choices"], answer["usage"]
            text = choice["message"]["content"] if api == "chat" else choice["text"]
            counts = usage["prompt_tokens"], usage["completion_tokens"]
            found.append(replace(one, right=Expected(text, choice["finish_reason"], *counts)))
    return found


class Decoding:
    """Tells when every stream among these has some of its answer, and hardly half: at once, as decoding goes on."""

    def __init__(self, requests: Sequence[Ask]) -> None:
        self._silent = {one.prompt for one in requests if one.stream}
        self._all = asyncio.Event()

    def heard(self, ask: Ask, length: int) -> None:
        if length > BEGUN_BYTES:
            self._silent.discard(ask.prompt)
        if not self._silent:
            self._all.set()

    async def all_are(self) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            await self._all.wait()
