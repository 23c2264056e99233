"""The other two ways to ask for text: Anthropic messages and OpenAI responses, whole and as named events.

Floor: pure, like `wire.py`. No capture of these exists: the shapes are those which the official SDKs parse and which
vLLM's serving code writes (no [DONE] on either).
"""

from __future__ import annotations

from typing import Any

import msgspec

from benchmarks.engine.answer import Answer, Piece
from benchmarks.engine.errors import Refusal
from benchmarks.engine.text import decode
from benchmarks.engine.wire import to_json

STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "abort": None}


def event(value: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (value["type"].encode(), to_json(value))


class MessagesWriter:
    """`/v1/messages`: one content block, of text or of a forced tool's input."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._choice = answer.choices[0]
        self._id = f"chatcmpl-{answer.id}"

    def _usage(self) -> dict[str, int]:
        """Input tokens are those that were neither in the cache nor went into it, as vLLM counts them here."""
        answer = self._answer
        return {
            "input_tokens": answer.prompt_tokens - answer.cached_tokens - answer.created_tokens,
            "output_tokens": answer.completion_tokens,
            "cache_creation_input_tokens": answer.created_tokens,
            "cache_read_input_tokens": answer.cached_tokens,
        }

    def _stop(self) -> tuple[str | None, str | None]:
        """Stop reason and stop sequence."""
        if isinstance(self._choice.stop, str):
            return "stop_sequence", self._choice.stop
        reason = "tool_calls" if self._answer.tool and self._choice.finish == "stop" else self._choice.finish
        return STOP_REASONS.get(reason or "stop"), None

    def _block(self, text: str) -> dict[str, Any]:
        if self._answer.tool is None:
            return {"type": "text", "text": text}
        tool_id = f"chatcmpl-tool-{self._answer.id[:32]}"
        return {"type": "tool_use", "id": tool_id, "name": self._answer.tool, "input": {}}

    def _message(self, content: list[dict[str, Any]], stop: tuple[str | None, str | None]) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self._answer.model,
            "stop_reason": stop[0],
            "stop_sequence": stop[1],
            "usage": self._usage(),
        }

    def opening(self) -> list[bytes]:
        return []

    def first(self) -> list[bytes]:
        message = self._message([], (None, None))
        message["usage"] = {"input_tokens": self._answer.prompt_tokens, "output_tokens": 0}
        start = {"type": "content_block_start", "index": 0, "content_block": self._block("")}
        return [event({"type": "message_start", "message": message}), event(start)]

    def piece(self, piece: Piece) -> bytes:
        if not piece.text:
            return b""
        delta = {"type": "text_delta", "text": piece.text}
        if self._answer.tool is not None:
            delta = {"type": "input_json_delta", "partial_json": piece.text}
        return event({"type": "content_block_delta", "index": 0, "delta": delta})

    def last(self) -> list[bytes]:
        reason, sequence = self._stop()
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return [
            event({"type": "content_block_stop", "index": 0}),
            event({"type": "message_delta", "delta": delta, "usage": self._usage()}),
            event({"type": "message_stop"}),
        ]

    def failed(self, refusal: Refusal) -> list[bytes]:
        return [event(refusal.anthropic_body())]

    def whole(self) -> dict[str, Any]:
        block = self._block(self._choice.text)
        if self._answer.tool is not None:
            block["input"] = _arguments(self._choice.text)
        return self._message([block], self._stop())


def _arguments(text: str) -> Any:
    """A call that was cut by the token limit has no arguments that could be read."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}


class ResponsesWriter:
    """`/v1/responses`: one output item, a message or a forced function call."""

    def __init__(self, answer: Answer, echoed: dict[str, Any]) -> None:
        """`echoed`: fields of the request that come back as they were."""
        self._answer = answer
        self._choice = answer.choices[0]
        self._echoed = echoed
        self._id = f"resp_{answer.id}"
        self._sequence = 0

    def _event(self, kind: str, **fields: Any) -> bytes:
        value = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event(value)

    def _item(self, status: str, text: str) -> dict[str, Any]:
        if self._answer.tool is not None:
            call = {"name": self._answer.tool, "arguments": text, "call_id": f"call_{self._answer.id[:32]}"}
            return {"id": f"fc_{self._answer.id}", "type": "function_call", "status": status, **call}
        content = [self._part(text)] if status == "completed" else []
        item = {"id": f"msg_{self._answer.id}", "type": "message", "status": status, "role": "assistant"}
        return item | {"content": content}

    @staticmethod
    def _part(text: str) -> dict[str, Any]:
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": None}

    def _response(self, status: str, output: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self._id,
            "created_at": self._answer.created,
            "incomplete_details": incomplete,
            "instructions": self._echoed.get("instructions"),
            "metadata": self._echoed.get("metadata"),
            "model": self._answer.model,
            "object": "response",
            "output": output,
            "parallel_tool_calls": True,
            "temperature": self._echoed.get("temperature", 1.0),
            "tool_choice": self._echoed.get("tool_choice") or "auto",
            "tools": self._echoed.get("tools") or [],
            "top_p": self._echoed.get("top_p", 1.0),
            "background": False,
            "max_output_tokens": self._echoed.get("max_output_tokens"),
            "previous_response_id": None,
            "service_tier": "auto",
            "status": status,
            "text": None,
            "top_logprobs": None,
            "truncation": "disabled",
            "usage": usage,
            "user": self._echoed.get("user"),
            "error": None,
        }

    def _final(self) -> dict[str, Any]:
        answer, choice = self._answer, self._choice
        usage = {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {
                "cached_tokens": answer.cached_tokens,
                "cache_write_tokens": answer.created_tokens,
            },
            "output_tokens": answer.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        }
        status = {"stop": "completed", "abort": "cancelled"}.get(choice.finish or "stop", "incomplete")
        return self._response(status, [self._item("completed", choice.text)], usage)

    def opening(self) -> list[bytes]:
        begun = self._response("in_progress", [], None)
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
        ]

    def first(self) -> list[bytes]:
        item = self._item("in_progress", "")
        events = [self._event("response.output_item.added", output_index=0, item=item)]
        if self._answer.tool is None:
            where = {"item_id": item["id"], "output_index": 0, "content_index": 0}
            events.append(self._event("response.content_part.added", **where, part=self._part("")))
        return events

    def piece(self, piece: Piece) -> bytes:
        if not piece.text:
            return b""
        if self._answer.tool is not None:
            where = {"item_id": f"fc_{self._answer.id}", "output_index": 0}
            return self._event("response.function_call_arguments.delta", **where, delta=piece.text)
        where = {"item_id": f"msg_{self._answer.id}", "output_index": 0, "content_index": 0}
        return self._event("response.output_text.delta", **where, delta=piece.text, logprobs=[])

    def last(self) -> list[bytes]:
        text, item = self._choice.text, self._item("completed", self._choice.text)
        where: dict[str, Any] = {"item_id": item["id"], "output_index": 0}
        if self._answer.tool is not None:
            done = [self._event("response.function_call_arguments.done", **where, name=item["name"], arguments=text)]
        else:
            where["content_index"] = 0
            done = [
                self._event("response.output_text.done", **where, text=text, logprobs=[]),
                self._event("response.content_part.done", **where, part=self._part(text)),
            ]
        return [
            *done,
            self._event("response.output_item.done", output_index=0, item=item),
            self._event("response.completed", response=self._final()),
        ]

    def failed(self, refusal: Refusal) -> list[bytes]:
        return [self._event("error", code=str(refusal.status), message=refusal.message, param=refusal.param)]

    def whole(self) -> dict[str, Any]:
        return self._final()


def responses_messages(body_input: str | list[dict[str, Any]], instructions: str | None) -> list[dict[str, Any]]:
    """The chat messages that an `input` means; a function call and its result become messages too."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(body_input, str):
        return [*messages, {"role": "user", "content": body_input}]
    for item in body_input:
        kind = item.get("type", "message")
        if kind == "function_call":
            messages.append({"role": "assistant", "tool_calls": [item]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "content": item.get("output")})
        else:
            messages.append({"role": item.get("role", "user"), "content": item.get("content")})
    return messages


def token_strings(tokens: list[int]) -> list[str]:
    """As a byte-level BPE shows them: a leading space is a G with a dot."""
    return [decode([token]).replace(" ", "\u0120") for token in tokens]
