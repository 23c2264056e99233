"""Streams as vLLM writes them, of texts that are cut in any way, and what clients make of what they get."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

HEAD = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "tiny"}


def data(event: dict[str, Any], name: str = "") -> bytes:
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return (b"event: %b\n" % name.encode() if name else b"") + b"data: " + body + b"\n\n"


def chat(pieces: Sequence[str], *, key: str = "content", index: int = 0) -> list[bytes]:
    """One choice, without the stream's end."""
    parts: list[dict[str, Any]] = [{"role": "assistant", "content": ""}, *({key: piece} for piece in pieces)]
    if key == "arguments":
        call = {"index": 0, "id": "t", "type": "function", "function": {"name": "send", "arguments": ""}}
        parts = [{"role": "assistant", "content": ""}, {"tool_calls": [call]}]
        parts += [{"tool_calls": [{"index": 0, "function": {"arguments": piece}}]} for piece in pieces]
    events = [
        data({**HEAD, "choices": [{"index": index, "delta": part, "logprobs": None, "finish_reason": None}]})
        for part in parts
    ]
    last = {"index": index, "delta": {"content": ""}, "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    return [*events, data({**HEAD, "choices": [last]})]


def completions(pieces: Sequence[str], *, index: int = 0) -> list[bytes]:
    head = {**HEAD, "object": "text_completion"}
    events = [
        data({**head, "choices": [{"index": index, "text": piece, "logprobs": None, "finish_reason": None}]})
        for piece in pieces
    ]
    return [*events, data({**head, "choices": [{"index": index, "text": "", "finish_reason": "stop"}]})]


def messages(pieces: Sequence[str], *, key: str = "text") -> list[bytes]:
    kinds = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "tiny", "content": [], "stop_reason": None}
    block = {"type": "text", "text": ""} if key != "partial_json" else {"type": "tool_use", "id": "t", "name": "send"}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": {**message, "usage": {"input_tokens": 5, "output_tokens": 0}}},
        {"type": "content_block_start", "index": 0, "content_block": block},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": kinds[key], key: piece}} for piece in pieces),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": len(pieces)}},
        {"type": "message_stop"},
    ]
    return [data(event, event["type"]) for event in events]


def responses(pieces: Sequence[str], *, kind: str = "output_text") -> list[bytes]:
    text = "".join(pieces)
    at: dict[str, Any] = {"item_id": "i1", "output_index": 0, "content_index": 0}
    response = {"id": "r", "object": "response", "status": "in_progress", "model": "tiny", "output": []}
    part: dict[str, Any] = {"type": "output_text", "text": text, "annotations": []}
    item: dict[str, Any] = {
        "id": "i1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    whole = "text"
    if kind == "function_call_arguments":
        whole, item = "arguments", {"id": "i1", "type": "function_call", "name": "send", "arguments": text}
    begun = {**item, "arguments": ""} if "arguments" in item else {**item, "content": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        *({"type": f"response.{kind}.delta", **at, "delta": piece} for piece in pieces),
        {"type": f"response.{kind}.done", **at, whole: text},
        {"type": "response.content_part.done", **at, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": {**response, "status": "completed", "output": [item]}},
    ]
    return [data({**event, "sequence_number": number}, event["type"]) for number, event in enumerate(events)]


DONE = b"data: [DONE]\n\n"


def read(stream: bytes) -> list[dict[str, Any]]:
    """The data of each event; every one must be whole."""
    assert not stream or stream.endswith(b"\n\n")
    found = []
    for event in stream.split(b"\n\n")[:-1]:
        line = next(line for line in event.split(b"\n") if line.startswith(b"data:"))
        if line != b"data: [DONE]":
            found.append(json.loads(line[5:].decode("utf-8", "surrogatepass")))
    return found


def texts(events: Sequence[dict[str, Any]]) -> dict[Any, str]:
    """All texts of a stream, as a client joins them."""
    out: dict[Any, str] = defaultdict(str)
    for event in events:
        for choice in event.get("choices", []):
            for where, holder in (("", choice), ("delta", choice.get("delta", {}))):
                for name in ("text", "content", "reasoning_content", "reasoning"):
                    if isinstance(holder.get(name), str):
                        out[choice["index"], where, name] += holder[name]
            for call in choice.get("delta", {}).get("tool_calls", []):
                out[choice["index"], "call", call["index"]] += call["function"].get("arguments", "")
        if event.get("type") == "content_block_delta":
            for name in ("text", "thinking", "partial_json"):
                out[event["index"], name] += event["delta"].get(name, "")
        if str(event.get("type", "")).endswith(".delta") and isinstance(event.get("delta"), str):
            out[event["type"], event["item_id"]] += event["delta"]
    return {key: text for key, text in out.items() if text}
