"""Request bodies: what a decision needs to know of them, and the bytes an engine gets instead.

Floor: sans-IO. A body is one JSON object; its top level is read once into raw pieces, only the fields of `ApiSpec` are
looked into, and the rest passes as it came. Rebuilding from those pieces also makes each key unique, so that gateway
and engine cannot read two different values from one body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from router.errors import BadRequest
from router.wire.fields import Fields, decode, read_fields
from router.wire.prompt import Prompt, messages, opaque, prompts

Reader = Callable[[Prompt, str, msgspec.Raw], None]
_T = TypeVar("_T")

# What only the gateway may tell an engine: scheduling, cache partitions, transfers between engines, identities.
CONTROL_FIELDS = frozenset(
    {
        "priority",
        "cache_salt",
        "kv_transfer_params",
        "ec_transfer_params",
        "request_id",
        "session_id",
        "data_parallel_rank",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
    }
)
_SESSION_FIELDS = ("prompt_cache_key", "safety_identifier", "user")


@dataclass(frozen=True, slots=True)
class ApiSpec:
    """One API: where it lives, which fields make its prompt and in which order an engine's template puts them."""

    name: str
    path: str
    prompt_fields: tuple[tuple[str, Reader], ...]
    output_fields: tuple[str, ...] = ()
    anthropic: bool = False


_TOOLS = (("tools", opaque), ("chat_template_kwargs", opaque), ("response_format", opaque))
_CHAT = (*_TOOLS, ("messages", messages))
_CLAUDE = (("tools", opaque), ("system", messages), ("messages", messages))

APIS: Mapping[str, ApiSpec] = {
    spec.path: spec
    for spec in (
        ApiSpec("chat", "/v1/chat/completions", _CHAT, ("max_completion_tokens", "max_tokens")),
        ApiSpec("completions", "/v1/completions", (("prompt", prompts), ("suffix", opaque)), ("max_tokens",)),
        ApiSpec("embeddings", "/v1/embeddings", (("input", prompts), ("messages", messages))),
        ApiSpec(
            "responses",
            "/v1/responses",
            (("tools", opaque), ("instructions", opaque), ("input", messages)),
            ("max_output_tokens",),
        ),
        ApiSpec("messages", "/v1/messages", _CLAUDE, ("max_tokens",), anthropic=True),
        ApiSpec("messages", "/v1/messages/count_tokens", _CLAUDE, anthropic=True),
        ApiSpec("rerank", "/v1/rerank", (("query", opaque), ("documents", prompts))),
        ApiSpec("score", "/v1/score", tuple((f, prompts) for f in ("text_1", "text_2", "queries", "documents"))),
        ApiSpec("tokenize", "/tokenize", (("tools", opaque), ("messages", messages), ("prompt", prompts))),
        ApiSpec("tokenize", "/detokenize", (("tokens", prompts),)),
    )
}


@dataclass(frozen=True, slots=True)
class Body:
    """A request body as read. `max_output_tokens` is None when the client set no bound."""

    fields: Fields
    model: str
    stream: bool
    n: int
    flex: bool
    max_output_tokens: int | None
    session: str | None


_string = msgspec.json.Decoder(str)
_maybe_string = msgspec.json.Decoder(str | None)
_maybe_bool = msgspec.json.Decoder(bool | None)
_maybe_int = msgspec.json.Decoder(int | None)
_encode = msgspec.json.Encoder().encode


def read_body(spec: ApiSpec, data: bytes) -> Body:
    """What the gateway must know of `data`. Raises BadRequest naming the field that is missing or wrong."""
    fields = read_fields(data)
    return Body(
        fields=fields,
        model=_model(fields),
        stream=bool(_get(fields, "stream", _maybe_bool)),
        n=_get(fields, "n", _maybe_int) or 1,
        flex=_get(fields, "service_tier", _maybe_string) == "flex",
        max_output_tokens=_output_bound(fields, spec),
        session=next((s for f in _SESSION_FIELDS if (s := _get(fields, f, _maybe_string))), None),
    )


def read_prompt(spec: ApiSpec, fields: Fields) -> Prompt:
    """The canonical prompt of a body (see `router.wire.prompt`)."""
    prompt = Prompt()
    for name, reader in spec.prompt_fields:
        raw = fields.get(name)
        if raw is not None:
            reader(prompt, name, raw)
    return prompt


def engine_body(fields: Fields, engine_model: str, cache_salt: str) -> bytes:
    """The body an engine gets: its own model name, the tenant's cache salt, no control field of the client's."""
    kept: dict[str, Any] = {name: raw for name, raw in fields.items() if name not in CONTROL_FIELDS}
    if "vllm_xargs" in kept:
        kept["vllm_xargs"] = _without_controls(kept["vllm_xargs"])
    kept["model"] = engine_model
    kept["cache_salt"] = cache_salt
    return _encode(kept)


def _get(fields: Fields, name: str, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    raw = fields.get(name)
    return None if raw is None else decode(decoder, name, raw)


def _model(fields: Fields) -> str:
    model = _get(fields, "model", _string)
    if not model:
        raise BadRequest("You must provide a model parameter.", param="model", code="missing_required_parameter")
    return model


def _output_bound(fields: Fields, spec: ApiSpec) -> int | None:
    bounds = (_get(fields, name, _maybe_int) for name in spec.output_fields)
    return next((bound for bound in bounds if bound is not None), None)


def _without_controls(raw: msgspec.Raw) -> object:
    """vLLM merges `vllm_xargs` into the parameters that its KV connectors read: the same names are not a client's."""
    try:
        inner = read_fields(raw)
    except BadRequest:
        return raw  # not an object: the engine says what is wrong with it
    return {name: value for name, value in inner.items() if name not in CONTROL_FIELDS}
