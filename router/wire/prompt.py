"""The canonical prompt: the parts of a body that an engine turns into tokens, in the order it does, as bytes.

Floor: sans-IO. Equal prompts give equal bytes however their JSON was spaced or escaped; a longer conversation begins
with the bytes of the shorter one, which is what makes its prefix blocks equal. Pictures and sounds stand as a digest
of what was sent, never as their data.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec
import xxhash

from router.errors import BadRequest
from router.wire.fields import decode

# What a picture or sound counts for before the engine has told: the order of magnitude of a tiled image in current
# vision models. Only the lane and the load estimate hang on it, and calibration by the engine's usage corrects it.
MEDIA_TOKENS: Final = 512
_MEDIA = frozenset({"image_url", "input_image", "image", "input_audio", "audio_url", "video_url", "file", "input_file"})
# Separators keep ("ab", "c") and ("a", "bc") apart.
_TURN, _PART = b"\x1e", b"\x1f"


class _Turn(msgspec.Struct, gc=False):
    role: str = ""
    content: str | list[msgspec.Raw] | None = None
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()  # `Raw | None` would decode null only
    tool_call_id: str | None = None


class _Part(msgspec.Struct, gc=False):
    type: str = ""
    text: str | None = None


_turns = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
_turn = msgspec.json.Decoder(_Turn)
_part = msgspec.json.Decoder(str | _Part | None)
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

    def add_reference(self, raw: msgspec.Raw) -> None:
        self.segments.append(xxhash.xxh3_128_digest(raw))
        self.extra_tokens += MEDIA_TOKENS

    def add_token_ids(self, name: str, ids: list[int]) -> None:
        try:
            self.segments.append(struct.pack(f"<{len(ids)}I", *ids))
        except struct.error:
            raise BadRequest("Token ids must be integers from 0 to 4294967295.", param=name) from None
        self.extra_tokens += len(ids)


def opaque(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A field whose JSON text stands for itself: tool definitions, template arguments, plain instructions."""
    data = bytes(raw)
    if data != b"null":
        prompt.add_text(data + _TURN)


def messages(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A conversation: a string, or a list of messages and other items, one segment each at least."""
    turns = decode(_turns, name, raw)
    if isinstance(turns, str):
        prompt.add_text(_utf8(turns) + _TURN)
    for position, item in enumerate(turns if isinstance(turns, list) else ()):
        _add_turn(prompt, f"{name}[{position}]", item)


def prompts(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Text, token ids, or a list of several of either."""
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
    if turn.content is None and not has_calls:
        prompt.add_text(bytes(item) + _TURN)  # not a message: a function's output, a reference to an earlier item
        return
    head = f"{turn.role}\x1f{turn.name or ''}\x1f{turn.tool_call_id or ''}\x1f"
    if isinstance(turn.content, str):
        prompt.add_text(_utf8(head + turn.content) + _TURN)
    else:
        prompt.add_text(_utf8(head))
        _add_parts(prompt, name, turn.content or [])
    if has_calls:
        prompt.add_text(calls + _TURN)


def _add_parts(prompt: Prompt, name: str, parts: list[msgspec.Raw]) -> None:
    for position, raw in enumerate(parts):
        part = decode(_part, f"{name}.content[{position}]", raw)
        if isinstance(part, str):
            prompt.add_text(_utf8(part) + _PART)
        elif part is not None and part.text is not None:
            prompt.add_text(_utf8(part.text) + _PART)
        elif part is not None and part.type in _MEDIA:
            prompt.add_reference(raw)
        else:
            prompt.add_text(bytes(raw) + _PART)
    prompt.segments.append(_TURN)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
