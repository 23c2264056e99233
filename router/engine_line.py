"""One attempt's line to its engine: the request proper, and small questions that only the engine can answer.

Floor: an adapter; it waits for the engine and raises `EngineError`. Used where a stream goes on (`router.resume`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from router.calls import Call
from router.errors import EngineStatus
from router.tickets import Ticket
from router.upstream import Response
from router.wire.http import PRIORITY_HEADER, SESSION_HEADER, request_headers

# Of an answer to a question, or of a refusal.
ANSWER_BYTES: Final = 1024 * 1024
# Tokens that are read to see whether text ends within a character. A character has at most 4 bytes, and a token at
# least one of them.
_TAIL_TOKENS: Final = 16
_CHARACTER_TOKENS: Final = 4


class _Card(msgspec.Struct, gc=False):
    id: str = ""
    max_model_len: int | None = None


class _Cards(msgspec.Struct, gc=False):
    data: list[_Card] = []


class _Text(msgspec.Struct, gc=False):
    prompt: str = ""


_cards = msgspec.json.Decoder(_Cards)
_text = msgspec.json.Decoder(_Text)


class EngineLine:
    """To the engine of one ticket, on behalf of one call."""

    __slots__ = ("_call", "_ticket")

    def __init__(self, call: Call, ticket: Ticket) -> None:
        self._call = call
        self._ticket = ticket

    async def send(self, method: bytes, path: bytes, body: bytes) -> Response:
        """The caller reads the answer and aborts it in any case."""
        ticket = self._ticket
        headers = request_headers(self._call.client.raw_headers, self._call.id.encode(), self._call.trace_headers)
        if ticket.priority is not None:
            headers.append((PRIORITY_HEADER, b"%d" % ticket.priority))
        if ticket.session is not None:
            headers.append((SESSION_HEADER, ticket.session.encode()))
        return await ticket.upstream.send(method, path, headers, body)

    async def context(self, model: str) -> int | None:
        """The most tokens that the model can look at, prompt and answer: what an answer without a bound ends at."""
        try:
            cards = _cards.decode(await self._ask(b"GET", b"/v1/models", b"")).data
        except msgspec.DecodeError:
            return None
        return next((card.max_model_len for card in cards if card.id == model), None)

    async def unfinished(self, model: str, ids: Sequence[int]) -> int | None:
        """How many of the last ids show nothing yet, as they are the beginning of a character; None: that is not known.

        Of one chunk with several tokens only a tokenizer can tell.
        """
        tail = list(ids[-_TAIL_TOKENS:])
        for count in range(min(_CHARACTER_TOKENS, len(tail))):
            asked = msgspec.json.encode({"model": model, "tokens": tail[: len(tail) - count]})
            try:
                text = _text.decode(await self._ask(b"POST", b"/detokenize", asked)).prompt
            except msgspec.DecodeError:
                return None
            if not text.endswith("\ufffd"):
                return count
        return None

    async def _ask(self, method: bytes, path: bytes, body: bytes) -> bytes:
        response = await self.send(method, path, body)
        try:
            data = await response.read(ANSWER_BYTES)
        finally:
            response.abort()
        if response.status != 200:
            raise EngineStatus(response.status, response.headers, data)
        return data
