"""May a stream that broke be continued on another endpoint, and by which request?

Floor: `policies`, pure. A continuation asks another engine for the tokens behind those that the client has. That is the
answer the first engine would have given only if the next token hangs on the tokens before it and on nothing that the
first engine alone remembers. So the fields of a request are judged by a list of what is known: a field that is not
on it might be such a memory, and the stream is then not resumable.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from policies.stop_strings import FIELDS as STOP_FIELDS
from policies.stop_strings import stop_rule
from policies.types import FailureCause

# Attempts in a row that brought the client nothing: beyond, what kills the engines is probably this very answer.
MAX_FAILURES: Final = 3
# How often one stream may be continued: each costs a prefill of all that was said before.
MAX_RESUMES: Final = 16


class Way(StrEnum):
    """How a stream is continued.

    TOKENS: behind the very token ids that the engine had emitted, so a greedy answer stays what it was. TEXT: behind
    the text, which an engine may cut into other tokens; for prompts with pictures, which ids do not carry. AGAIN: the
    same request once more, as nothing had been said.
    """

    TOKENS = "tokens"
    TEXT = "text"
    AGAIN = "again"


# Sampling of each next token, the same for a continuation. A repetition penalty counts the prompt too, in which a
# continuation has what was said; `seed` makes another, equally fair, draw of what is still to come.
CARRIED: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "seed",
        "logit_bias",
        "allowed_token_ids",
        "stop",
        "stop_token_ids",
        "ignore_eos",
        "include_stop_str_in_output",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stream_interval",
    }
)
# What makes the prompt: the ids that the engine reported hold all of it.
PROMPT: Final = frozenset(
    {
        "messages",
        "prompt",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
        "chat_template",
        "chat_template_kwargs",
        "documents",
        "media_io_kwargs",
        "mm_processor_kwargs",
        "reasoning_effort",
        "truncate_prompt_tokens",
        "truncation_side",
    }
)
# What a continuation says in its own way, and what no token hangs on.
OTHER: Final = frozenset(
    {
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
        "min_tokens",
        "length_penalty",
        "metadata",
        "parallel_tool_calls",
        "prompt_cache_key",
        "prompt_cache_retention",
        "return_prompt_text",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
        "verbosity",
    }
)
# Fields that hinder unless they say what an engine does without them. Penalties of presence and frequency, bad words
# and patterns of repetition are counted over an engine's own output alone.
IDLE: Final[Mapping[str, tuple[object, ...]]] = {
    "n": (1,),
    "best_of": (1,),
    "bad_words": ([],),
    "presence_penalty": (0, 0.0),
    "frequency_penalty": (0, 0.0),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "echo": (False,),
    "suffix": ("",),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none",),
    "response_format": ({"type": "text"},),
    "include_reasoning": (True,),
    "use_beam_search": (False,),
    "watermarking": (False,),
    "return_token_ids": (False,),
    "return_tokens_as_token_ids": (False,),
}
# Fields of which `hindrance` looks at the values.
JUDGED: Final = STOP_FIELDS | frozenset(IDLE)
_FREE: Final = CARRIED | PROMPT | OTHER


def hindrance(fields: Mapping[str, object]) -> str | None:
    """The field for which the request's stream cannot be continued; None if there is none.

    `fields`: every field of the body that is not null; only values of those named in `JUDGED` are looked at.
    """
    if stop_rule(fields) is None:
        return "stop"
    for name, value in fields.items():
        if name in _FREE:
            continue
        if not any(value == idle and type(value) is type(idle) for idle in IDLE.get(name, ())):
            return name
    return None


def way(*, said: int, media: bool) -> Way:
    """How to go on behind the first `said` tokens of the answer. `media`: the prompt has more than tokens."""
    if not said:
        return Way.AGAIN
    return Way.TEXT if media else Way.TOKENS


def tokens_left(bound: int | None, said: int, prompt: int, context: int | None) -> int | None:
    """What a continuation may still say: of the client's `bound`, or, without one, of the model's `context`.

    None: that is not known. 0: the answer is as long as it may be.
    """
    if bound is not None:
        return max(0, bound - said)
    return None if context is None else max(0, context - prompt - said)


def may_go_on(cause: FailureCause, status: int, failures: int, resumes: int) -> bool:
    """After a failure in a stream that has begun. `failures`: those in a row without anything new for the client, this
    one included; `resumes`: continuations begun so far. `status`: of a continuation's answer, 0 if there was none."""
    if failures >= MAX_FAILURES or resumes >= MAX_RESUMES:
        return False
    return cause is not FailureCause.STATUS or status >= 500
