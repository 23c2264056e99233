"""Request bodies that the suite sends, and the reading of streamed answers.

Floor: tests only.
"""

from __future__ import annotations

import json
import uuid
from typing import Any

from tests.e2e.stack import ALIAS

LONG_OUTPUT_TOKENS = 6000
"""More than either engine generates in the time a test watches (10 s and more), less than the real one's 8,192."""

MESSAGE: dict[str, Any] = {"model": ALIAS, "max_tokens": 8, "messages": [{"role": "user", "content": "Say something."}]}
RESPONSE: dict[str, Any] = {"model": ALIAS, "max_output_tokens": 8, "input": "Say something."}


def chat(model: str = ALIAS, text: str = "Say something.", **fields: Any) -> dict[str, Any]:
    """A short greedy chat: the same engine answers it with the same words."""
    messages = [{"role": "user", "content": text}]
    return {"model": model, "messages": messages, "max_tokens": 8, "temperature": 0, **fields}


def completion(model: str = ALIAS, prompt: str = "Once upon a time", **fields: Any) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, **fields}


def tool_conversation(model: str = ALIAS, **fields: Any) -> dict[str, Any]:
    """A conversation that has been through a tool. The tiny model cannot choose tools itself, so none may be chosen."""
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    messages = [
        {"role": "user", "content": "What is the weather in Oslo?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "4 degrees, rain"},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    body = {"messages": messages, "tools": tools, "tool_choice": "none", "max_tokens": 8, "temperature": 0}
    return {"model": model, **body, **fields}


def long_prompt() -> str:
    """Some 700 tokens that no engine has seen: unlike any other from the first words on."""
    return f"Session {uuid.uuid4().hex}. " + "The quick brown fox jumps over the lazy dog while it rains. " * 50


def events(stream: bytes) -> list[dict[str, Any]]:
    """The JSON of each `data:` line; the closing `[DONE]` is checked and left out."""
    lines = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line.startswith(b"data: ")]
    assert lines, "no event in the stream"
    assert lines[-1] == b"[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def as_if_not_asked(stream: bytes) -> bytes:
    """A stream with usage as the engine sends it to a client that did not ask: no usage chunk, and the fingerprint in
    the chunks that finish a choice. By a JSON parser's account of each event, as the gateway looks at bytes."""
    found = [(event, _chunk(event)) for event in stream.split(b"\n\n")[:-1]]
    (usage,) = [chunk for _, chunk in found if chunk.get("choices") == []]
    stamp = b',"system_fingerprint":"%b"}' % usage["system_fingerprint"].encode()
    kept = [event[:-1] + stamp if _finishes(chunk) else event for event, chunk in found if chunk is not usage]
    return b"".join(event + b"\n\n" for event in kept)


def _chunk(event: bytes) -> dict[str, Any]:
    return json.loads(event.removeprefix(b"data: ")) if event.startswith(b"data: {") else {}


def _finishes(chunk: dict[str, Any]) -> bool:
    return any(choice["finish_reason"] is not None for choice in chunk.get("choices", []))
