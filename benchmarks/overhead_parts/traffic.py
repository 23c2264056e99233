"""The requests of a run: which bodies, over how many connections, streamed or not.

Every gateway gets the same bytes. Prompts differ from each other after a shared system message, as a tenant's do, so
that prefix trees and indexes have real work.
"""

import json
import random
from dataclasses import dataclass

from benchmarks.overhead_parts.answers import MODEL

_SYSTEM = "You are a helpful assistant. Answer in one short sentence."
_ANSWER_TOKENS = 16
_BODIES = 256  # distinct prompts per scenario: more than the connections, few enough to be built in a moment


@dataclass(frozen=True)
class Scenario:
    """One shape of traffic. `prompt_chars` is the user message's length."""

    connections: int
    prompt_chars: int = 100
    chunks: int = 0
    """Chunks per stream; 0: not streamed."""


REQUESTS = Scenario(connections=32)
STREAMS = Scenario(connections=64, chunks=64)
LATENCY = Scenario(connections=1)


def bodies(scenario: Scenario, seed: int = 1) -> list[bytes]:
    """JSON bodies of the scenario's requests, the same ones for the same seed."""
    rng = random.Random(seed)
    return [_body(scenario, rng) for _ in range(_BODIES)]


def _body(scenario: Scenario, rng: random.Random) -> bytes:
    text = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz     ", k=scenario.prompt_chars))
    messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}]
    body: dict[str, object] = {"model": MODEL, "messages": messages, "temperature": 0}
    body["max_tokens"] = scenario.chunks or _ANSWER_TOKENS  # the backend sends as many chunks as tokens are asked for
    if scenario.chunks:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def requests(scenario: Scenario, host: str, headers: dict[str, str]) -> list[bytes]:
    """Whole HTTP requests, ready to be written."""
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{more}"
    return [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in bodies(scenario)]
