"""The events of a stream of OpenAI's two APIs, as far as they must be understood to continue it, and their token ids.

Floor: sans-IO. In a JSON string quotes are escaped, so that a key with bare quotes is never text that a model wrote.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from router.errors import EngineAborted
from router.wire.shapes import Choice, Chunk
from router.wire.values import given

CHOICES: Final = b'"choices":'
GAVE_UP: Final = "The engine gave this request up."
_PROMPT: Final = b'"prompt_token_ids":['
_IDS: Final = b'"token_ids":['
_TEXT: Final = re.compile(rb'"(?:text|content)":("(?:[^"\\]|\\.)*")')

_decode = msgspec.json.Decoder(Chunk).decode


def read_chunk(event: bytes) -> Chunk | None:
    """None for what is no chunk. Raises EngineAborted for an engine's error."""
    try:
        chunk = _decode(event.strip().removeprefix(b"data:"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # what has another shape is one of them too
        return None
    if given(chunk.error):
        raise EngineAborted(GAVE_UP)
    return chunk


def must_go_on(choice: Choice) -> None:
    """Raises EngineAborted for an ending that is none."""
    if choice.finish_reason in ("abort", "error"):
        raise EngineAborted(GAVE_UP)


def with_text(event: bytes, text: str) -> bytes:
    """An event that has text, with this one instead."""
    found = _TEXT.search(event, max(0, event.find(CHOICES)))
    if found is None:
        return event
    return event[: found.start(1)] + msgspec.json.encode(text) + event[found.end(1) :]


def without_ids(event: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """The event with null for its ids, and the ids of the prompt and of the answer as JSON wrote them, if there are."""
    bare, prompt = _cut(event, _PROMPT)
    bare, ids = _cut(bare, _IDS)
    return bare, prompt, ids


def _cut(event: bytes, key: bytes) -> tuple[bytes, bytes | None]:
    at = event.rfind(key)
    end = event.find(b"]", at)
    if at < 0 or end < 0:
        return event, None
    start = at + len(key)
    return event[: start - 1] + b"null" + event[end + 1 :], event[start:end]
