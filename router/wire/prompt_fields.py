"""Readers of a body's other fields: prompts that are no conversation, and what changes how a template begins.

Floor: sans-IO. `ApiSpec` names one of these, or one of `turns`, for each field of an API. A field that is null or empty
is as good as absent: engines see no difference.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import xxhash

from router.wire.fields import decode
from router.wire.prompt import PART, TURN, Prompt, is_large_text, utf8
from router.wire.shapes import Effort, Typed
from router.wire.turns import conversations, guarded
from router.wire.values import SMALL_BYTES, given, plain

Reader = Callable[[Prompt, str, msgspec.Raw], None]

_EMPTY = frozenset({b"null", b"[]", b"{}", b'""'})
_prompts = msgspec.json.Decoder(str | list[str | int | list[int] | dict[str, msgspec.Raw]] | None)
_objects = msgspec.json.Decoder(dict[str, object])
_count = msgspec.json.Decoder(int | None)

_effort = msgspec.json.Decoder(Effort | None)
_typed = msgspec.json.Decoder(Typed | None)


# -- what is part of the prompt


def prompts(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Text, token ids, or a list of several of either."""
    if is_large_text(raw):
        prompt.add_text(bytes(raw))
        return
    value = decode(_prompts, name, raw)
    if isinstance(value, str):
        prompt.add_text(utf8(value))
    elif value and isinstance(value[0], int):
        prompt.add_token_ids(name, [item for item in value if isinstance(item, int)])
    elif value:
        prompt.count = max(prompt.count, len(value))
        for item in value:
            _add_prompt(prompt, name, item)


def inputs(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """What is embedded: prompts, one conversation, or several."""
    if not conversations(prompt, name, raw):
        prompts(prompt, name, raw)


def embeds(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Prompts as tensors: text of their own alphabet, of which only the digest is looked at."""
    if len(raw) > 4:
        prompt.add_media(xxhash.xxh3_128_digest(raw))


def opaque(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A field whose JSON text stands for itself, amid the prompt."""
    if given(raw):
        guarded(prompt.add_opaque, name, raw, TURN)


def ahead(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Tool definitions, documents: text that templates put before the conversation, each at a place of its own."""
    value = guarded(plain, name, raw)
    if not _empty(value):
        prompt.add_text(value + TURN)
        prompt.lead()
        prompt.bind()


# -- what is none of the prompt, but changes how it begins


def setting(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    value = guarded(plain, name, raw)
    if not _empty(value):
        prompt.add_setting(name, value)


def unless(default: bytes) -> Reader:
    """A setting that is as good as absent when it is the engine's own default."""

    def read(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
        if bytes(raw) != default:
            setting(prompt, name, raw)

    return read


def options(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Arguments of the template or of the media processor, by name: their order does not matter."""
    if not given(raw) or len(raw) > SMALL_BYTES or bytes(memoryview(raw)[:1]) != b"{":
        setting(prompt, name, raw)
        return
    values = {key: value for key, value in decode(_objects, name, raw).items() if value is not None}
    if values:
        prompt.add_setting(name, msgspec.json.encode(values, order="sorted"))


def effort(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """`reasoning_effort` as Responses and Anthropic spell it: inside of other options, which no template sees."""
    found = decode(_effort, name, raw)
    if found is not None and found.effort:
        setting(prompt, "reasoning_effort", found.effort)


def thinking(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """Anthropic's: switched off, it is another effort; its budget and display are no business of a template."""
    found = decode(_typed, name, raw)
    if found is not None and found.type == "disabled":
        prompt.add_setting(name, b"disabled")


def present(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """A field that makes the template put a mark before the prompt, whatever it holds."""
    if given(raw):
        prompt.add_setting(name, b"")


def kept_tokens(prompt: Prompt, name: str, raw: msgspec.Raw) -> None:
    """How many of its last tokens the engine keeps of a longer prompt; -1 is what the model can hold at most."""
    prompt.keep_last(decode(_count, name, raw) or 0)


def _empty(value: bytes) -> bool:
    return len(value) <= 4 and value in _EMPTY


def _add_prompt(prompt: Prompt, name: str, item: str | int | list[int] | dict[str, msgspec.Raw]) -> None:
    if isinstance(item, str):
        prompt.add_text(utf8(item) + PART)
    elif isinstance(item, list):
        prompt.add_token_ids(name, item)
    elif isinstance(item, int):
        prompt.add_token_ids(name, [item])
    else:
        guarded(prompt.add_opaque, name, msgspec.Raw(msgspec.json.encode(item)), PART)
