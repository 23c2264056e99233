"""Reads one streamed chat answer: when its first and last text came, what it cost, what the gateway said of it.

Floor: sans-IO; bytes and times in, an `Answer` out. HTTP is parsed by httptools, and of the events only the first ones
and the last are looked into: the client must not become what is measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httptools

# The beginning of a piece of text that is not empty; vLLM's first event has the role and an empty text.
_TEXT = re.compile(rb'"(?:content|reasoning|text)": ?"[^"]')
_TEXT_BYTES = 32  # that such a beginning may have before the cut between two reads
_DONE = b"data: [DONE]"
_PREDICTED = re.compile(r"first token in (\d+) ms")
_SHOWN = 200  # bytes of a wrong answer that go into a reason


@dataclass(frozen=True)
class Answer:
    """One finished exchange; times are seconds on the client's clock.

    `failed`: why there is no whole answer, "" when there is. `status` 0: no answer at all. `endpoint` "": not told.
    `foreseen_*`: what the gateway predicted at dispatch, None where it did not say.
    """

    status: int
    first_at: float | None = None
    last_at: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    endpoint: str = ""
    queue_seconds: float = 0.0
    foreseen_cached: int | None = None
    foreseen_ttft: float | None = None
    failed: str = ""


@dataclass(slots=True, eq=False)
class AnswerReader:
    """`feed` until it is True, then `answer`. Raises ValueError for bytes that are no HTTP."""

    _parser: httptools.HttpResponseParser = field(init=False)
    _headers: dict[str, str] = field(default_factory=dict)
    _body: bytearray = field(default_factory=bytearray)
    _now: float = 0.0
    _first_at: float | None = None
    _last_at: float = 0.0
    _complete: bool = False

    def __post_init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes, now: float) -> bool:
        """True when the answer is complete."""
        self._now = now
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"no HTTP answer: {error}") from None
        return self._complete

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        seen = max(0, len(self._body) - _TEXT_BYTES)
        self._body += data
        self._last_at = self._now
        if self._first_at is None and _TEXT.search(self._body, seen):
            self._first_at = self._now

    def on_message_complete(self) -> None:
        self._complete = True

    def answer(self) -> Answer:
        """What came, whole or not."""
        status = self._parser.get_status_code()
        found = _events_end(bytes(self._body)) if status == 200 else {}
        usage: Mapping[str, Any] = found.get("usage") or {}
        details: Mapping[str, Any] = usage.get("prompt_tokens_details") or {}
        predicted = _PREDICTED.search(self._headers.get("x-promptlane-why", ""))
        cached = self._headers.get("x-promptlane-cached-tokens")
        return Answer(
            status=status,
            first_at=self._first_at,
            last_at=self._last_at,
            prompt_tokens=int(usage.get("prompt_tokens") or 0),
            cached_tokens=int(details.get("cached_tokens") or 0),
            output_tokens=int(usage.get("completion_tokens") or 0),
            endpoint=self._headers.get("x-promptlane-endpoint", ""),
            queue_seconds=float(self._headers.get("x-promptlane-queue-ms", "0")) / 1000,
            foreseen_cached=int(cached) if cached is not None else None,
            foreseen_ttft=int(predicted[1]) / 1000 if predicted else None,
            failed=self._failure(status, found),
        )

    def _failure(self, status: int, last: Mapping[str, Any]) -> str:
        if status != 200:
            return f"status {status}: {bytes(self._body[:_SHOWN])!r}"
        if "error" in last:
            return f"an error in the stream: {json.dumps(last['error'])[:_SHOWN]}"
        if not self._body.rstrip().endswith(_DONE):
            return "the stream does not end with [DONE]"
        if self._first_at is None or not last.get("usage"):
            return "a stream without text or without usage"
        return ""


def _events_end(body: bytes) -> dict[str, Any]:
    """The last event that is not [DONE]: the usage, or an error."""
    events = [event for event in body.split(b"\n\n") if event.startswith(b"data: {")]
    try:
        last = json.loads(events[-1][len(b"data: ") :]) if events else {}
    except ValueError:
        return {}
    return last if isinstance(last, dict) else {}
