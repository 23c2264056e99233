"""Text for the requests of a trace: equal block ids give equal text, every prompt has exactly the trace's tokens.

Floor: benchmarks, pure. A word with its space is one token of the simulated engine's tokenizer (`engine.text`), so 512
words are one block of a trace.
"""

from __future__ import annotations

import json
from functools import lru_cache
from random import Random

from benchmarks.engine.text import WORDS, encode, render_chat
from benchmarks.overhead_parts.answers import MODEL
from benchmarks.replay_parts.trace import TRACE_BLOCK, Row

_VOCABULARY = tuple(f" {word}" for word in WORDS.split())
TEMPLATE_TOKENS = len(encode(render_chat([{"role": "user", "content": ""}])))
"""What the chat template adds to one user message. Three of them come before the text, so blocks are shifted by so
much against the engine's, which costs a shared prefix at most one engine block."""
_KEPT_BLOCKS = 4096  # of 512 words: the shared prefixes of a slice; a block that comes once need not be kept


@lru_cache(maxsize=_KEPT_BLOCKS)
def block_text(block: int) -> str:
    """The 512 words of one block id."""
    return "".join(_words(block, TRACE_BLOCK))


def prompt_text(row: Row, number: int) -> str:
    """The user message of a request: with the template it has `row.prompt` tokens.

    `number` makes the text that no id covers different from everybody else's.
    """
    tokens = max(1, row.prompt - TEMPLATE_TOKENS)
    whole = min(tokens // TRACE_BLOCK, len(row.blocks))
    parts = [block_text(block) for block in row.blocks[:whole]]
    rest = tokens - whole * TRACE_BLOCK
    if rest and whole < len(row.blocks):
        parts.append("".join(_words(row.blocks[whole], min(rest, TRACE_BLOCK))))
        rest -= min(rest, TRACE_BLOCK)
    if rest:
        parts.append("".join(_words(-1 - number, rest)))
    return "".join(parts)


def chat_body(row: Row, number: int) -> bytes:
    """A streamed chat that is answered with exactly `row.output` tokens by an engine that never stops by itself."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": prompt_text(row, number)}],
        "max_tokens": row.output,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


def _words(seed: int, count: int) -> list[str]:
    """`count` words that depend on the seed; fewer of them are the beginning of more."""
    rng = Random(f"block {seed}")
    return [_VOCABULARY[int(rng.random() * len(_VOCABULARY))] for _ in range(count)]
