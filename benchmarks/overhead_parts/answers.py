"""What the canned backend says and how the load generator checks it: bytes only, no sockets.

Both sides build the same bytes from this file, so a gateway that changes, drops or adds one byte of a body is
caught. Shapes and field order follow what vLLM 0.32 sends.
"""

import json
import re
from functools import cache

MODEL = "bench"
DONE = b"data: [DONE]\n\n"
OK = b"HTTP/1.1 200"
LAST_CHUNK = b"0\r\n\r\n"
STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_WORDS = " the engine reads each prompt once and keeps its keys and values for the next one"


def says(text: bytes) -> bool:
    """Whether the canned answer's text is in an answer that a gateway has written anew."""
    return _WORDS.encode() in text


class BadAnswer(Exception):
    """An answer is not what the backend sent. The message says what differs."""


def http_answer(body: bytes, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """One whole HTTP answer with a content length."""
    head = (
        f"HTTP/1.1 {status}\r\nserver: uvicorn\r\ncontent-length: {len(body)}\r\ncontent-type: {content_type}\r\n\r\n"
    )
    return head.encode() + body


def http_chunk(data: bytes) -> bytes:
    """`data` as one chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


SHORT_TOKENS = 40
"""What a short prompt has, the system message included."""
_SHORT_BYTES = 1_000
_TOKEN_BYTES = 4
_TOLD = re.compile(rb'"prompt_tokens":(\d+)')


def prompt_tokens(body_bytes: int) -> int:
    """What the engine reports for a request body of this length, to two digits: gateways that learn from it learn what
    is so, and the backend has few bodies to keep."""
    return SHORT_TOKENS if body_bytes < _SHORT_BYTES else _two_digits(body_bytes // _TOKEN_BYTES)


def _two_digits(number: int) -> int:
    unit: int = 10 ** max(0, len(str(number)) - 2)
    return number // unit * unit


def told_tokens(body: bytes) -> int:
    """What an answer says of its prompt; `SHORT_TOKENS` where the backend would not have said that."""
    found = _TOLD.search(body)
    told = int(found[1]) if found else SHORT_TOKENS
    return told if _two_digits(told) == told else SHORT_TOKENS


@cache
def chat_body(tokens: int = SHORT_TOKENS) -> bytes:
    """The answer to a prompt of so many tokens."""
    message = {"role": "assistant", "content": _WORDS, "refusal": None, "annotations": None, "audio": None}
    message |= {"function_call": None, "reasoning": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length", "stop_reason": None}
    usage: dict[str, object] = {"prompt_tokens": tokens, "total_tokens": tokens + 16, "completion_tokens": 16}
    usage |= {"prompt_tokens_details": {"cached_tokens": 32}, "completion_tokens_details": None}
    answer = {"id": "chatcmpl-99783364f7acc6fb", "object": "chat.completion", "created": 1795326455, "model": MODEL}
    answer |= {"choices": [choice], "service_tier": None, "system_fingerprint": "vllm-0.32.0-2a887ec2"}
    answer |= {"usage": usage, "prompt_logprobs": None, "prompt_token_ids": None, "kv_transfer_params": None}
    return json.dumps(answer, separators=(",", ":")).encode()


CHAT_BODY = chat_body()


def _event(choices: list[dict[str, object]], **more: object) -> bytes:
    event = {"id": "chatcmpl-83784d628c238a9f", "object": "chat.completion.chunk", "created": 1795326452}
    event |= {"model": MODEL, "choices": choices, **more}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def _delta(content: str, token: int | None, finish_reason: str | None = None) -> dict[str, object]:
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": finish_reason}
    return {**choice, "token_ids": None if token is None else [token]}


_ROLE = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


@cache
def stream_events(chunks: int, ids: bool = False, tokens: int = SHORT_TOKENS) -> tuple[tuple[bytes, ...], ...]:
    """The events of a stream by moment, one token each: with the first the role, with the last the finish, usage and
    [DONE]. vLLM tells the role when it has the first token, and that right behind it.

    Events of one moment leave the backend in one write, each as an HTTP chunk of its own, as vLLM's do. `ids`: with
    token ids, as for a request with `return_token_ids`; clients never see those. `tokens`: the prompt's.
    """
    if chunks < 2:
        raise ValueError(f"a stream has at least 2 chunks, not {chunks}")
    words = _WORDS.split()
    role = _event([_ROLE], prompt_token_ids=list(range(1000, 1040)) if ids else None, prompt_text=None)
    first, *middle = (
        _event([_delta(f" {words[i % len(words)]}", 2000 + i if ids else None)]) for i in range(chunks - 1)
    )
    finish = _event([_delta(" end", 2 if ids else None, "length")])
    counts = {"prompt_tokens": tokens, "total_tokens": tokens + chunks, "completion_tokens": chunks}
    usage = _event([], usage=counts | {"prompt_tokens_details": {"cached_tokens": 32}})
    return ((role, first), *((event,) for event in middle), (finish, usage, DONE))


@cache
def stream_writes(chunks: int, ids: bool = False, tokens: int = SHORT_TOKENS) -> tuple[bytes, ...]:
    """What the backend writes at each of the stream's moments, HTTP framing included."""
    writes = [b"".join(map(http_chunk, events)) for events in stream_events(chunks, ids, tokens)]
    return (STREAM_HEAD + writes[0], *writes[1:-1], writes[-1] + LAST_CHUNK)


@cache
def stream_body(chunks: int, tokens: int = SHORT_TOKENS) -> bytes:
    """The stream's body without HTTP framing."""
    return b"".join(event for events in stream_events(chunks, tokens=tokens) for event in events)


def dechunk(framed: bytes) -> bytes:
    """The body inside a complete chunked body.

    Raises BadAnswer when the framing is broken, or when anything follows the last chunk.
    """
    parts: list[bytes] = []
    at = 0
    while True:
        end = framed.find(b"\r\n", at)
        try:
            size = int(framed[at:end].partition(b";")[0], 16)
        except ValueError:
            raise BadAnswer(f"not a chunk size: {framed[at : at + 20]!r}") from None
        at = end + 2 + size
        if framed[at : at + 2] != b"\r\n":
            raise BadAnswer(f"chunk of {size} bytes does not end where it says")
        if size == 0:
            break
        parts.append(framed[end + 2 : at])
        at += 2
    if at + 2 != len(framed):
        raise BadAnswer("bytes follow the last chunk")
    return b"".join(parts)
