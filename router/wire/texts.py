"""The texts of a JSON value, seen one by one and replaced where the reader wants another.

Floor: sans-IO. All strings count, the names of an object's members and numbers as long as a card's too, but for the
data of pictures, sounds and files. A function's `arguments`, which are JSON in a string, are seen as what they mean:
`\\u0062omb` is a word like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from router.errors import BadRequest
from router.wire.fields import Fields

# Messages in which a tenant tells the model what to do.
_OWN_ROLES: Final = ("system", "developer")
# Fields that no model reads: names, switches, what the gateway itself goes by.
UNREAD: Final = frozenset(
    {
        "model", "user", "safety_identifier", "prompt_cache_key", "service_tier", "metadata", "encoding_format",
        "reasoning_effort", "truncation", "tool_choice", "modalities", "stream_options", "previous_response_id",
        "include", "cache_salt", "request_id", "session_id", "kv_transfer_params", "ec_transfer_params",
    }
)  # fmt: skip
# Fields in which a prompt may be token ids, in which nothing can be found.
_OF_IDS: Final = (
    "prompt", "input", "text_1", "text_2", "data_1", "data_2", "queries", "documents", "items", "query",
)  # fmt: skip
_TENSORS: Final = "prompt_embeds"
# Digits of a number that could say something to a person; token ids have fewer.
_LONG_NUMBER: Final = 10**8
_WORDS: Final = (
    "role", "type", "id", "tool_call_id", "call_id", "tool_use_id", "finish_reason", "stop_reason", "status", "object",
)  # fmt: skip
_DATA_KEYS: Final = ("url", "image_url", "audio_url", "video_url", "file_url")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Reader(Protocol):
    """Who looks at texts. `own`: it stands in a tenant's own instructions."""

    def text(self, text: str, *, own: bool) -> str: ...

    def name(self, name: str, *, own: bool) -> str:
        """Of an object's member, or a word that tells what an object is."""
        ...

    def parts(self, texts: Sequence[str], *, own: bool) -> Sequence[str]:
        """Texts that a model reads one behind the other."""
        ...


class Replacer:
    """Puts other texts in the place of some."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._texts = texts

    def text(self, text: str, *, own: bool = False) -> str:
        return self._texts.get(text, text)

    def name(self, name: str, *, own: bool = False) -> str:
        return name

    def parts(self, texts: Sequence[str], *, own: bool = False) -> Sequence[str]:
        return texts


def examined(fields: Fields, reader: Reader, unread: frozenset[str] = UNREAD) -> Fields:
    """The fields as the reader wants them; the very same where it changes nothing. Raises BadRequest for what cannot be
    read."""
    changed: Fields = {}
    for name, raw in fields.items():
        if name in unread or len(raw) < 3 or not _may_have_text(raw):
            continue
        try:
            value = _decode(raw)
            seen = walked(value, reader, key=name, own=name in ("system", "instructions"))
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise BadRequest(f"The value of '{name}' is not valid JSON.", param=name, code="invalid_json") from None
        except RecursionError:
            message = f"The value of '{name}' is nested too deeply."
            raise BadRequest(message, param=name, code="invalid_json") from None
        if seen is not value:
            changed[name] = msgspec.Raw(_encode(seen))
    return {**fields, **changed} if changed else fields


def walked(value: Any, reader: Reader, *, key: str = "", own: bool = False) -> Any:
    """The value as the reader wants it; the very same where it changes nothing."""
    if isinstance(value, str):
        return _string(value, reader, key, own=own)
    if isinstance(value, dict):
        return _object(value, reader, key, own=own)
    if isinstance(value, list):
        return _list(value, reader, key, own=own)
    if type(value) is int and abs(value) >= _LONG_NUMBER:
        seen = reader.text(str(value), own=own)
        return value if seen == str(value) else seen
    return value


def ids_in(fields: Fields) -> str | None:
    """The field whose prompt is token ids or tensors, if one is."""
    for name in (*_OF_IDS, _TENSORS):
        raw = fields.get(name)
        if raw is None or len(raw) < 3 or bytes(raw) == b"null":
            continue
        if name == _TENSORS or (bytes(memoryview(raw)[:1]) == b"[" and _has_numbers(raw)):
            return name
    return None


def _may_have_text(raw: msgspec.Raw) -> bool:
    """Numbers and switches are no texts."""
    return bytes(memoryview(raw)[:1]) in (b'"', b"[", b"{")


def _has_numbers(raw: msgspec.Raw) -> bool:
    try:
        value = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False  # whoever reads it says what is wrong with it
    return any(
        type(one) is int or (isinstance(one, list) and any(type(inner) is int for inner in one)) for one in value
    )


def _string(text: str, reader: Reader, key: str, *, own: bool) -> str:
    if key in _DATA_KEYS and text.startswith("data:"):
        return text
    if key == "arguments" and text[:1] in ("{", "["):
        return _arguments(text, reader, own=own)
    seen = reader.name(text, own=own) if key in _WORDS else reader.text(text, own=own)
    return text if seen == text else seen


def _arguments(text: str, reader: Reader, *, own: bool) -> str:
    try:
        value = _decode(text)
    except (msgspec.DecodeError, RecursionError):
        seen = reader.text(text, own=own)
        return text if seen == text else seen
    inner = walked(value, reader, own=own)
    return text if inner is value else _encode(inner).decode()


def _object(value: dict[str, Any], reader: Reader, key: str, *, own: bool) -> Any:
    own = own or value.get("role") in _OWN_ROLES
    media = key == "input_audio" or value.get("type") == "base64"
    out: dict[str, Any] = {}
    changed = False
    for name, inner in value.items():
        if name == "file_data" or (media and name == "data"):
            out[name] = inner
            continue
        new_name = reader.name(name, own=own)
        new = walked(inner, reader, key=name, own=own)
        changed = changed or new is not inner or new_name != name
        out[new_name] = new
    return out if changed else value


def _list(value: list[Any], reader: Reader, key: str, *, own: bool) -> Any:
    out = [walked(one, reader, key=key, own=own) for one in value]
    changed = any(new is not old for new, old in zip(out, value, strict=True))
    changed = _joined(out, reader, own=own) or changed
    return out if changed else value


def _joined(parts: list[Any], reader: Reader, *, own: bool) -> bool:
    """Text parts of one message stand behind each other in the prompt: what was divided over them is found, too."""
    places = [at for at, part in enumerate(parts) if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if len(places) < 2:
        return False
    texts = [parts[at]["text"] for at in places]
    seen = reader.parts(texts, own=own)
    if seen is texts:
        return False
    for at, text in zip(places, seen, strict=True):
        parts[at] = {**parts[at], "text": text}
    return True
