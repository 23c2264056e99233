"""One request, the answer that it must get, and a client that keeps everything it saw.

Floor: tests only. The simulated engine's answer follows from the prompt alone, so the right text is known beforehand.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from benchmarks.engine.text import END, Reply, encode, render_chat, token_text
from tests.router.stack import unchunk

CLIENT_SECONDS = 90.0
"""A request that has not ended by then never will: every limit of the gateway's chaos configuration is far below."""
READ_BYTES = 65536
REPLY_TOKENS = 64
PATHS = {"chat": "/v1/chat/completions", "completions": "/v1/completions"}
WORDS = ("river", "stone", "cloud", "lamp", "field", "harbor", "winter", "paper", "signal", "garden")


@dataclass(frozen=True)
class Expected:
    """The whole answer: its text, why it ends, and the tokens that usage must show."""

    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Ask:
    """What a client asks. `usage`: in a stream, for usage too. `max_tokens` None: until the answer ends by itself.
    `salt`: for who asks an engine itself, as the gateway would; `id`: the request's name, where it is to have one."""

    tenant: str
    api: str
    stream: bool
    usage: bool
    prompt: str
    max_tokens: int | None
    model: str
    engine_model: str
    salt: str = ""
    id: str = ""

    @property
    def body(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"model": self.model, "stream": self.stream, "temperature": 0}
        if self.api == "chat":
            fields["messages"] = self.messages
        else:
            fields["prompt"] = self.prompt
        if self.max_tokens is not None:
            fields["max_tokens"] = self.max_tokens
        if self.usage:
            fields["stream_options"] = {"include_usage": True}
        if self.salt:
            fields["cache_salt"] = self.salt
        return fields

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.prompt}]

    @property
    def prompt_ids(self) -> list[int]:
        return list(encode(render_chat(self.messages) if self.api == "chat" else self.prompt))

    @cached_property
    def expected(self) -> Expected:
        """As `benchmarks.engine` answers with `reply_tokens` = REPLY_TOKENS and seed 0."""
        prompt = self.prompt_ids
        ends_after = REPLY_TOKENS if self.api == "chat" else None
        reply = Reply(f"{self.engine_model} 0", prompt, ends_after=ends_after)
        most = self.max_tokens if self.max_tokens is not None else REPLY_TOKENS
        ids: list[int] = []
        while len(ids) < most and (not ids or ids[-1] != END):
            ids.append(reply.next())
        finish = "stop" if ids[-1] == END else "length"
        return Expected("".join(map(token_text, ids)), finish, len(prompt), len(ids))


def draw_ask(draw: random.Random, tenant: str, model: str, engine_model: str, *, long_tokens: int = 2500) -> Ask:
    """One of a steady mix: streams and whole answers, chats and completions, mostly short, a few long."""
    api = "completions" if draw.random() < 0.25 else "chat"
    stream = draw.random() < 0.65
    words = draw.choices(WORDS, k=long_tokens if draw.random() < 0.08 else draw.choice((4, 20, 120)))
    # Completions have no end of their own: without a bound they would get 16 tokens, as vLLM gives them.
    most = draw.choice((3, 12, 40, 40, None if api == "chat" else 40))
    usage = stream and draw.random() < 0.5
    return Ask(tenant, api, stream, usage, f"{draw.random():.12f} " + " ".join(words), most, model, engine_model)


@dataclass
class Seen:
    """What the client saw. Times are the loop's seconds. `broken`: why the connection ended before its answer did."""

    ask: Ask
    sent_at: float
    ended_at: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    pieces: list[tuple[float, int]] = field(default_factory=list)  # when, and how many bytes
    broken: str = ""

    @property
    def endpoint(self) -> str:
        return self.headers.get("x-promptlane-endpoint", "-")

    @property
    def longest_gap(self) -> float:
        """Seconds between two pieces of the answer, at most; 0 for one in a single piece."""
        times = [at for at, _ in self.pieces]
        return max((after - before for before, after in pairwise(times)), default=0.0)


class AskClient:
    """Sends requests to one gateway, each on a connection of its own: what is left open shows as the gateway's leak."""

    def __init__(self, url: str, key: Callable[[str], str]) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._key = key

    async def send(
        self,
        ask: Ask,
        seconds: float = CLIENT_SECONDS,
        most: float = float("inf"),
        heard: Callable[[Ask, int], None] = lambda ask, length: None,
    ) -> Seen:
        """`seconds`: after so many the client leaves; `most`: and so it does once it has so many bytes. `heard` is told
        of each piece how many there are by now."""
        loop = asyncio.get_running_loop()
        seen = Seen(ask, loop.time())
        raw = bytearray()
        try:
            async with asyncio.timeout(seconds):
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(self._request(ask))
                    while len(raw) < most and (data := await reader.read(READ_BYTES)):
                        seen.pieces.append((loop.time(), len(data)))
                        raw += data
                        heard(ask, len(raw))
                finally:
                    writer.transport.abort()
        except TimeoutError:
            seen.broken = f"no end within {seconds:.0f} s"
        except OSError as error:
            seen.broken = f"connection failed: {error}"
        seen.ended_at = loop.time()
        _read(seen, bytes(raw))
        return seen

    def _request(self, ask: Ask) -> bytes:
        body = json.dumps(ask.body).encode()
        head = (
            f"POST {PATHS[ask.api]} HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {self._key(ask.tenant)}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n"
            + (f"x-request-id: {ask.id}\r\n\r\n" if ask.id else "\r\n")
        )
        return head.encode() + body


def _read(seen: Seen, raw: bytes) -> None:
    """Status, headers and body of what came; `broken` when it is not whole."""
    head, found, body = raw.partition(b"\r\n\r\n")
    if not found:
        seen.broken = seen.broken or "the connection ended without an answer"
        return
    lines = head.decode("latin-1").split("\r\n")
    seen.status = int(lines[0].split()[1])
    pairs = (line.partition(":") for line in lines[1:])
    seen.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    seen.body = body
    if seen.headers.get("transfer-encoding") == "chunked":
        seen.body, whole = _unchunked(body)
    else:
        whole = len(body) == int(seen.headers.get("content-length", -1))
    if not whole:
        seen.broken = seen.broken or "the connection ended within the answer"


def _unchunked(body: bytes) -> tuple[bytes, bool]:
    """The payload as far as it came, and whether its end came."""
    try:
        return unchunk(body), True
    except ValueError:
        out = b""
        while body:
            size, found, rest = body.partition(b"\r\n")
            if not found:
                break
            out += rest[: int(size, 16)]
            body = rest[int(size, 16) + 2 :]
        return out, False
