"""Request bodies: which fields the engine reads, their types, and what it refuses with a 400 or a 404.

Floor: pure. pydantic gives the very sentences that the real server's pydantic gives. Unknown fields are accepted, a
key that comes twice counts as its last value.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from benchmarks.engine.errors import Refusal, bad_json, bad_value, failed_fields

SALT_LENGTH = 128
"""Characters of a `cache_salt`: longer ones are refused."""
STOP_STRINGS = 4
"""How many stop strings a request may bring."""


class Body(BaseModel):
    model_config = ConfigDict(extra="allow", protected_namespaces=())
    model: str | None = None
    priority: int = 0
    cache_salt: str | None = None
    request_id: str | None = None
    user: str | None = None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="allow")
    include_usage: bool = False
    continuous_usage_stats: bool = False


class Sampling(Body):
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = 1
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    min_tokens: int = 0
    ignore_eos: bool = False
    max_tokens: int | None = None
    echo: bool = False
    return_token_ids: bool = False

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class ChatBody(Sampling):
    messages: list[dict[str, Any]]
    max_completion_tokens: int | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None


class CompletionBody(Sampling):
    prompt: str | list[int] | list[str] | list[list[int]]
    logprobs: int | None = None


class ResponsesBody(Body):
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    stream: bool = False
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    ignore_eos: bool = False


class CountBody(Body):
    messages: list[dict[str, Any]]
    system: str | list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None


class MessagesBody(CountBody):
    max_tokens: int
    stream: bool = False
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    tool_choice: dict[str, Any] | None = None
    ignore_eos: bool = False


class EmbeddingBody(Body):
    input: str | list[int] | list[str] | list[list[int]]
    encoding_format: str = "float"
    dimensions: int | None = None


class RerankBody(Body):
    query: str
    documents: list[str | dict[str, Any]]
    top_n: int = 0


class ScoreBody(Body):
    text_1: str | list[str]
    text_2: str | list[str]


class TokenizeBody(Body):
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    return_token_strs: bool = False


class DetokenizeBody(Body):
    tokens: list[int]


AnyBody = TypeVar("AnyBody", bound=Body)


def read_body(kind: type[AnyBody], content_type: str, raw: bytes) -> AnyBody:
    """Raises `Refusal` for what is not JSON, not an object, or has a field of the wrong type."""
    if content_type.split(";")[0].strip().lower() != "application/json":
        text = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise Refusal(400, text, type="Bad Request")
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as error:
        raise bad_json(error.msg, error.pos) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise bad_json(str(error), 0) from None
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise failed_fields([dict(one) for one in error.errors(include_url=False)]) from None


def check_model(body: Body, served: str) -> None:
    """A missing model is the served one."""
    if body.model is not None and body.model != served:
        text = f"The model `{body.model}` does not exist. Valid aliases: {served}."
        raise Refusal(404, text, param="model")


def check_salt(body: Body) -> None:
    salt = body.cache_salt
    if salt is None:
        return
    if not salt or len(salt) > SALT_LENGTH or set(salt) & set("@/\\\0"):
        text = f"Parameter 'cache_salt' must be a non-empty string of at most {SALT_LENGTH} characters without '@/\\'."
        raise Refusal(400, text, param="cache_salt")


def check_sampling(body: Sampling, max_tokens: int | None, limit: int) -> None:
    """Raises `Refusal` for values outside their range, in the order in which the real server looks."""
    if body.stream_options is not None and not body.stream:
        raise Refusal(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
    if len(body.stops) > STOP_STRINGS:
        raise bad_value("stop", len(body.stops), f"stop may hold at most {STOP_STRINGS} strings.")
    check_numbers(body.temperature, body.top_p, max_tokens, limit)
    if body.n < 1:
        raise bad_value("n", body.n, f"n must be at least 1, got {body.n}.")


def check_numbers(temperature: float | None, top_p: float | None, max_tokens: int | None, limit: int) -> None:
    if temperature is not None and temperature < 0:
        raise bad_value("temperature", temperature, f"temperature must be non-negative, got {temperature}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise bad_value("top_p", top_p, f"top_p must be in (0, 1], got {top_p}.")
    if max_tokens is not None and max_tokens < 1:
        raise bad_value("max_tokens", max_tokens, f"max_tokens must be at least 1, got {max_tokens}.")
    if max_tokens is not None and max_tokens > limit:
        text = (
            f"max_tokens={max_tokens} cannot be greater than max_model_len={limit}. Please request fewer output tokens."
        )
        raise bad_value("max_tokens", max_tokens, text)


def check_length(tokens: int, max_tokens: int | None, limit: int) -> None:
    """The prompt, with the output that was asked for, must fit. The real server stops counting one token too far."""
    room = limit - (max_tokens or 0)
    if tokens <= room and tokens < limit:
        return
    start = f"This model's maximum context length is {limit} tokens. However, "
    if tokens > limit or not max_tokens:
        over = limit + 1
        text = (
            f"your prompt contains at least {over} input tokens, which exceeds this limit even without any output "
            "tokens. Please reduce the length of the input prompt."
        )
    else:
        over = room + 1
        text = (
            f"you requested {max_tokens} output tokens and your prompt contains at least {over} input tokens, for a "
            f"total of at least {over + max_tokens} tokens. Please reduce the length of the input prompt or the number "
            "of requested output tokens."
        )
    raise bad_value("input_tokens", over, start + text)
