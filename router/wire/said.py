"""The text and the tool calls of an answer that is over, and the text of its prompt, as far as samples have them.

Floor: sans-IO. Run off the event loop. Of streams the texts are searched for, which takes a tenth of reading each
event: in a JSON string quotes are escaped, so a key with bare quotes is never text that a model wrote. Only events that
tell of a tool call are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from policies.governance.answers import Said
from router.wire.answer_sample import AnswerSample
from router.wire.fields import Fields
from router.wire.openai import ApiSpec
from router.wire.parameters import tool_names

_PROMPT_BYTES: Final = 16 * 1024  # of a prompt, whose script an answer's is compared with
_STRING: Final = rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
_TEXTS: Final = {
    "chat": re.compile(rb'"content": ?' + _STRING),
    "completions": re.compile(rb'"text": ?' + _STRING),
    "messages": re.compile(rb'"text": ?' + _STRING),
    "responses": re.compile(rb'event: response\.output_text\.delta\r?\ndata: [^\n]*?"delta": ?' + _STRING),
}
_CALL_MARKS: Final = {
    "chat": (b'"tool_calls"',),
    "messages": (b'"tool_use"', b'"input_json_delta"'),
    "responses": (b"response.output_item.done",),
}
_PROMPTS: Final = {"chat": "messages", "completions": "prompt", "responses": "input", "messages": "messages"}
_VALUES: Final = re.compile(_STRING + rb"(\s*+:)?")  # each string, and whether it is the name of a member
_WORDS: Final = frozenset({b"user", b"assistant", b"system", b"developer", b"tool", b"text", b"input_text", b"message"})
_LAST_TURN: Final = (b'{"role"', b'{ "role"')
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode = msgspec.json.Decoder().decode


def said(spec: ApiSpec, sample: AnswerSample) -> Said | None:
    """None where there is nothing that can be read."""
    if sample.body is not None:
        return _whole(spec.name, sample.body)
    events = sample.events
    if sample.complete and events[:1] == b"{":  # no stream, though it came in pieces
        return _whole(spec.name, events)
    text = _joined(_TEXTS[spec.name].findall(events))
    calls = _streamed_calls(spec.name, events)
    return Said(text, calls, sample.complete) if text or calls else None


def prompt_end(spec: ApiSpec, fields: Fields) -> bytes:
    """Of a body's prompt the last turn, or its beginning where that is too long: a copy."""
    raw = fields.get(_PROMPTS.get(spec.name, ""))
    if raw is None:
        return b""
    view = memoryview(raw)
    if len(view) <= _PROMPT_BYTES:
        return bytes(view)
    end = bytes(view[-_PROMPT_BYTES:])
    start = max(end.rfind(mark) for mark in _LAST_TURN)
    return end[start:] if start >= 0 else bytes(view[:_PROMPT_BYTES])


def prompt_text(raw: bytes) -> str:
    """The texts in it."""
    return _joined(text + b" " for text, name in _VALUES.findall(raw) if not name and text not in _WORDS)


def names_of_tools(raw: bytes | None) -> frozenset[str]:
    """Of the body's `tools`."""
    value = _read(raw) if raw is not None else None
    return frozenset(filter(None, map(str, tool_names(value)))) if isinstance(value, list) else frozenset()


def _joined(parts: Iterable[bytes]) -> str:
    """Strings of JSON as one."""
    raw = b'"%b"' % b"".join(parts)
    try:
        text = _decode(raw)
    except _UNREADABLE:  # half a pair of surrogates, for one
        try:
            text = json.loads(raw.decode("utf-8", "replace"), strict=False)
        except ValueError:
            return ""
    return str(text)


def _read(raw: bytes) -> Any:
    try:
        return _decode(raw)
    except _UNREADABLE:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


# -- in one piece -----------------------------------------------------------------------------------------------------


def _whole(api: str, body: bytes) -> Said | None:
    answer = _read(body)
    if not isinstance(answer, dict):
        return None
    if api in ("chat", "completions"):
        texts, calls = _of_choices(answer)
    else:
        texts, calls = _of_items(answer)
    return Said("".join(texts), tuple(calls)) if texts or calls else None


def _of_choices(answer: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    texts, calls = [], []
    for choice in _objects(answer.get("choices")):
        message = choice.get("message")
        message = message if isinstance(message, dict) else choice
        texts.append(_text(message.get("content", message.get("text"))))
        for call in _objects(message.get("tool_calls")):
            function = call.get("function")
            if isinstance(function, dict):
                calls.append((_text(function.get("name")), _text(function.get("arguments"))))
    return list(filter(None, texts)), calls


def _of_items(answer: dict[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    """Anthropic's blocks of content, or the items of a response, whose messages have such."""
    texts, calls = [], []
    items = [*_objects(answer.get("content")), *_objects(answer.get("output"))]
    for item in [*items, *(part for one in items for part in _objects(one.get("content")))]:
        kind = item.get("type")
        if kind in ("text", "output_text"):
            texts.append(_text(item.get("text")))
        elif kind == "tool_use":
            calls.append((_text(item.get("name")), msgspec.json.encode(item.get("input")).decode()))
        elif kind == "function_call":
            calls.append((_text(item.get("name")), _text(item.get("arguments"))))
    return list(filter(None, texts)), calls


# -- in pieces --------------------------------------------------------------------------------------------------------


def _streamed_calls(api: str, events: bytes) -> tuple[tuple[str, str], ...]:
    """By their place in the answer: a name, and the pieces of the arguments behind each other."""
    marks = _CALL_MARKS.get(api, ())
    if not any(mark in events for mark in marks):
        return ()
    found: dict[Any, list[str]] = {}
    for line in events.split(b"\n"):
        if line.startswith(b"data:") and (b"_call" in line or any(mark in line for mark in marks)):
            event = _read(line.removeprefix(b"data:"))
            for place, name, arguments in _calls_of(event) if isinstance(event, dict) else ():
                call = found.setdefault(place, ["", ""])
                call[0] += name
                call[1] += arguments
    return tuple((name, arguments) for name, arguments in found.values())


def _calls_of(event: dict[str, Any]) -> Iterator[tuple[Any, str, str]]:
    """Place, name and arguments, or a piece of each, in the words of any API."""
    for choice in _objects(event.get("choices")):
        delta = choice.get("delta")
        for call in _objects(delta.get("tool_calls")) if isinstance(delta, dict) else ():
            function = call.get("function")
            if isinstance(function, dict):
                yield call.get("index", 0), _text(function.get("name")), _text(function.get("arguments"))
    place, kind = event.get("index", event.get("output_index")), event.get("type")
    block, delta, item = event.get("content_block"), event.get("delta"), event.get("item")
    if kind == "content_block_start" and isinstance(block, dict) and block.get("type") == "tool_use":
        yield place, _text(block.get("name")), ""
    elif kind == "content_block_delta" and isinstance(delta, dict) and delta.get("type") == "input_json_delta":
        yield place, "", _text(delta.get("partial_json"))
    elif kind == "response.output_item.done" and isinstance(item, dict) and item.get("type") == "function_call":
        yield place, _text(item.get("name")), _text(item.get("arguments"))
