"""The canonical prompt: the parts of a body that an engine turns into tokens, in the order it does, as bytes.

Floor: sans-IO. Equal prompts give equal bytes however their JSON was spaced or escaped; a longer conversation begins
with the bytes of the shorter one, which is what makes its prefix blocks equal. Pictures and sounds stand as a digest
of what was sent, never as their data.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import msgspec
import xxhash

from router.errors import BadRequest
from router.wire.fields import decode

# What a picture or sound counts for before the engine has told: the order of magnitude of a tiled image in current
# vision models. Only the lane and the load estimate hang on it, and calibration by the engine's usage corrects it.
MEDIA_TOKENS: Final = 512
_MEDIA = frozenset({"image_url", "input_image", "image", "input_audio", "audio_url", "video_url", "file", "input_file"})
_MEDIA_MARKS = tuple(f'"{kind}"'.encode() for kind in sorted(_MEDIA))
# Separators keep ("ab", "c") and ("a", "bc") apart.
_TURN, _PART = b"\x1e", b"\x1f"


# Text longer than this keeps its JSON escapes: unescaping holds the interpreter for 4 ms a megabyte, looking only for
# its end a tenth of that. The same text is treated the same in every turn of a conversation, so prefixes still match.
LARGE_BYTES: Final = 256 * 1024


class _Turn(msgspec.Struct, gc=False):
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    tool_call_id: str | None = None


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: msgspec.Raw = msgspec.Raw()


_turns = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
_turn = msgspec.json.Decoder(_Turn)
_content = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
_part = msgspec.json.Decoder(str | _Part | None)
_text = msgspec.json.Decoder(str | None)
_prompts = msgspec.json.Decoder(str | list[str | int | list[int] | dict[str, msgspec.Raw]] | None)


class Prompt:
    """What `read_prompt` collects. `count` is the number of separate prompts, at least 1.

    `texts` are the segments that a tokenizer would see, `text_bytes` their length; `extra_tokens` stands for the others
    (token ids, pictures).
    """

    __slots__ = ("count", "extra_tokens", "segments", "text_bytes", "texts")

    def __init__(self) -> None:
        self.segments: list[bytes] = []
        self.texts: list[bytes] = []
        self.text_bytes = 0
        self.extra_tokens = 0
        self.count = 1

    def add_text(self, text: bytes) -> None:
        self.segments.append(text)
        self.texts.append(text)
        self.text_bytes += len(text)

    def add_opaque(self, raw: msgspec.Raw, end: bytes) -> None:
        """A value whose JSON stands for itself, however it was spaced and escaped; media inside it by reference."""
        data = bytes(raw)
        if len(data) <= LARGE_BYTES and not any(mark in data for mark in (b"\\", *_MEDIA_MARKS)):
            self.add_text(msgspec.json.format(data, indent=-1) + end)
        elif len(data) <= LARGE_BYTES or any(mark in data for mark in _MEDIA_MARKS):
            self.add_text(msgspec.json.encode(self._without_media(msgspec.json.decode(data))) + end)
        else:
            self.add_text(data + end)

    def add_reference(self, raw: msgspec.Raw) -> None:
        small = len(raw) <= LARGE_BYTES
        self.segments.append(self._refer(msgspec.json.encode(msgspec.json.decode(raw)) if small else bytes(raw)))

    def _without_media(self, value: object) -> object:
        if isinstance(value, list):
            return [self._without_media(item) for item in value]
        if not isinstance(value, dict):
            return value
        kind = value.get("type")
        if isinstance(kind, str) and kind in _MEDIA:
            return self._refer(msgspec.json.encode(value)).hex()
        return {key: self._without_media(item) for key, item in value.items()}

    def _refer(self, media: bytes) -> bytes:
        self.extra_tokens += MEDIA_TOKENS
        return xxhash.xxh3_128_digest(media)

    def add_token_ids(self, name: str, ids: list[int]) -> None:
        try:
            self.segments.append(struct.pack(f"<{len(ids)}I", *ids))
        except struct.error:
            raise BadRequest("Token ids must be integers from 0 to 4294967295.", param=name) from None
        self.extra_tokens += len(ids)


def opaque(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A field whose JSON text stands for itself: tool definitions, template arguments, plain instructions."""
    if bytes(raw) != b"null":
        _guarded(prompt.add_opaque, name, raw, _TURN)


