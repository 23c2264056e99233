"""Request bodies: what a decision needs to know of them, and the bytes an engine gets instead.

Floor: sans-IO. A body is one JSON object; its top level is read once into raw pieces, only the fields of `ApiSpec` are
looked into, and the rest passes as it came. Rebuilding from those pieces also makes each key unique, so that gateway
and engine cannot read two different values from one body.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from router.errors import BadRequest
from router.wire import api_prompts
from router.wire.fields import Fields, decode, read_fields
from router.wire.prompt import Prompt
from router.wire.shapes import StreamOptions

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
        "kv_cache_report_mode",
        "data_parallel_rank",
        "bootstrap_host",
        "bootstrap_port",
        "bootstrap_room",
    }
)
_SESSION_FIELDS = ("prompt_cache_key", "safety_identifier", "user")


@dataclass(frozen=True, slots=True)
class ApiSpec:
    """One API: where it lives, which fields make its prompt and in which order an engine's template puts them.

    `usage_on_request`: its streams tell their usage only to who asks for it in `stream_options`.
    """

    name: str
    path: str
    prompt_fields: api_prompts.PromptFields
    output_fields: tuple[str, ...] = ()
    anthropic: bool = False
    usage_on_request: bool = False


APIS: Mapping[str, ApiSpec] = {
    spec.path: spec
    for spec in (
        ApiSpec(
            "chat",
            "/v1/chat/completions",
            api_prompts.CHAT,
            ("max_completion_tokens", "max_tokens"),
            usage_on_request=True,
        ),
        ApiSpec("completions", "/v1/completions", api_prompts.COMPLETION, ("max_tokens",), usage_on_request=True),
        ApiSpec("embeddings", "/v1/embeddings", api_prompts.EMBEDDINGS),
        ApiSpec("responses", "/v1/responses", api_prompts.RESPONSES, ("max_output_tokens",)),
        ApiSpec("messages", "/v1/messages", api_prompts.CLAUDE, ("max_tokens",), anthropic=True),
        ApiSpec("messages", "/v1/messages/count_tokens", api_prompts.NO_PROMPT, anthropic=True),
        ApiSpec("rerank", "/v1/rerank", api_prompts.RERANK),
        ApiSpec("score", "/v1/score", api_prompts.SCORE),
        ApiSpec("tokenize", "/tokenize", api_prompts.NO_PROMPT),
        ApiSpec("tokenize", "/detokenize", api_prompts.NO_PROMPT),
    )
}


@dataclass(slots=True, init=False)
class Body:
    """A request body as read. `max_output_tokens` is None when the client set no bound.

    `hides_usage`: the stream's usage is the gateway's to ask for, and to keep from the client, who did not ask.
    """

    fields: Fields
    model: str
    stream: bool
    n: int
    flex: bool
    max_output_tokens: int | None
    session: str | None
    hides_usage: bool

    def __init__(
        self,
        fields: Fields,
        model: str,
        stream: bool,
        n: int,
        flex: bool,
        max_output_tokens: int | None,
        session: str | None,
        hides_usage: bool = False,
    ) -> None:
        self.fields = fields
        self.model = model
        self.stream = stream
        self.n = n
        self.flex = flex
        self.max_output_tokens = max_output_tokens
        self.session = session
        self.hides_usage = hides_usage


_string = msgspec.json.Decoder(str)
_maybe_string = msgspec.json.Decoder(str | None)
_maybe_bool = msgspec.json.Decoder(bool | None)
_maybe_int = msgspec.json.Decoder(int | None)
_stream_options = msgspec.json.Decoder(StreamOptions | None)
_maybe_fields = msgspec.json.Decoder(Fields | None)
_encode = msgspec.json.Encoder().encode


def read_body(spec: ApiSpec, data: bytes) -> Body:
    """What the gateway must know of `data`. Raises BadRequest naming the field that is missing or wrong."""
    fields = read_fields(data)
    stream = bool(_get(fields, "stream", _maybe_bool))
    return Body(
        fields=fields,
        model=_model(fields),
        stream=stream,
        n=_get(fields, "n", _maybe_int) or 1,
        flex=_get(fields, "service_tier", _maybe_string) == "flex",
        max_output_tokens=_output_bound(fields, spec),
        session=next((s for f in _SESSION_FIELDS if (s := _get(fields, f, _maybe_string))), None),
        hides_usage=stream and spec.usage_on_request and _no_usage_asked(fields),
    )


def read_prompt(spec: ApiSpec, fields: Fields) -> Prompt:
    """The canonical prompt of a body (see `router.wire.prompt`)."""
    prompt = Prompt()
    for name, reader in spec.prompt_fields:
        raw = fields.get(name)
        if raw is not None:
            reader(prompt, name, raw)
    prompt.close()
    return prompt


def asks_usage(fields: Fields) -> bool:
    """Whether a client asks for its stream's usage, in words that leave no doubt."""
    raw = fields.get("stream_options")
    try:
        options = None if raw is None else _stream_options.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return options is not None and options.include_usage is True


def engine_body(
    fields: Fields, engine_model: str, cache_salt: str, *, ask_usage: bool = False, ask_ids: bool = False
) -> bytes:
    """The body an engine gets: its own model name, the tenant's cache salt, no control field of the client's.

    `ask_usage`: asks for the stream's usage too (see `Body.hides_usage`); `ask_ids`: for its token ids.
    """
    kept: dict[str, Any] = {name: raw for name, raw in fields.items() if name not in CONTROL_FIELDS}
    if "vllm_xargs" in kept:
        kept["vllm_xargs"] = _without_controls(kept["vllm_xargs"])
    kept["model"] = engine_model
    kept["cache_salt"] = cache_salt
    if ask_usage:
        kept["stream_options"] = _asking_usage(fields.get("stream_options"))
    if ask_ids:
        kept["return_token_ids"] = True
    return _encode(kept)


def with_priority(body: bytes, priority: int) -> bytes:
    """An engine's body that says when to serve it, too. `engine_body` made it: an object, not empty, without one."""
    return b'%b,"priority":%d}' % (body[:-1], priority)


def _get(fields: Fields, name: str, decoder: msgspec.json.Decoder[_T]) -> _T | None:
    raw = fields.get(name)
    return None if raw is None else decode(decoder, name, raw)


def _no_usage_asked(fields: Fields) -> bool:
    """Whether the client left its stream's usage out. Not where it wrote something odd: the engine says what is wrong
    with it, or takes it for a yes."""
    raw = fields.get("stream_options")
    if raw is None:
        return True
    try:
        options = _stream_options.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return options is None or not options.include_usage


def _asking_usage(raw: msgspec.Raw | None) -> dict[str, Any]:
    """The client's own options, and `include_usage`, without which `continuous_usage_stats` had meant nothing."""
    options: dict[str, Any] = dict((None if raw is None else _maybe_fields.decode(raw)) or {})
    if "continuous_usage_stats" in options:
        options["continuous_usage_stats"] = False
    return {**options, "include_usage": True}


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
