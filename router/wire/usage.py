"""Token usage and the model's name in an engine's answer, without parsing the answer.

Floor: sans-IO. Answers are searched as bytes: inside a JSON string every quote is escaped, so an unescaped
`"usage":{` or `"model":"x"` is never text that a model wrote.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import msgspec

from router.wire.shapes import CountedAnswer, UsageCounts

# Usage is an object of numbers, nulls and objects of such: it has no strings with braces. Possessive, so that a hostile
# body costs one scan and no backtracking.
_OBJECT = re.compile(rb"\s*+(\{(?:[^{}]++|\{[^{}]*+\})*+\})")


_FINISHES = (b'"finish_reason":"', b'"stop_reason":"', b'"finish_reason": "', b'"stop_reason": "')
_LONGEST_WORD = 40  # bytes; `content_filter` has 14
_FINGERPRINT = b'"system_fingerprint":'
_VERSION = re.compile(r"[A-Za-z0-9._:+/-]{1,128}")
_FINGERPRINT_WORD = re.compile(rb'\s*+"(%b)"' % _VERSION.pattern.encode())


@dataclass(slots=True, init=False, unsafe_hash=True)
class Usage:
    """What an engine says it did; None where it says nothing."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None

    def __init__(self, prompt_tokens: int | None, completion_tokens: int | None, cached_tokens: int | None) -> None:
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens
        self.cached_tokens = cached_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together; what is unknown counts as nothing."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)


_decode = msgspec.json.Decoder(UsageCounts).decode


@dataclass(slots=True, init=False)
class Told:
    """What a whole answer says of itself; None where it does not."""

    usage: Usage | None
    finish_reason: str | None
    fingerprint: str | None

    def __init__(self, usage: Usage | None, finish_reason: str | None, fingerprint: str | None) -> None:
        self.usage = usage
        self.finish_reason = finish_reason
        self.fingerprint = fingerprint


def told(answer: CountedAnswer, body: bytes) -> Told:
    """Of an answer that is decoded; what does not stand where it should is searched for in its `body`."""
    finish, fingerprint = answer.choices[-1].finish_reason if answer.choices else None, answer.system_fingerprint
    return Told(
        read_usage(answer.usage) if answer.usage is not None else find_usage(body),
        _word(finish) if finish is not None else find_finish(body),
        _version(fingerprint) if fingerprint is not None else find_fingerprint(body),
    )


def find_usage(data: bytes) -> Usage | None:
    """The last usage object in `data` (the end of an answer), in OpenAI's, Responses' or Anthropic's words."""
    end = len(data)
    while (start := data.rfind(b'"usage":', 0, end)) >= 0:
        match = _OBJECT.match(data, start + len(b'"usage":'))
        usage = _decoded(match.group(1)) if match is not None else None
        if usage is not None:
            return usage
        end = start
    return None


def find_finish(data: bytes) -> str | None:
    """Why the answer ends here, in the engine's word: of the last choice in `data`; None where it does not say."""
    for name in _FINISHES:
        start = data.rfind(name)
        if start >= 0:
            start += len(name)
            end = data.find(b'"', start, start + _LONGEST_WORD)
            return _word(data[start:end].decode("latin-1")) if end > start else None
    return None


def find_fingerprint(data: bytes) -> str | None:
    """What the engine calls its own version and settings, of the last chunk in `data` that says so."""
    start = data.rfind(_FINGERPRINT)
    found = _FINGERPRINT_WORD.match(data, start + len(_FINGERPRINT)) if start >= 0 else None
    return found[1].decode() if found is not None else None


def _decoded(raw: bytes) -> Usage | None:
    try:
        return read_usage(_decode(raw))
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError):
        return None


def _version(said: str) -> str | None:
    """An engine's fingerprint, where it is one."""
    return said if _VERSION.fullmatch(said) is not None else None


def _word(said: str) -> str | None:
    """An engine's word, where it is one."""
    return said if len(said) < _LONGEST_WORD and said.isascii() and said.replace("_", "").isalnum() else None


def read_usage(found: UsageCounts) -> Usage:
    """What it says, in the words of any API."""
    details = found.prompt_tokens_details or found.input_tokens_details
    return Usage(
        found.prompt_tokens if found.prompt_tokens is not None else _whole_input(found),
        found.completion_tokens if found.completion_tokens is not None else found.output_tokens,
        details.cached_tokens if details is not None else found.cache_read_input_tokens,
    )


def _whole_input(found: UsageCounts) -> int | None:
    """Anthropic's `input_tokens` leaves out what was read from the cache or written to it; Responses' has it all."""
    if found.input_tokens is None:
        return None
    return found.input_tokens + (found.cache_read_input_tokens or 0) + (found.cache_creation_input_tokens or 0)
