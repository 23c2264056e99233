"""Fields by which an answer would bring text or tokens past the rules for answers.

Floor: sans-IO.
"""

from __future__ import annotations

from typing import Final

import msgspec

from router.errors import BadRequest
from router.wire.openai import ApiSpec, Body
from router.wire.values import given

# By the value that asks for nothing.
_SWITCHES: Final = {
    "echo": (False,),
    "logprobs": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
    "return_prompt_text": (False,),
    "top_logprobs": (0,),
    "prompt_logprobs": (),
    "logprob_token_ids": ([],),
    "audio": (),
}
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def refuse_unseen(spec: ApiSpec, body: Body, acts: bool, asks: bool) -> None:
    """Raises BadRequest naming the field. `acts`: some rule changes answers; `asks`: some rule needs all of one."""
    if asks and body.stream:
        message = "A content rule of this tenant must see whole answers: ask without 'stream'."
        raise BadRequest(message, param="stream", code="field_refused")
    if not acts:
        return
    for name, nothing in _SWITCHES.items():
        raw = body.fields.get(name)
        if raw is not None and given(raw) and not _is_one_of(raw, nothing):
            raise _refused(name)
    if spec.name == "responses" and b"logprobs" in bytes(body.fields.get("include", b"")):
        raise _refused("include")


def _refused(name: str) -> BadRequest:
    message = f"'{name}' would show what this tenant's content rules cannot examine."
    return BadRequest(message, param=name, code="field_refused")


def _is_one_of(raw: msgspec.Raw, values: tuple[object, ...]) -> bool:
    try:
        value = msgspec.json.decode(raw)
    except _UNREADABLE:
        return False
    return any(type(value) is type(one) and value == one for one in values)
