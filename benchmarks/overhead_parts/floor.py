"""The least that a gateway in Python can do: `python -m benchmarks.overhead_parts.floor --port N URL [URL …]`.

The loop and the parsers that Promptlane has, and nothing else: a request is parsed, its body goes to the next engine on
a kept connection, and what comes back goes to the client as it is, while a parser looks for its end. No task, no
coroutine, no JSON, no error is handled: what it costs is the kernel, uvloop and llhttp, and their calls of Python.
"""

import argparse
import asyncio
import gc
from collections import deque
from itertools import cycle
from typing import cast
from urllib.parse import urlsplit

import httptools
import uvloop


class Engine:
    """One engine, and the connections to it that are free."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = str(parts.hostname), int(parts.port or 80)
        self.free: deque[Back] = deque()
        head = f"host: {self.host}:{self.port}\r\ncontent-type: application/json\r\n"
        self.head = f"POST /v1/chat/completions HTTP/1.1\r\n{head}content-length: ".encode()

    def ask(self, front: "Front", body: bytes) -> None:
        request = b"%b%d\r\n\r\n%b" % (self.head, len(body), body)
        if self.free:
            self.free.pop().ask(front, request)
        else:
            connecting = asyncio.get_running_loop().create_connection(
                lambda: Back(self, front, request), self.host, self.port
            )
            front.connecting = asyncio.ensure_future(connecting)


class Back(asyncio.Protocol):
    """A connection to an engine."""

    def __init__(self, engine: Engine, front: "Front", request: bytes) -> None:
        self._engine, self._front, self._request = engine, front, request

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.ask(self._front, self._request)

    def ask(self, front: "Front", request: bytes) -> None:
        self._front = front
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        self._front.transport.write(data)
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._engine.free.append(self)


class Front(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, engines: "cycle[Engine]") -> None:
        self._engines = engines
        self.connecting: asyncio.Task[tuple[asyncio.Transport, Back]] | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers, self._body = [], b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body = self._body + body if self._body else body

    def on_message_complete(self) -> None:
        next(self._engines).ask(self, self._body)


async def _serve(port: int, urls: list[str]) -> None:
    engines = cycle([Engine(url) for url in urls])
    server = await asyncio.get_running_loop().create_server(lambda: Front(engines), "127.0.0.1", port)
    gc.collect()
    gc.freeze()
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead_parts.floor", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("url", nargs="+", help="of an engine, http://host:port")
    options = parser.parse_args()
    uvloop.run(_serve(options.port, options.url))


if __name__ == "__main__":
    main()
