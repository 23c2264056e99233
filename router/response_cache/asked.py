"""What a request says of the cache: whether it has one answer, whether its client wants it from there, and its key.

Floor: sans-IO.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from policies.response_cache import Asked
from router.wire.fields import Fields
from router.wire.http import Header
from router.wire.openai import ApiSpec, Body
from router.wire.values import given

# Headers of a client that engines read and that are no trace.
_READ_BY_ENGINES: Final = frozenset({b"anthropic-version", b"anthropic-beta"})
# Something at an address, which may be another tomorrow; what is sent along (`data:`) is a part of the request.
_ELSEWHERE: Final = re.compile(rb'"(?:url|(?:image|audio|video|file)_url)"\s*:\s*"(?!data:)')
# Of Responses: what an engine remembers, or does by itself.
_OUTSIDE: Final = ("previous_response_id", "conversation", "background", "tools")
_NULL: Final = msgspec.Raw(b"null")
_number = msgspec.json.Decoder(float | None).decode
_integer = msgspec.json.Decoder(int | None).decode
_object = msgspec.json.Decoder(dict[str, Any]).decode
_encode = msgspec.json.Encoder().encode
_flag = msgspec.json.Decoder(bool | None).decode


def asked_of(spec: ApiSpec, body: Body, sent: bytes) -> Asked:
    """`sent`: the body as engines get it."""
    fields = body.fields
    if spec.path.endswith("/count_tokens"):
        return Asked(spec.name, outside=True)
    return Asked(
        api=spec.name,
        temperature=_read(fields, "temperature", _number),
        seeded=_read(fields, "seed", _integer) is not None,
        choices=max(body.n, _read(fields, "best_of", _integer) or 1),
        outside=_looks_outside(spec, fields, sent),
    )


def _looks_outside(spec: ApiSpec, fields: Fields, sent: bytes) -> bool:
    if spec.name == "responses":
        stored = _read(fields, "store", _flag) is not False  # engines keep it under its id, unless told not to
        if stored or any(given(fields.get(name, _NULL)) for name in _OUTSIDE):
            return True
    return b'url"' in sent and _ELSEWHERE.search(sent) is not None


def _read(fields: Fields, name: str, decode: Any) -> Any:
    """The field's value; None where there is none, or one of another kind: the engine says what is wrong with it."""
    raw = fields.get(name)
    try:
        return None if raw is None else decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def wishes(cache_control: bytes | None) -> tuple[bool, bool]:
    """Whether the client would have an answer from the cache, and whether its own may be kept there, by its
    `cache-control`: `no-cache` wants a new one, `no-store` nothing of the cache at all."""
    if cache_control is None:
        return True, True
    words = {word.strip().lower() for word in cache_control.split(b",")}
    if b"no-store" in words:
        return False, False
    return b"no-cache" not in words, True


def key_of(secret: bytes, spec: ApiSpec, places: Iterable[str], headers: Iterable[Header], sent: bytes) -> bytes:
    """What the request's answer is kept under: 32 bytes, of which nobody can tell the request, and which only this
    tenant's secret makes.

    `places`: the model as it was asked for, and its pool; `sent`: the body as engines get it, with the engine's name of
    the model, after the tenant's rules. How its JSON is spelled does not matter, nor the order of its fields; further
    inside the order counts, as templates write tools and schemas as they come.
    """
    parts = [spec.path.encode(), *(place.encode() for place in places)]
    parts += [part for pair in sorted(pair for pair in headers if pair[0] in _READ_BY_ENGINES) for part in pair]
    digest = hmac.new(secret, digestmod="sha256")
    for part in (b"%d" % len(parts), *parts, _respelled(sent)):
        digest.update(b"%d:" % len(part))  # no two lists of parts are the same bytes
        digest.update(part)
    return digest.digest()


def _respelled(sent: bytes) -> bytes:
    """As it is where that cannot be done."""
    try:
        return _encode(dict(sorted(_object(sent).items())))
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return sent
