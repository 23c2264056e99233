"""What one event of a stream is, or one whole body, in the words of each API.

Floor: sans-IO. Asked for the events at both ends of a stream and for those that look unusual, so it may parse.
"""

from __future__ import annotations

import re
from enum import Enum
from typing import Any, Final

import msgspec

from router.wire.openai import ApiSpec
from router.wire.shapes import CountedAnswer, NamedEvent, SeenChoice, SeenChunk, SeenDelta, SeenError, WholeAnswer
from router.wire.sse import event_data, event_name
from router.wire.usage import Told, find_fingerprint, find_finish, find_usage, told


class Kind(Enum):
    """OPENING says nothing of the answer's content yet; LAST ends a good one; FAILED ends one that is none."""

    OPENING = "opening"
    CONTENT = "content"
    LAST = "last"
    FAILED = "failed"


_chunk = msgspec.json.Decoder(SeenChunk).decode
_error = msgspec.json.Decoder(SeenError).decode
_named = msgspec.json.Decoder(NamedEvent).decode
_whole = msgspec.json.Decoder(WholeAnswer).decode
_counted = msgspec.json.Decoder(CountedAnswer).decode
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# What vLLM's chunks of text are, and the one before the first of them: every stream has these, so they are not parsed.
_USUAL: Final = re.compile(
    rb'"text":"(?:(?P<text>[^"])|")|"delta":\{(?:"role":"assistant",)?"content":"(?:(?P<content>[^"])|"\})'
)
_FINISH: Final = b'"finish_reason":"'
_ERROR: Final = b'"error":'

_GIVEN_UP: Final = ("abort", "error")
# Of a delta that has nothing but these, and a role, nothing is seen.
_NOTHING: Final = frozenset({b'""', b"null", b"[]", b"{}"})
# Errors that the request caused, by vLLM's and by Anthropic's names: no other engine would help.
_REQUEST_ERRORS: Final = frozenset(
    {"BadRequestError", "NotFoundError", "UnprocessableEntityError", "invalid_request_error", "not_found_error"}
)
_NAMED: Final = {
    b"message_start": Kind.OPENING,
    b"content_block_start": Kind.OPENING,
    b"ping": Kind.OPENING,
    b"message_stop": Kind.LAST,
    b"response.created": Kind.OPENING,
    b"response.queued": Kind.OPENING,
    b"response.in_progress": Kind.OPENING,
    b"response.output_item.added": Kind.OPENING,
    b"response.content_part.added": Kind.OPENING,
    b"response.reasoning_part.added": Kind.OPENING,
    b"response.completed": Kind.LAST,
    b"response.incomplete": Kind.LAST,
    b"response.failed": Kind.FAILED,
    b"response.cancelled": Kind.FAILED,
    b"error": Kind.FAILED,
}


def kind_of(event: bytes, api: str) -> tuple[Kind, int]:
    """What the event is, and the status of an error that the request caused: 0, or from 400 to 499."""
    if event.startswith(b":"):
        return Kind.OPENING, 0  # a comment
    if event.startswith(b"data:") and (usual := _usual_kind(event)) is not None:
        return usual, 0
    data = event_data(event)
    if data == b"[DONE]":
        return Kind.LAST, 0
    name = event_name(event)
    return _of_name(name, data) if name and api in ("messages", "responses") else _of_chunk(data)


def read_whole(body: bytes, spec: ApiSpec) -> Told | None:
    """What a whole body with a good status says of itself; None where it is no answer: an error, or not complete where
    the API generates text. Those of chat and completions are read once; of all others each is searched for."""
    if spec.usage_on_request:
        try:
            counted = _counted(body)
        except _UNREADABLE:
            pass  # only what it says of itself may be odd
        else:
            return told(counted, body) if _is_answer(counted, spec) else None
    if not _is_whole_answer(body, spec):
        return None
    return Told(
        find_usage(body),
        find_finish(body) if spec.output_fields else None,
        find_fingerprint(body) if spec.usage_on_request else None,
    )


def _is_whole_answer(body: bytes, spec: ApiSpec) -> bool:
    if not spec.output_fields:
        return not body.startswith((b'{"error"', b'{"type":"error"', b'{"object":"error"'))
    try:
        return _is_answer(_whole(body), spec)
    except msgspec.ValidationError:
        return True  # an answer of a kind that is not known here: the client will know
    except _UNREADABLE:
        return False


def _is_answer(whole: WholeAnswer, spec: ApiSpec) -> bool:
    if bytes(whole.error) != b"null" or "error" in (whole.object, whole.type):
        return False
    if spec.name == "messages":
        return whole.type != "message" or whole.stop_reason is not None  # an abort has none
    if spec.name == "responses":
        return whole.status not in ("failed", "cancelled")
    return whole.choices is not None and not any(choice.finish_reason in _GIVEN_UP for choice in whole.choices)


def _usual_kind(event: bytes) -> Kind | None:
    found = _USUAL.search(event)
    if found is None or _FINISH in event or _ERROR in event:
        return None
    return Kind.OPENING if found.lastgroup is None else Kind.CONTENT


def _of_chunk(data: bytes) -> tuple[Kind, int]:
    try:
        chunk = _chunk(data)
    except _UNREADABLE:
        return Kind.CONTENT, 0
    if bytes(chunk.error) != b"null":
        return _of_error(bytes(chunk.error))
    if chunk.object == "error":
        return _of_status(chunk.code)
    if chunk.choices is None:
        return Kind.CONTENT, 0
    if any(choice.finish_reason in _GIVEN_UP for choice in chunk.choices):
        return Kind.FAILED, 0
    return (Kind.CONTENT if any(map(_says_something, chunk.choices)) else Kind.OPENING), 0


def _says_something(choice: SeenChoice) -> bool:
    if choice.finish_reason is not None or choice.text:
        return True
    delta = choice.delta or {}
    return any(name != "role" and bytes(value) not in _NOTHING for name, value in delta.items())


def _of_name(name: bytes, data: bytes) -> tuple[Kind, int]:
    kind = _NAMED.get(name, Kind.CONTENT)
    if kind in (Kind.OPENING, Kind.CONTENT) and name != b"message_delta":
        return kind, 0
    try:
        named = _named(data)
    except _UNREADABLE:
        return kind, 0
    if kind is Kind.FAILED:
        error = named.error or SeenError()
        status = _request_status(error.type, error.code if error.code is not None else named.code)
        return (Kind.CONTENT, status) if status else (kind, 0)
    aborted = named.response is not None and named.response.status in ("failed", "cancelled")
    aborted |= name == b"message_delta" and isinstance(named.delta, SeenDelta) and named.delta.stop_reason is None
    return (Kind.FAILED if aborted else kind), 0


def _of_error(raw: bytes) -> tuple[Kind, int]:
    try:
        error = _error(raw)
    except _UNREADABLE:
        return Kind.FAILED, 0  # a text: the engine scales, or asks for a key
    status = _request_status(error.type, error.code)
    return (Kind.CONTENT, status) if status else (Kind.FAILED, 0)


def _of_status(code: Any) -> tuple[Kind, int]:
    status = _request_status(None, code)
    return (Kind.CONTENT, status) if status else (Kind.FAILED, 0)


def _request_status(kind: str | None, code: Any) -> int:
    """The status of an error that the request caused; 0 for others. vLLM's codes are numbers, OpenAI's are words."""
    if isinstance(code, str) and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and 400 <= code < 500:
        return code
    return 400 if kind in _REQUEST_ERRORS else 0
