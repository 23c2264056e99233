"""Embeddings, rerank and score: requests that are a prefill and no more, with answers that make some sense.

Floor: pure. A vector is the sum of one fixed random direction per token, so texts that share words are near to each
other, and the same text has the same vector on every engine.
"""

from __future__ import annotations

import base64
import math
import random
from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from benchmarks.engine.bodies import EmbeddingBody, RerankBody, ScoreBody
from benchmarks.engine.errors import bad_value
from benchmarks.engine.text import content_text, encode

DIMENSIONS = 64
"""Small on purpose: a vector is as many JSON numbers."""
MOST_DIMENSIONS = 4_096


@lru_cache(maxsize=1 << 14)
def _direction(token: int, dimensions: int) -> tuple[float, ...]:
    rng = random.Random(token)
    return tuple(rng.gauss(0, 1) for _ in range(dimensions))


def vector(tokens: Sequence[int], dimensions: int) -> list[float]:
    """A unit vector."""
    total = [0.0] * dimensions
    for token in set(tokens) or {0}:
        for axis, value in enumerate(_direction(token, dimensions)):
            total[axis] += value
    norm = math.sqrt(sum(value * value for value in total)) or 1.0
    return [value / norm for value in total]


def likeness(left: Sequence[int], right: Sequence[int]) -> float:
    """Between 0 and 1: the share of tokens in common."""
    one, other = set(left), set(right)
    return len(one & other) / max(1, len(one | other))


def texts_of(value: str | list[int] | list[str] | list[list[int]]) -> list[list[int]]:
    """The token ids of every input that an `input` or `prompt` field means."""
    if isinstance(value, str):
        return [encode(value)]
    if value and isinstance(value[0], int):
        return [list(value)]
    return [encode(one) if isinstance(one, str) else list(one) for one in value]  # type: ignore[arg-type]


def _usage(prompts: list[list[int]]) -> dict[str, Any]:
    tokens = sum(map(len, prompts))
    usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
    return usage | {"prompt_tokens_details": None, "completion_tokens_details": None}


def check_embedding(body: EmbeddingBody) -> None:
    if body.encoding_format not in ("float", "base64"):
        text = f"encoding_format must be 'float' or 'base64', got {body.encoding_format!r}."
        raise bad_value("encoding_format", body.encoding_format, text)
    if body.dimensions is not None and not 1 <= body.dimensions <= MOST_DIMENSIONS:
        raise bad_value("dimensions", body.dimensions, f"dimensions must be in [1, {MOST_DIMENSIONS}].")


def embeddings(body: EmbeddingBody, prompts: list[list[int]], *, id: str, model: str, created: int) -> dict[str, Any]:
    def shown(values: list[float]) -> list[float] | str:
        return base64.b64encode(array("f", values).tobytes()).decode() if body.encoding_format == "base64" else values

    size = body.dimensions or DIMENSIONS
    rows = [
        {"index": index, "object": "embedding", "embedding": shown(vector(prompt, size))}
        for index, prompt in enumerate(prompts)
    ]
    head = {"id": f"embd-{id}", "object": "list", "created": created, "model": model}
    return head | {"data": rows, "usage": _usage(prompts)}


def rerank_prompts(body: RerankBody) -> list[list[int]]:
    """One sequence per document: the query and it."""
    query = encode(body.query + "\n")
    return [query + encode(_document(document)) for document in body.documents]


def _document(document: str | dict[str, Any]) -> str:
    return document if isinstance(document, str) else content_text(document.get("content", [document]))


def rerank(body: RerankBody, prompts: list[list[int]], *, id: str, model: str) -> dict[str, Any]:
    query = encode(body.query)
    results = [
        {
            "index": index,
            "document": {"text": _document(document), "multi_modal": None},
            "relevance_score": likeness(query, encode(_document(document))),
        }
        for index, document in enumerate(body.documents)
    ]
    results.sort(key=lambda result: -float(result["relevance_score"]))  # type: ignore[arg-type]
    usage = {"prompt_tokens": sum(map(len, prompts)), "total_tokens": sum(map(len, prompts))}
    return {"id": f"rerank-{id}", "model": model, "usage": usage, "results": results[: body.top_n or None]}


def score_pairs(body: ScoreBody) -> list[tuple[list[int], list[int]]]:
    """One text against each, or both lists in step; a `Refusal` when the lists do not match."""
    left = [body.text_1] if isinstance(body.text_1, str) else body.text_1
    right = [body.text_2] if isinstance(body.text_2, str) else body.text_2
    if len(left) == 1:
        left = left * len(right)
    if len(left) != len(right):
        raise bad_value("text_1", len(left), "Input lengths must be either 1:1, 1:N or N:N.")
    return [(encode(one), encode(other)) for one, other in zip(left, right, strict=True)]


def score(pairs: list[tuple[list[int], list[int]]], *, id: str, model: str, created: int) -> dict[str, Any]:
    rows = [{"index": index, "object": "score", "score": likeness(*pair)} for index, pair in enumerate(pairs)]
    head = {"id": f"score-{id}", "object": "list", "created": created, "model": model}
    return head | {"data": rows, "usage": _usage([left + right for left, right in pairs])}
