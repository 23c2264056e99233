"""Conversations as text: one segment a message at least, so that a longer one begins as the shorter one did.

Floor: sans-IO. What an engine reads the same is the same here, whatever the API: a plain string and a list of one text
part, Anthropic's `system`, the instructions of Responses and a system message, a tool's answer in each of the three
shapes. What engines pass over is left out.

Left as they stand, as only the engine's template knows: system messages amid a conversation, which some templates move
to its front, and reasoning of earlier turns, which most drop.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec

from router.errors import BadRequest
from router.wire.fields import decode
from router.wire.prompt import PART, TURN, Prompt, is_large_text, utf8
from router.wire.shapes import Part, Turn
from router.wire.values import MEDIA, given, media_digest, plain

_BEFORE: Final = ("system", "developer")
# Claude Code begins its system prompt with this line, of which a part changes with every request; vLLM drops it.
_BILLING: Final = "x-anthropic-billing-header"
_REASONING: Final = b"\x1d"
# Instead of a role: the content of a tool's answer, which is inside a message. None of it has content of its own.
_INSIDE: Final = "tool_result"
_NESTED = re.compile(rb"\s*\[\s*(\[\s*)?\{")

_T = TypeVar("_T")

_turns = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
_turn = msgspec.json.Decoder(Turn)
_content = msgspec.json.Decoder(str | list[msgspec.Raw] | None)
_part = msgspec.json.Decoder(str | Part | None)
_text = msgspec.json.Decoder(str | None)
_list = msgspec.json.Decoder(list[msgspec.Raw])


def messages(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A conversation: a user's text, or a list of messages and other items."""
    turns = None if is_large_text(raw) else decode(_turns, name, raw)
    if not isinstance(turns, list):
        if given(raw):
            _add_message(prompt, name, "user", raw)
        return
    for position, item in enumerate(turns):
        before = prompt.leading
        role = _add_turn(prompt, f"{name}[{position}]", item)
        if before and role in _BEFORE:
            prompt.lead()


def instructions(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """The system prompt in a field of its own: text, or a list of text parts."""
    if given(raw):
        _add_message(prompt, name, "system", raw)
        prompt.lead()


def conversations(prompt: Prompt, name: str, raw: msgspec.Raw) -> bool:
    """One conversation or a list of several; False, and nothing read, where the value begins as neither does."""
    shape = _NESTED.match(raw)
    if shape is None:
        return False
    if shape[1] is None:
        messages(prompt, name, raw)
        return True
    several = decode(_list, name, raw)
    prompt.count = max(prompt.count, len(several))
    for position, one in enumerate(several):
        messages(prompt, f"{name}[{position}]", one)
    return True


def guarded(read: Callable[..., _T], name: str, *arguments: object) -> _T:
    """Reads a value of which only the ends have been looked at yet: what is inside may still be no JSON."""
    try:
        return read(*arguments)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequest(f"The value of '{name}' is not valid JSON.", param=name, code="invalid_json") from None


def _add_message(prompt: Prompt, name: str, role: str, content: msgspec.Raw) -> None:
    _add_content(prompt, name, role, _head(role, "", ""), content, TURN)


def _head(role: str, name: str, call: str) -> bytes:
    return utf8(f"{role}\x1f{name}\x1f{call}\x1f")


def _add_turn(prompt: Prompt, name: str, item: msgspec.Raw) -> str:
    """Adds a message or another item, and returns its role; "" where it has none."""
    turn = decode(_turn, name, item)
    if turn.type.endswith("call_output") and bytes(memoryview(turn.output)[:1]) in (b'"', b"["):
        _add_content(prompt, f"{name}.output", "tool", _head("tool", "", turn.call_id or ""), turn.output, TURN)
        return "tool"
    reasoning = turn.reasoning if given(turn.reasoning) else turn.reasoning_content
    if not (turn.content or given(turn.tool_calls) or given(reasoning)):
        guarded(prompt.add_opaque, name, item, TURN)  # not a message: a call of a function, a reference to an item
        return turn.role
    before, after = _head(turn.role, turn.name or "", turn.tool_call_id or ""), TURN
    if given(reasoning):
        before += _REASONING + guarded(plain, f"{name}.reasoning", reasoning) + PART
    if given(turn.tool_calls):
        after = PART + guarded(plain, f"{name}.tool_calls", turn.tool_calls) + TURN
    _add_content(prompt, f"{name}.content", turn.role, before, turn.content, after)
    return turn.role


def _add_content(prompt: Prompt, name: str, role: str, before: bytes, raw: msgspec.Raw, after: bytes) -> None:
    if is_large_text(raw):
        prompt.add_text(before + bytes(raw) + after)
        return
    content = decode(_content, name, raw) if raw else None
    if not isinstance(content, list):
        prompt.add_text(before + utf8(_read(role, content or "")) + after)
        return
    prompt.add_text(before)
    _add_parts(prompt, name, role, content)
    prompt.add_text(after)


def _add_parts(prompt: Prompt, name: str, role: str, parts: Sequence[msgspec.Raw]) -> None:
    """Each ends where the next begins, so that a single text is what it would be without a list."""
    for position, raw in enumerate(parts):
        _add_part(prompt, f"{name}[{position}]", role, PART if position else b"", raw)


def _add_part(prompt: Prompt, name: str, role: str, before: bytes, raw: msgspec.Raw) -> None:
    part = decode(_part, name, raw)
    if isinstance(part, str):
        prompt.add_text(before + utf8(_read(role, part)))
    elif part is None:
        return
    elif given(part.text):
        large = is_large_text(part.text)
        text = bytes(part.text) if large else utf8(_read(role, decode(_text, f"{name}.text", part.text) or ""))
        prompt.add_text(before + text)
    elif part.type in MEDIA:
        prompt.add_text(before)
        prompt.add_media(guarded(media_digest, name, raw))
    elif part.type == "tool_result" and role != _INSIDE:
        call = guarded(plain, name, part.tool_use_id) if part.tool_use_id else b""
        _add_content(prompt, f"{name}.content", _INSIDE, before + b"tool\x1f" + call + PART, part.content, b"")
    elif part.type == "tool_use":
        call = PART.join([guarded(plain, name, piece) for piece in (part.id, part.name, part.input) if piece])
        prompt.add_text(before + b"call\x1f" + call)
    elif given(part.thinking):
        prompt.add_text(before + _REASONING + guarded(plain, name, part.thinking))
    else:
        prompt.add_text(before)
        guarded(prompt.add_opaque, name, raw, b"")


def _read(role: str, text: str) -> str:
    """What an engine reads of a message's text."""
    return text.partition("\n")[2] if role == "system" and text.startswith(_BILLING) else text
