"""The bytes of chat completions, and what all text APIs share, as the captured vLLM 0.32 writes them.

Floor: pure. A writer turns an `Answer` into a whole body, or piece by piece into events. Chunks are put together from
prepared bytes, as a chunk is what an engine writes most.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Protocol

import msgspec

from benchmarks.engine.answer import Answer, Choice, Piece
from benchmarks.engine.errors import Refusal
from benchmarks.engine.text import WORD_IDS, token_text

DONE = b"data: [DONE]\n\n"
to_json = msgspec.json.encode


class Writer(Protocol):
    """One API's way to write an answer. Every returned item is one event, ready to be sent.

    `opening` comes before the prompt is computed, `first` with the first token.
    """

    def opening(self) -> list[bytes]: ...
    def first(self) -> list[bytes]: ...
    def piece(self, piece: Piece) -> bytes: ...
    def last(self) -> list[bytes]: ...
    def failed(self, refusal: Refusal) -> list[bytes]: ...
    def whole(self) -> dict[str, Any]: ...


@lru_cache(maxsize=4096)
def json_text(text: str) -> bytes:
    return to_json(text)


def data(value: Any) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def error_events(refusal: Refusal) -> list[bytes]:
    """An engine that dies mid-stream: the error, written with spaces as captured, then [DONE] all the same."""
    return [b"data: %b\n\n" % json.dumps(refusal.body()).encode(), DONE]


def logprob(token: int) -> float:
    """A made-up but steady number."""
    return -(1 + token % 97) / 100


def alternatives(token: int, count: int) -> list[int]:
    """The token itself and the words after it in the vocabulary."""
    at = WORD_IDS.index(token) if token in WORD_IDS else 0
    return [token, *(WORD_IDS[(at + step) % len(WORD_IDS)] for step in range(1, count))][:count]


def usage_tokens(prompt: int, completion: int) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


def choice_ids(answer: Answer, choice: Choice) -> list[int] | None:
    return choice.ids if answer.return_token_ids else None


class ChatWriter:
    """`/v1/chat/completions`."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._id = f"chatcmpl-{answer.id}"
        head = {"id": self._id, "object": "chat.completion.chunk", "created": answer.created, "model": answer.model}
        self._head = b"data: %b" % to_json(head)[:-1]
        self._call_ids = [f"chatcmpl-tool-{answer.id[:32]}{choice.index}" for choice in answer.choices]

    def _usage(self, completion: int) -> bytes:
        if not self._answer.continuous_usage:
            return b""
        usage = usage_tokens(self._answer.prompt_tokens, completion) | {"completion_tokens_details": None}
        return b',"usage":' + to_json(usage)

    def opening(self) -> list[bytes]:
        return []

    def first(self) -> list[bytes]:
        ids = to_json(self._answer.prompts[0] if self._answer.return_token_ids else None)
        role = to_json(self._answer.role)
        return [
            b'%b,"choices":[{"index":%d,"delta":{"role":%b,"content":""},"logprobs":null,"finish_reason":null}]%b,'
            b'"prompt_token_ids":%b,"prompt_text":null}\n\n' % (self._head, choice.index, role, self._usage(0), ids)
            for choice in self._answer.choices
        ]

    def piece(self, piece: Piece) -> bytes:
        answer, choice = self._answer, piece.choice
        ids = b"null"
        if answer.return_token_ids:
            ids = b"[%d]" % piece.token if piece.token >= 0 else b"[]"
        finish, tail = b"null", b""
        if piece.finish is not None:
            finish = b'%b,"stop_reason":%b' % (to_json(answer.finish_of(piece.finish)), to_json(piece.stop))
            if not answer.include_usage:
                tail = b',"system_fingerprint":"%b"' % answer.fingerprint.encode()
        return (b'%b,"choices":[{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b,"token_ids":%b}]%b%b}\n\n') % (
            self._head,
            choice.index,
            self._delta(piece),
            self._logprobs([piece.token]),
            finish,
            ids,
            self._usage(answer.completion_tokens) if answer.continuous_usage else b"",
            tail,
        )

    def _delta(self, piece: Piece) -> bytes:
        if self._answer.tool is None:
            return b'{"content":%b}' % json_text(piece.text)
        if not piece.text:
            return b"{}"
        if len(piece.choice.ids) > 1:
            return to_json({"tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]})
        function = {"name": self._answer.tool, "arguments": piece.text}
        call_id = self._call_ids[piece.choice.index]
        return to_json({"tool_calls": [{"id": call_id, "type": "function", "index": 0, "function": function}]})

    def last(self) -> list[bytes]:
        answer = self._answer
        if not answer.include_usage:
            return [DONE]
        details = {"cached_tokens": answer.cached_tokens, "created_cache_tokens": answer.created_tokens}
        usage = usage_tokens(answer.prompt_tokens, answer.completion_tokens) | {"prompt_tokens_details": details}
        tail = to_json({"choices": [], "usage": usage, "system_fingerprint": answer.fingerprint})
        return [b"%b,%b\n\n" % (self._head, tail[1:]), DONE]

    def failed(self, refusal: Refusal) -> list[bytes]:
        return error_events(refusal)

    def _logprobs(self, tokens: list[int]) -> bytes:
        count = self._answer.logprobs
        if count is None or tokens == [-1]:
            return b"null"
        return to_json(
            {"content": [self._token(token) | {"top_logprobs": self._top(token, count)} for token in tokens]}
        )

    @staticmethod
    def _token(token: int) -> dict[str, Any]:
        text = token_text(token)
        return {"token": text, "logprob": logprob(token), "bytes": list(text.encode())}

    def _top(self, token: int, count: int) -> list[dict[str, Any]]:
        ranked = alternatives(token, count)
        return [self._token(one) | {"logprob": logprob(token) - rank} for rank, one in enumerate(ranked)]

    def whole(self) -> dict[str, Any]:
        answer = self._answer
        details = {
            "cached_tokens": answer.cached_tokens,
            "created_cache_tokens": answer.created_tokens,
            "multimodal_tokens": None,
        }
        usage = usage_tokens(answer.prompt_tokens, answer.completion_tokens)
        return {
            "id": self._id,
            "object": "chat.completion",
            "created": answer.created,
            "model": answer.model,
            "choices": [self._choice(choice) for choice in answer.choices],
            "service_tier": None,
            "system_fingerprint": answer.fingerprint,
            "usage": usage | {"prompt_tokens_details": details, "completion_tokens_details": None},
            "prompt_logprobs": None,
            "prompt_token_ids": answer.prompts[0] if answer.return_token_ids else None,
            "prompt_text": None,
            "kv_transfer_params": None,
            "ec_transfer_params": None,
            "metrics": None,
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        return {
            "index": choice.index,
            "message": self._message(choice),
            "logprobs": msgspec.Raw(self._logprobs(choice.ids)),
            "finish_reason": self._answer.finish_of(choice.finish),
            "stop_reason": choice.stop,
            "token_ids": choice_ids(self._answer, choice),
            "routed_experts": None,
        }

    def _message(self, choice: Choice) -> dict[str, Any]:
        tool = self._answer.tool
        message: dict[str, Any] = {
            "role": self._answer.role,
            "content": choice.text if tool is None else None,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
        }
        if tool is not None:
            function = {"name": tool, "arguments": choice.text}
            message["tool_calls"] = [{"id": self._call_ids[choice.index], "type": "function", "function": function}]
        return message | {"reasoning": None}
