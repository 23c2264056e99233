"""The parameters by which an engine sampled an answer, as a record has them.

Floor: sans-IO. `pick` runs on the event loop and only copies the few fields; `read` runs in the ledger's thread.
Numbers and words of closed sets are told; what a client may fill with words of its own (stop strings, names and schemas
of tools, templates) becomes a hash by the tenant's key, or a count. What is not given is not told: there the engine's
own default holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Final

import msgspec

from policies.keyed_hash import KeyedHash
from router.wire.fields import Fields

Picked = dict[str, bytes]

HASH_BYTES: Final = 16  # of a keyed hash: nobody finds two texts that have the same
_SHORT_BYTES: Final = 8  # of one stop string's: they only have to be told apart
_MOST_LISTED: Final = 16  # stop strings told one by one; vLLM takes any number, OpenAI four
_LARGE_BYTES: Final = 256 * 1024  # what is longer is hashed as it was spelled: reading it would take milliseconds
_MANY: Final = 64  # fields of a body: beyond, it is cheaper to ask for each name than to look at all of them
_ALIKE: Final = 512  # sets of parameters that are remembered as they were read, of so many bytes each at most
_ALIKE_BYTES: Final = 512
_KEYS: Final = 1024  # tenants' keys whose hashes are prepared
_ODD: Final = "odd"  # in the place of a value that no engine should take
_LARGEST: Final = 2**63  # a JSON database's numbers end there

_SCALARS: Final = frozenset(
    {
        "temperature", "top_p", "top_k", "min_p", "seed", "n", "best_of", "min_tokens", "presence_penalty",
        "frequency_penalty", "repetition_penalty", "length_penalty", "logprobs", "top_logprobs", "prompt_logprobs",
        "ignore_eos", "echo", "use_beam_search", "parallel_tool_calls", "skip_special_tokens", "thinking_token_budget",
        "include_stop_str_in_output", "truncate_prompt_tokens", "continue_final_message", "add_generation_prompt",
    }
)  # fmt: skip
_BOUNDS: Final = ("max_completion_tokens", "max_tokens", "max_output_tokens")
# Of what these say only that two requests said the same is told.
_HASHED: Final = frozenset(
    {
        "stop_token_ids", "bad_words", "logit_bias", "allowed_token_ids", "chat_template", "chat_template_kwargs",
        "vllm_xargs", "structured_outputs", "repetition_detection",
    }
)  # fmt: skip
_EFFORTS: Final = frozenset({"none", "minimal", "low", "medium", "high", "xhigh", "max", "auto"})
_FORMATS: Final = frozenset({"text", "json_object", "json_schema", "structural_tag"})
_CHOICES: Final = frozenset({"none", "auto", "required", "any"})
_NAMED_CHOICES: Final = frozenset({"function", "tool", "custom", "allowed_tools"})
_THINKING: Final = frozenset({"enabled", "disabled", "adaptive"})
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def keyed(key: bytes, kind: str, text: bytes, size: int = HASH_BYTES) -> str:
    """A hash that nobody can make without the key; equal texts of different kinds have different ones."""
    return _hash(key).digest(kind.encode() + b"\0" + text)[:size].hex()


def pick(fields: Fields) -> Picked:
    """The fields that `read` is about, apart from the body that they stand in: that can be let go."""
    if len(fields) > _MANY:
        return {name: bytes(fields[name]) for name in fields.keys() & _NAMES}
    return {name: bytes(fields[name]) for name in filter(_is_told, fields)}


def read(picked: Picked, key: bytes, bounds: tuple[str, ...] = (), most: int | None = None) -> dict[str, Any]:
    """What a record tells; never change it. `key`: the tenant's; `bounds`: the API's names for an answer's length, the
    one that counts first; `most`: tokens that the gateway allowed where another pool answered, with less."""
    if sum(map(len, picked.values())) <= _ALIKE_BYTES:
        return _read_alike(tuple(picked.items()), key, bounds, most)
    return _read(picked.items(), key, bounds, most)


def _read(picked: Iterable[tuple[str, bytes]], key: bytes, bounds: tuple[str, ...], most: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {}
    for name, raw in picked:
        if name in _SCALARS:
            _tell(told, name, _scalar(_value(raw)))
        elif name in _HASHED:
            if (value := _value(raw)) is not None:
                told[name] = keyed(key, name, _canonical(value))
        elif (reader := _READERS.get(name)) is not None:
            reader(told, key, raw)
    _tell(told, "max_tokens", _bound(dict(picked), bounds, most))
    return told


# Requests of a tenant are mostly asked with the same parameters: then they need not be read again.
_read_alike = lru_cache(maxsize=_ALIKE)(_read)
_hash = lru_cache(maxsize=_KEYS)(KeyedHash)


def _bound(picked: Picked, bounds: Iterable[str], most: int | None) -> Any:
    given = (_scalar(_value(picked[name])) for name in bounds if name in picked)
    bound = next((one for one in given if one is not None), None)
    if most is None or not isinstance(bound, int):
        return bound if bound is not None else most
    return min(bound, most)


def _tell(told: dict[str, Any], name: str, value: Any) -> None:
    if value is not None:
        told[name] = value


def _value(raw: bytes) -> Any:
    """What JSON wrote; its bytes where that is too much, or no JSON."""
    if len(raw) > _LARGE_BYTES:
        return raw
    try:
        return _decode(raw)
    except _UNREADABLE:
        return raw


def _canonical(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return _encode(value)
    except (UnicodeEncodeError, RecursionError):
        return repr(value).encode("utf-8", "replace")


def _scalar(value: Any) -> Any:
    """A number, a switch or nothing. Numbers in quotation marks are numbers to engines."""
    if isinstance(value, str) and len(value) <= 32:
        try:
            value = float(value)
        except ValueError:
            return _ODD
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return value if abs(value) < _LARGEST else _ODD
    return value if isinstance(value, float) and math.isfinite(value) else _ODD


def _word(value: Any, known: frozenset[str]) -> str | None:
    if value is None:
        return None
    return value if isinstance(value, str) and value in known else _ODD


def _text(value: Any) -> bytes:
    return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else _canonical(value)


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


# -- the fields that are told in their own way ------------------------------------------------------------------------


def _stop(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    value = _value(raw)
    texts = value if isinstance(value, list) else [] if value is None else [value]
    if texts:
        told["stop"] = [keyed(key, "stop", _text(text), _SHORT_BYTES) for text in texts[:_MOST_LISTED]]
        if len(texts) > _MOST_LISTED:
            told["stop_count"] = len(texts)


def _tools(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    """How many, a hash of their names, whatever their order, and one of all that is said of them."""
    value = _value(raw)
    if isinstance(value, bytes) or not value:
        _tell(told, "tools_hash", keyed(key, "tools", value) if isinstance(value, bytes) else None)
        return
    if isinstance(value, list):
        told["tools"] = len(value)
        names = b"\0".join(sorted({_text(name) for name in tool_names(value)}))
        told["tool_names_hash"] = keyed(key, "tool names", names)
    told["tools_hash"] = keyed(key, "tools", _canonical(value))


def tool_names(tools: list[Any]) -> list[Any]:
    """Of functions in the words of each API; of an engine's own tools their kind."""
    found = []
    for tool in map(_object, tools):
        function = _object(tool.get("function"))
        found.append(function.get("name") or tool.get("name") or tool.get("type"))
    return found