def messages(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A conversation: a string, or a list of messages and other items, one segment each at least."""
    if _is_large_text(raw):
        prompt.add_text(bytes(raw) + _TURN)
        return
    turns = decode(_turns, name, raw)
    if isinstance(turns, str):
        prompt.add_text(_utf8(turns) + _TURN)
    for position, item in enumerate(turns if isinstance(turns, list) else ()):
        _add_turn(prompt, f"{name}[{position}]", item)


def prompts(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Text, token ids, or a list of several of either."""
    if _is_large_text(raw):
        prompt.add_text(bytes(raw))
        return
    value = decode(_prompts, name, raw)
    if isinstance(value, str):
        prompt.add_text(_utf8(value))
    elif value and isinstance(value[0], int):
        prompt.add_token_ids(name, [item for item in value if isinstance(item, int)])
    elif value:
        prompt.count = max(prompt.count, len(value))
        for item in value:
            _add_prompt(prompt, name, item)


def _add_prompt(prompt: Prompt, name: str, item: str | int | list[int] | dict[str, msgspec.Raw]) -> None:
    if isinstance(item, str):
        prompt.add_text(_utf8(item) + _PART)
    elif isinstance(item, list):
        prompt.add_token_ids(name, item)
    elif isinstance(item, int):
        prompt.add_token_ids(name, [item])
    else:
        prompt.add_text(msgspec.json.encode(item) + _PART)


def _add_turn(prompt: Prompt, name: str, item: msgspec.Raw) -> None:
    turn = decode(_turn, name, item)
    calls = bytes(turn.tool_calls)
    has_calls = calls not in (b"", b"null")
    if not turn.content and not has_calls:
        _guarded(
            prompt.add_opaque, name, item, _TURN
        )  # not a message: a function's output, a reference to an earlier item
        return
    _add_content(prompt, f"{name}.content", f"{turn.role}\x1f{turn.name or ''}\x1f{turn.tool_call_id or ''}\x1f", turn)
    if has_calls:
        _guarded(prompt.add_opaque, f"{name}.tool_calls", turn.tool_calls, _TURN)


def _add_content(prompt: Prompt, name: str, head: str, turn: _Turn) -> None:
    if _is_large_text(turn.content):
        prompt.add_text(_utf8(head) + bytes(turn.content) + _TURN)
        return
    content = decode(_content, name, turn.content) if turn.content else None
    if isinstance(content, str):
        prompt.add_text(_utf8(head + content) + _TURN)
        return
    prompt.add_text(_utf8(head))
    for position, raw in enumerate(content or ()):
        _add_part(prompt, f"{name}[{position}]", raw)
    prompt.segments.append(_TURN)


def _add_part(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    part = decode(_part, name, raw)
    if isinstance(part, str):
        prompt.add_text(_utf8(part) + _PART)
    elif part is None or not part.text:
        if part is not None and part.type in _MEDIA:
            _guarded(prompt.add_reference, name, raw)
        else:
            _guarded(prompt.add_opaque, name, raw, _PART)
    elif _is_large_text(part.text):
        prompt.add_text(bytes(part.text) + _PART)
    else:
        prompt.add_text(_utf8(decode(_text, f"{name}.text", part.text) or "") + _PART)


def _guarded(add: Callable[..., None], name: str, raw: msgspec.Raw, *more: bytes) -> None:
    """Adds a value of which only the ends have been looked at yet: what is inside may still be no JSON."""
    try:
        add(raw, *more)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"The value of '{name}' is not valid JSON.", param=name, code="invalid_json") from None


def _is_large_text(raw: msgspec.Raw) -> bool:
    return len(raw) > LARGE_BYTES and bytes(memoryview(raw)[:1]) == b'"'


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
