"""Token usage and the model's name in an engine's answer, without parsing the answer.

Floor: sans-IO. Answers are searched as bytes: inside a JSON string every quote is escaped, so an unescaped
`"usage":{` or `"model":"x"` is never text that a model wrote.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

# vLLM's usage object has at most some 300 bytes; a longer one is not worth a search through a big body.
_LONGEST_USAGE = 4096


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """What an engine says it did; None where it says nothing."""

    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int | None

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together; what is unknown counts as nothing."""
        return (self.prompt_tokens or 0) + (self.completion_tokens or 0)


_decode = msgspec.json.Decoder(_Usage).decode


def find_usage(data: bytes) -> Usage | None:
    """The last usage object in `data` (the end of an answer), in OpenAI's, Responses' or Anthropic's words."""
    start = data.rfind(b'"usage":')
    while start >= 0:
        usage = _usage_at(data, start + len(b'"usage":'))
        if usage is not None:
            return usage
        start = data.rfind(b'"usage":', 0, start)
    return None


def _usage_at(data: bytes, start: int) -> Usage | None:
    end = _object_end(data, start)
    if end < 0:
        return None
    try:
        found = _decode(data[start:end])
    except (msgspec.DecodeError, msgspec.ValidationError):
        return None
    details = found.prompt_tokens_details or found.input_tokens_details
    return Usage(
        found.prompt_tokens if found.prompt_tokens is not None else found.input_tokens,
        found.completion_tokens if found.completion_tokens is not None else found.output_tokens,
        details.cached_tokens if details is not None else found.cache_read_input_tokens,
    )


def _object_end(data: bytes, start: int) -> int:
    """Where the object that begins near `start` ends; -1 when none does. Usage holds numbers only, no strings."""
    depth = 0
    for position in range(start, min(len(data), start + _LONGEST_USAGE)):
        byte = data[position]
        if byte == 0x7B:
            depth += 1
        elif byte == 0x7D:
            depth -= 1
            if depth == 0:
                return position + 1
        elif depth == 0 and byte not in b" \t\r\n":
            return -1
    return -1