def _tool_choice(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    value = _value(raw)
    kind = _object(value).get("type") if isinstance(value, dict) else value
    if isinstance(kind, str) and kind in _NAMED_CHOICES:
        told["tool_choice"] = "named"
        told["tool_choice_hash"] = keyed(key, "tool choice", _canonical(value))
    else:
        _tell(told, "tool_choice", _word(kind, _CHOICES))


def _format(told: dict[str, Any], key: bytes, value: Any) -> None:
    if value is None:
        return
    told["response_format"] = _word(_object(value).get("type"), _FORMATS) or _ODD
    if len(_object(value)) != 1:
        told["response_format_hash"] = keyed(key, "response_format", _canonical(value))


def _response_format(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    _format(told, key, _value(raw))


def _text_options(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    _format(told, key, _object(_value(raw)).get("format"))


def _effort(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    _tell(told, "reasoning_effort", _word(_value(raw), _EFFORTS))


def _reasoning(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    _tell(told, "reasoning_effort", _word(_object(_value(raw)).get("effort"), _EFFORTS))


def _output_config(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    _reasoning(told, key, raw)
    _text_options(told, key, raw)


def _thinking(told: dict[str, Any], key: bytes, raw: bytes) -> None:
    value = _object(_value(raw))
    _tell(told, "thinking", _word(value.get("type"), _THINKING))
    _tell(told, "thinking_token_budget", _scalar(value.get("budget_tokens")))


_Reader = Callable[[dict[str, Any], bytes, bytes], None]
_READERS: Final[dict[str, _Reader]] = {
    "stop": _stop,
    "stop_sequences": _stop,
    "tools": _tools,
    "functions": _tools,
    "tool_choice": _tool_choice,
    "response_format": _response_format,
    "output_format": _response_format,
    "text": _text_options,
    "reasoning_effort": _effort,
    "reasoning": _reasoning,
    "output_config": _output_config,
    "thinking": _thinking,
}
_NAMES: Final = frozenset({*_SCALARS, *_HASHED, *_READERS, *_BOUNDS})
_is_told = _NAMES.__contains__
