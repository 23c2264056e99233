"""A guard that is a service of its own, asked as OpenAI's `/v1/moderations` is.

Floor: an adapter over httpx2. Every question has a time limit, every answer a size; what it says of a text is a yes or
a no, and nothing of the text is kept or logged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import msgspec

# An answer has some hundred bytes for each text.
ANSWER_BYTES = 1024 * 1024
# Questions at once; more wait, within their time limit.
QUESTIONS = 64


class ServiceFailed(Exception):
    """No verdict. `cause`: `timeout`, `unreachable`, `status` or `nonsense`."""

    def __init__(self, cause: str) -> None:
        super().__init__(cause)
        self.cause = cause


class _Result(msgspec.Struct, gc=False):
    flagged: bool
    categories: dict[str, bool] | None = None


class _Answer(msgspec.Struct, gc=False):
    results: list[_Result]


_answer = msgspec.json.Decoder(_Answer).decode


class ModerationService:
    """`url`: where to ask; `seconds`: what an answer may take; `categories`: those that count, None: as it flags."""

    def __init__(
        self, url: str, seconds: float, *, model: str | None, key: str | None, categories: Sequence[str] | None
    ) -> None:
        self._url = url
        self._seconds = seconds
        self._model = model
        self._categories = categories
        self._headers = {"authorization": f"Bearer {key}"} if key is not None else {}
        self._http = self._client()
        self._asking = 0
        self._closing = False

    async def flags(self, texts: Sequence[str]) -> bool:
        """Whether it flags one of the texts. Raises ServiceFailed."""
        if self._http.is_closed:  # a request that began before a reload goes on
            self._http = self._client()
        self._asking += 1
        try:
            async with asyncio.timeout(self._seconds):
                return self._verdict(await self._ask(texts), len(texts))
        except TimeoutError:
            raise ServiceFailed("timeout") from None
        except httpx2.HTTPError:
            raise ServiceFailed("unreachable") from None
        finally:
            self._asking -= 1
            if self._closing and not self._asking:
                await self._http.aclose()

    async def close(self) -> None:
        """Ends its connections, once the questions under way are answered."""
        self._closing = True
        if not self._asking:
            await self._http.aclose()

    def _client(self) -> httpx2.AsyncClient:
        bounds = httpx2.Limits(max_connections=QUESTIONS)
        # A proxy in the environment is for what people browse; the time limit is the question's.
        return httpx2.AsyncClient(headers=self._headers, limits=bounds, timeout=None, trust_env=False)

    async def _ask(self, texts: Sequence[str]) -> bytes:
        question: dict[str, Any] = {"input": list(texts)}
        if self._model is not None:
            question["model"] = self._model
        body = msgspec.json.encode(question)
        async with self._http.stream(
            "POST", self._url, content=body, headers={"content-type": "application/json"}
        ) as response:
            if response.status_code != 200:
                raise ServiceFailed("status")
            answer = bytearray()
            async for piece in response.aiter_bytes():
                answer += piece
                if len(answer) > ANSWER_BYTES:
                    raise ServiceFailed("nonsense")
            return bytes(answer)

    def _verdict(self, body: bytes, texts: int) -> bool:
        try:
            results = _answer(body).results
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ServiceFailed("nonsense") from None
        if not results or len(results) not in (1, texts):  # some answer once for all
            raise ServiceFailed("nonsense")
        if self._categories is None:
            return any(result.flagged for result in results)
        return any((result.categories or {}).get(name, False) for result in results for name in self._categories)
