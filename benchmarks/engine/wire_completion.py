"""The bytes of text completions, as the captured vLLM 0.32 writes them.

Floor: pure, like `wire.py`.
"""

from __future__ import annotations

from typing import Any

from benchmarks.engine.answer import Answer, Choice, Piece
from benchmarks.engine.errors import Refusal
from benchmarks.engine.text import decode, token_text
from benchmarks.engine.wire import (
    DONE,
    alternatives,
    choice_ids,
    error_events,
    json_text,
    logprob,
    to_json,
    usage_tokens,
)


class CompletionWriter:
    """`/v1/completions`. With `echo` a choice's text begins with its prompt."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._id = f"cmpl-{answer.id}"
        head = {"id": self._id, "object": "text_completion", "created": answer.created, "model": answer.model}
        self._head = b"data: %b" % to_json(head)[:-1]

    def opening(self) -> list[bytes]:
        return []

    def first(self) -> list[bytes]:
        return []

    def piece(self, piece: Piece) -> bytes:
        answer, choice = self._answer, piece.choice
        begins = len(choice.ids) <= 1
        ids = b"null"
        if answer.return_token_ids:
            ids = b"[%d]" % piece.token if piece.token >= 0 else b"[]"
        prompt_ids = to_json(choice.prompt) if begins and answer.return_token_ids else b"null"
        text = decode(choice.prompt) + piece.text if begins and answer.echo else piece.text
        tokens = [piece.token] if piece.token >= 0 else []
        return (
            b'%b,"choices":[{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b,"stop_reason":%b,'
            b'"prompt_token_ids":%b,"token_ids":%b}]%b}\n\n'
        ) % (
            self._head,
            choice.index,
            json_text(text) if len(text) < 64 else to_json(text),
            to_json(self._logprobs(tokens, len(choice.text) - len(piece.text))),
            to_json(piece.finish),
            to_json(piece.stop),
            prompt_ids,
            ids,
            self._tail(piece),
        )

    def _tail(self, piece: Piece) -> bytes:
        answer = self._answer
        if answer.continuous_usage:
            return b',"usage":' + to_json(usage_tokens(answer.prompt_tokens, answer.completion_tokens))
        if piece.finish is not None and not answer.include_usage:
            return b',"system_fingerprint":"%b"' % answer.fingerprint.encode()
        return b""

    def last(self) -> list[bytes]:
        answer = self._answer
        if not answer.include_usage:
            return [DONE]
        details = {"cached_tokens": answer.cached_tokens}
        usage = usage_tokens(answer.prompt_tokens, answer.completion_tokens) | {"prompt_tokens_details": details}
        tail = to_json({"choices": [], "usage": usage, "system_fingerprint": answer.fingerprint})
        return [b"%b,%b\n\n" % (self._head, tail[1:]), DONE]

    def failed(self, refusal: Refusal) -> list[bytes]:
        return error_events(refusal)

    def _logprobs(self, tokens: list[int], offset: int) -> dict[str, Any] | None:
        count = self._answer.logprobs
        if count is None:
            return None
        offsets, texts = [], [token_text(token) for token in tokens]
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        top = [
            {token_text(one): logprob(token) - rank for rank, one in enumerate(alternatives(token, count))}
            for token in tokens
        ]
        values = [logprob(token) for token in tokens]
        return {"text_offset": offsets, "token_logprobs": values, "tokens": texts, "top_logprobs": top}

    def whole(self) -> dict[str, Any]:
        answer = self._answer
        details = {"cached_tokens": answer.cached_tokens, "created_cache_tokens": None, "multimodal_tokens": None}
        usage = usage_tokens(answer.prompt_tokens, answer.completion_tokens)
        return {
            "id": self._id,
            "object": "text_completion",
            "created": answer.created,
            "model": answer.model,
            "choices": [self._choice(choice) for choice in answer.choices],
            "service_tier": None,
            "system_fingerprint": answer.fingerprint,
            "usage": usage | {"prompt_tokens_details": details, "completion_tokens_details": None},
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        answer = self._answer
        return {
            "index": choice.index,
            "text": decode(choice.prompt) + choice.text if answer.echo else choice.text,
            "logprobs": self._logprobs(choice.ids, 0),
            "finish_reason": choice.finish,
            "stop_reason": choice.stop,
            "token_ids": choice_ids(answer, choice),
            "prompt_logprobs": None,
            "prompt_token_ids": choice.prompt if answer.return_token_ids else None,
            "routed_experts": None,
        }
