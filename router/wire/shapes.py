"""What is read of JSON bodies: the Structs that msgspec decodes into.

Floor: sans-IO. msgspec looks into their annotations and class keywords, which the compiled form of a module has not:
so they stand here, where nothing is compiled (deploy/README.md).
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

# No engine has counted more than this, and a counter must never go down: anything else is not believed.
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)] | None


# -- requests


class StreamOptions(msgspec.Struct, gc=False):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Effort(msgspec.Struct, gc=False):
    effort: msgspec.Raw = msgspec.Raw()


class Typed(msgspec.Struct, gc=False):
    type: str = ""


class Turn(msgspec.Struct, gc=False):
    type: str = ""
    role: str = ""
    content: msgspec.Raw = msgspec.Raw()
    name: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()
    tool_call_id: str | None = None
    reasoning: msgspec.Raw = msgspec.Raw()
    reasoning_content: msgspec.Raw = msgspec.Raw()
    call_id: str | None = None
    output: msgspec.Raw = msgspec.Raw()


class Part(msgspec.Struct, gc=False):
    type: str = ""
    text: msgspec.Raw = msgspec.Raw()
    thinking: msgspec.Raw = msgspec.Raw()
    id: msgspec.Raw = msgspec.Raw()
    name: msgspec.Raw = msgspec.Raw()
    input: msgspec.Raw = msgspec.Raw()
    tool_use_id: msgspec.Raw = msgspec.Raw()
    content: msgspec.Raw = msgspec.Raw()


class Media(msgspec.Struct, gc=False):
    type: str = ""
    uuid: msgspec.Raw = msgspec.Raw()
    image_url: msgspec.Raw = msgspec.Raw()
    source: msgspec.Raw = msgspec.Raw()
    input_audio: msgspec.Raw = msgspec.Raw()
    audio_url: msgspec.Raw = msgspec.Raw()
    video_url: msgspec.Raw = msgspec.Raw()


class Source(msgspec.Struct, gc=False):
    url: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()


# -- answers and their usage


class UsageDetails(msgspec.Struct, gc=False):
    cached_tokens: _Count = None


class UsageCounts(msgspec.Struct, gc=False):
    prompt_tokens: _Count = None
    completion_tokens: _Count = None
    prompt_tokens_details: UsageDetails | None = None
    input_tokens: _Count = None
    output_tokens: _Count = None
    input_tokens_details: UsageDetails | None = None
    cache_read_input_tokens: _Count = None
    cache_creation_input_tokens: _Count = None


class UsageChunk(msgspec.Struct, gc=False):
    choices: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = msgspec.Raw(b"null")
    system_fingerprint: msgspec.Raw = msgspec.Raw(b"null")


# -- chunks that are continued


class ChoiceDelta(msgspec.Struct, gc=False):
    role: str | None = None
    content: str | None = None


class Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: ChoiceDelta | None = None
    text: str | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    @property
    def said(self) -> str | None:
        """The text that this chunk adds; None for one without (a role, a parser's markers, reasoning)."""
        return self.text if self.delta is None else self.delta.content

    def set_said(self, text: str) -> None:
        """Of one that adds text."""
        if self.delta is None:
            self.text = text
        else:
            self.delta.content = text


class Chunk(msgspec.Struct, gc=False):
    """An event of a stream, of either API."""

    choices: list[Choice] | None = None
    usage: msgspec.Raw = msgspec.Raw()
    system_fingerprint: str | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def has_usage(self) -> bool:
        return bytes(memoryview(self.usage)[:1]) == b"{"


# -- events and whole answers, as far as they tell how it stands


class SeenChoice(msgspec.Struct, gc=False):
    delta: dict[str, msgspec.Raw] | None = None
    text: str | None = None
    finish_reason: str | None = None


class SeenChunk(msgspec.Struct, gc=False):
    choices: list[SeenChoice] | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    object: str | None = None
    code: Any = None  # of an old vLLM, which writes an error's fields at the top


class SeenError(msgspec.Struct, gc=False):
    type: str | None = None
    code: Any = None


class SeenDelta(msgspec.Struct, gc=False):
    stop_reason: str | None = None


class SeenResponse(msgspec.Struct, gc=False):
    status: str | None = None


class NamedEvent(msgspec.Struct, gc=False):
    """The data of a named event, of Messages or of Responses."""

    error: SeenError | None = None
    delta: SeenDelta | msgspec.UnsetType = msgspec.UNSET
    response: SeenResponse | None = None
    code: Any = None


class WholeAnswer(msgspec.Struct, gc=False):
    """A whole answer of any API."""

    choices: list[SeenChoice] | None = None
    error: msgspec.Raw = msgspec.Raw(b"null")
    object: str | None = None
    type: str | None = None
    status: str | None = None
    stop_reason: str | None = None


class CountedAnswer(WholeAnswer, gc=False):
    """One of chat or completions, with what it says of itself."""

    usage: UsageCounts | None = None
    system_fingerprint: str | None = None
