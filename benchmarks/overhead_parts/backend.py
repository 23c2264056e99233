"""A canned engine: `python -m benchmarks.overhead_parts.backend [--port N] [--gap-ms F]`.

It prints its port as one line of JSON and serves until it is killed. It looks at the request line, at `"stream"` and
at the token limit, and parses nothing more: its cost must not hide a gateway's. What the routers ask engines before
and beside chat is answered as vLLM 0.32 does with its default options.
"""

import argparse
import asyncio
import gc
import json
import re
from collections.abc import Callable, Iterator
from typing import cast

import uvloop

from benchmarks.overhead_parts.answers import (
    CHAT_BODY,
    MODEL,
    SHORT_TOKENS,
    chat_body,
    http_answer,
    prompt_tokens,
    stream_writes,
)
from benchmarks.overhead_parts.readers import RequestReader

_STREAM = re.compile(rb'"stream"\s*:\s*true')
_ASKS_IDS = re.compile(rb'"return_token_ids"\s*:\s*true')
_TOKENS = re.compile(rb'"max_(?:completion_)?tokens"\s*:\s*(\d+)')  # sglang-router renames the field
_MAX_MODEL_LEN = 131_072
_DEFAULT_CHUNKS = 64
_FIRST_S = 0.010  # an engine's first token; a late one would teach gateways that its prefills are slow

_METRICS = f"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="{MODEL}"}} 0.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{engine="0",model_name="{MODEL}"}} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{engine="0",model_name="{MODEL}"}} 0.0
# TYPE vllm:cache_config_info gauge
vllm:cache_config_info{{block_size="16",cache_dtype="auto",enable_prefix_caching="True",engine="0",\
num_gpu_blocks="65536"}} 1.0
"""


def _json(value: object, status: str = "200 OK") -> bytes:
    return http_answer(json.dumps(value, separators=(",", ":")).encode(), status)


_MODEL_CARD = {"id": MODEL, "object": "model", "created": 1795324715, "owned_by": "vllm", "root": MODEL, "parent": None}
_INFO = _json({"model_path": MODEL, "served_model_name": MODEL, "max_model_len": _MAX_MODEL_LEN, "version": "0.32.0"})
_NOT_FOUND = _json({"detail": "Not Found"}, "404 Not Found")
_NO_RENDER = _json(
    {"error": {"message": "Scale-out endpoints are disabled.", "type": "PermissionDeniedError", "code": 403}},
    "403 Forbidden",
)
_CHAT = http_answer(CHAT_BODY)
_PAGES = {
    b"GET /health": http_answer(b""),
    b"GET /ping": http_answer(b""),
    b"GET /version": _json({"version": "0.32.0"}),
    b"GET /v1/models": _json({"object": "list", "data": [_MODEL_CARD | {"max_model_len": _MAX_MODEL_LEN}]}),
    b"GET /metrics": http_answer(_METRICS.encode(), content_type="text/plain; version=0.0.4; charset=utf-8"),
    **dict.fromkeys((b"GET /server_info", b"GET /get_server_info", b"GET /model_info", b"GET /get_model_info"), _INFO),
    b"POST /v1/chat/completions/render": _NO_RENDER,
    b"POST /v1/traces": http_answer(
        b"", content_type="application/x-protobuf"
    ),  # a collector takes spans and is silent
}


def answer(line: bytes, body: bytes) -> bytes | int:
    """The whole answer to one request, or the number of chunks to stream."""
    target = line[: line.rfind(b" ")]
    if target == b"POST /v1/chat/completions":
        if not _STREAM.search(body):
            tokens = prompt_tokens(len(body))
            return _CHAT if tokens == SHORT_TOKENS else http_answer(chat_body(tokens))
        limit = _TOKENS.search(body)
        return int(limit[1]) if limit else _DEFAULT_CHUNKS
    return _PAGES.get(target.partition(b"?")[0], _NOT_FOUND)


def _writes(chunks: int, body: bytes) -> tuple[bytes, ...]:
    """The stream that answers a request body."""
    tokens, ids = prompt_tokens(len(body)), _ASKS_IDS.search(body) is not None
    return stream_writes(chunks, ids, tokens) if ids or tokens != SHORT_TOKENS else stream_writes(chunks)


class Connection(asyncio.Protocol):
    """One gateway connection: one request at a time, streams on the clock of the event loop."""

    def __init__(self, gap_s: float) -> None:
        self._gap_s = gap_s
        self._reader = RequestReader()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports are not its subclasses
        self._call_at: Callable[..., asyncio.TimerHandle] = asyncio.get_running_loop().call_at

    def data_received(self, data: bytes) -> None:
        for line, body in self._reader.feed(data):
            reply = answer(line, body)
            if isinstance(reply, bytes):
                self._transport.write(reply)
            else:
                first = asyncio.get_running_loop().time() + min(self._gap_s, _FIRST_S)
                self._write_at(first, iter(_writes(reply, body)))

    def _write_at(self, moment: float, writes: Iterator[bytes]) -> None:
        self._timer = self._call_at(moment, self._write_next, moment, writes)

    def _write_next(self, moment: float, writes: Iterator[bytes]) -> None:
        """Writes one moment of a stream. The next is due a gap after this one was due, so that delays do not add up."""
        data = next(writes, None)
        if data is not None:
            self._transport.write(data)
            self._write_at(moment + self._gap_s, writes)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()


async def serve(port: int, gap_s: float) -> None:
    """Listens on a port of the loopback (0: a free one), prints it and serves until cancelled."""
    server = await asyncio.get_running_loop().create_server(lambda: Connection(gap_s), "127.0.0.1", port, backlog=4096)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    gc.freeze()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--gap-ms", type=float, default=10.0, help="time between the chunks of a stream (default 10)")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(arguments.port, arguments.gap_ms / 1000))


if __name__ == "__main__":
    main()
