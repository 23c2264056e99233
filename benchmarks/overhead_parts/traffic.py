"""The requests of a run: which bodies, over how many connections, streamed or not.

Every gateway gets the same bytes. Prompts differ from each other after a shared system message, as a tenant's do, so
that prefix trees and indexes have real work.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import cycle

from benchmarks.overhead_parts.answers import MODEL

_SYSTEM = "You are a helpful assistant. Answer in one short sentence."
_ANSWER_TOKENS = 16
_BODIES = 256  # distinct prompts per scenario: more than the connections, few enough to be built in a moment
_LEAST_BODIES = 16
_BODIES_BYTES = 32 * 1024 * 1024  # of them together, where prompts are long
_ALPHABET = "abcdefghijklmnopqrstuvwxyz     "
_POOL_CHARS = 4 * 1024 * 1024  # random text that long prompts are cut from: drawing each anew would take minutes
_DRAWN_CHARS = 512  # a prompt up to this long is drawn for itself
_CONVERSATIONS = 32  # under way at once, as many as connections
_LAST_TURNS = 8  # of a conversation that are asked: the first of them meets a gateway that knows nothing of it


@dataclass(frozen=True)
class Scenario:
    """One shape of traffic. `prompt_chars` is the user message's length."""

    connections: int
    prompt_chars: int = 100
    chunks: int = 0
    """Chunks per stream; 0: not streamed."""
    turns: int = 0
    """Of conversations that grow to `prompt_chars`, of which the last few are asked; 0: prompts that share nothing
    but the system message."""


REQUESTS = Scenario(connections=32)
STREAMS = Scenario(connections=64, chunks=64)
LATENCY = Scenario(connections=1)


def bodies(scenario: Scenario, seed: int = 1) -> list[bytes]:
    """JSON bodies of the scenario's requests, the same ones for the same seed."""
    rng = random.Random(seed)
    count = max(_LEAST_BODIES, min(_BODIES, _BODIES_BYTES // scenario.prompt_chars))
    return [_body(scenario, [_text(rng, scenario.prompt_chars)]) for _ in range(count)]


def _text(rng: random.Random, chars: int) -> str:
    if chars <= _DRAWN_CHARS:
        return "".join(rng.choices(_ALPHABET, k=chars))
    start = rng.randrange(max(1, _POOL_CHARS - chars))
    return _pool()[start : start + chars]


@cache
def _pool() -> str:
    return random.Random(0).randbytes(_POOL_CHARS).translate((_ALPHABET * 9).encode()[:256]).decode()


def _body(scenario: Scenario, texts: Sequence[str]) -> bytes:
    """`texts`: of user and assistant in turns, from the user's first to the user's last."""
    messages = [{"role": "system", "content": _SYSTEM}]
    messages += [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    body: dict[str, object] = {"model": MODEL, "messages": messages, "temperature": 0}
    body["max_tokens"] = scenario.chunks or _ANSWER_TOKENS  # the backend sends as many chunks as tokens are asked for
    if scenario.chunks:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def requests(scenario: Scenario, host: str, headers: dict[str, str]) -> list[bytes]:
    """Whole HTTP requests, ready to be written."""
    head = _head(host, headers)
    return [_request(head, body) for body in bodies(scenario)]


def _head(host: str, headers: dict[str, str]) -> str:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{more}"


def _request(head: str, body: bytes) -> bytes:
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


def endless(scenario: Scenario, host: str, headers: Sequence[dict[str, str]]) -> Iterator[bytes]:
    """The same without end, with each of the `headers` in turns."""
    if scenario.turns:
        return _conversations(scenario, _head(host, headers[0]))
    heads = cycle([_head(host, one) for one in headers])
    texts = bodies(scenario)
    if len(headers) == 1:
        return cycle([_request(next(heads), body) for body in texts])
    return (_request(next(heads), body) for body in cycle(texts))


def _conversations(scenario: Scenario, head: str, seed: int = 1) -> Iterator[bytes]:
    """Conversations under way in turns; each grows by an answer and a question until it is as long as it gets, then
    another takes its place."""
    rng = random.Random(seed)
    first = max(0, scenario.turns - _LAST_TURNS)
    while True:
        under_way = [_texts(scenario, rng) for _ in range(_CONVERSATIONS)]
        for turn in range(first, scenario.turns):
            for texts in under_way:
                yield _request(head, _body(scenario, texts[: 2 * turn + 1]))


def _texts(scenario: Scenario, rng: random.Random) -> list[str]:
    """Of one conversation, all of the same length."""
    pieces = 2 * scenario.turns - 1
    return [_text(rng, scenario.prompt_chars // pieces) for _ in range(pieces)]
