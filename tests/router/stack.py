"""A gateway and recording engines on real sockets, in a thread of their own, for tests that speak raw HTTP."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from router.app import App
from router.assembly import build
from router.config import loads
from router.counting import TokenCounter
from router.learned_metrics import LearnedCollector
from router.metrics import Metrics
from router.process import Process
from router.server import guarded_protocol, listener, open_socket

SECRET = b"a secret for tests, 32 characters"
ANSWER = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"tiny","choices":[{"index":0,"message":'
    b'{"role":"assistant","content":"hi"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":10,'
    b'"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":4}}}'
)
COUNTER = TokenCounter()  # loading the vocabulary takes most of a second: once is enough


def whole(body: bytes, status: bytes = b"200 OK", kind: bytes = b"application/json") -> bytes:
    """A complete HTTP response."""
    head = b"HTTP/1.1 %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n\r\n" % (status, kind, len(body))
    return head + body


class RecordingEngine:
    """An engine that remembers every byte of every inference request and answers what it is told to.

    `reply(request_bytes, writer)` may be replaced; the default answers `ANSWER`. `client_left` is set when a client
    closes its connection while it is being answered by `silent`.
    """

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.began, self.client_left = asyncio.Event(), asyncio.Event()
        self._readers: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}
        self.reply: Callable[[bytes, asyncio.StreamWriter], Any] = self.answer
        self.models = b'{"object":"list","data":[{"id":"tiny","max_model_len":4096}]}'
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Closes the listener and every connection, whatever is being answered on it."""
        if self._server is not None:
            self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def answer(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(whole(ANSWER))

    async def silent(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        """Answers nothing, until the client gives up."""
        self.began.set()
        if await self._readers[writer].read(1) == b"":
            self.client_left.set()
            raise ConnectionResetError

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._readers[writer] = reader
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    await self._one(reader, writer)
        finally:
            self._tasks.discard(task)
            del self._readers[writer]
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(h[15:]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:")), 0)
        request = head + await reader.readexactly(length)
        if head.startswith(b"GET /health"):
            writer.write(whole(b""))
        elif head.startswith(b"GET /metrics"):
            writer.write(whole(b'vllm:cache_config_info{block_size="16",num_gpu_blocks="1000"} 1.0\n'))
        elif head.startswith(b"GET /v1/models"):
            writer.write(whole(self.models))
        elif head.startswith(b"GET /is_"):  # only in development mode
            writer.write(whole(b'{"detail":"Not Found"}', b"404 Not Found"))
        else:
            self.received.append(request)
            await self.reply(request, writer)
        await writer.drain()


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


class Stack:
    """Engines and a gateway built from a configuration; `config` may say `ENGINE:<name>` for an engine's URL. `ledger`:
    takes records, where there is one; `access`: takes lines of the access log; `tracing`: spans."""

    def __init__(
        self,
        config: dict[str, Any],
        engines: list[str],
        *,
        wait: bool = True,
        ledger: Any = None,
        access: Any = None,
        tracing: Any = None,
    ) -> None:
        self._wait = wait
        self._ledger = ledger
        self._access = access
        self._tracing = tracing
        self.engines = {name: RecordingEngine() for name in engines}
        self._config = config
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> Stack:
        self._thread.start()
        self.run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def run(self, work: Any) -> Any:
        """Runs a coroutine on the stack's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(20)

    def configure(self, config: dict[str, Any]) -> Any:
        """The parsed configuration with the engines' addresses filled in."""
        text = yaml.safe_dump(config)
        for name, engine in self.engines.items():
            text = text.replace(f"ENGINE:{name}", f"http://127.0.0.1:{engine.port}")
        return loads(text.encode(), {"PROMPTLANE_SECRET": SECRET.decode()})

    async def _start(self) -> None:
        for engine in self.engines.values():
            await engine.start()
        config = self.configure(self._config)
        self.process = Process(
            SECRET, COUNTER, Metrics(), ledger=self._ledger, access=self._access, tracing=self._tracing
        )
        self.app = App(build(config, self.process))
        self.process.metrics.watch_pools(lambda: self.app.runtime.pools.values())
        learned = LearnedCollector(lambda: self.app.runtime.gateway.models, self.process.lengths)
        self.process.metrics.registry.register(learned)
        self.app.runtime.start()
        listening = open_socket("127.0.0.1", 0)
        self.port = listening.getsockname()[1]
        server = config.server
        self._listener = listener(
            self.app,
            http=guarded_protocol(server.header_timeout, server.max_header_bytes),
            timeout_keep_alive=server.keep_alive_timeout,
            timeout_graceful_shutdown=1,
        )
        self._serving = asyncio.create_task(self._listener.serve([listening]))
        await self._listener.listening.wait()
        if self._wait:
            await self.all_available()

    async def all_available(self) -> None:
        """Waits until the probes have found every endpoint well."""
        async with asyncio.timeout(60):
            for pool in self.app.runtime.pools.values():
                for place in pool.places:
                    while not place.available(pool.clock()):  # noqa: ASYNC110  # probes have no event to wait for
                        await asyncio.sleep(0.005)

    async def _stop(self) -> None:
        self._listener.should_exit = True
        await self._serving
        await self.app.runtime.stop()
        for engine in self.engines.values():
            await engine.stop()
        await asyncio.sleep(0.01)  # transports close in the loop's next turns

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)

    def send(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        """Sends raw bytes on a new connection: status, headers (lower-case) and body of the answer."""
        with self.connect() as sock:
            sock.sendall(request)
            return read_answer(sock)

    def post(
        self, path: str, body: Any, *, key: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """A POST; the answer's body parsed if it is JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        fields = {"host": "gateway", "content-length": str(len(data)), "connection": "close"}
        if key is not None:
            fields["authorization"] = f"Bearer {key}"
        fields |= headers or {}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        status, found, answer = self.send(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + data)
        with contextlib.suppress(ValueError):
            return status, found, json.loads(answer)
        return status, found, answer

    def get(self, path: str, *, key: str | None = None, method: str = "GET", host: str = "gateway") -> Any:
        auth = f"authorization: Bearer {key}\r\n" if key is not None else ""
        request = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{auth}connection: close\r\n\r\n"
        status, headers, body = self.send(request.encode())
        with contextlib.suppress(ValueError):
            return status, headers, json.loads(body)
        return status, headers, body


def read_answer(sock: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Reads one answer to the end of the connection, or of its declared length."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            return 0, {}, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    length = int(headers["content-length"]) if "content-length" in headers else None
    while length is None or len(body) < length:
        piece = sock.recv(65536)
        if not piece:
            break
        body += piece
    if headers.get("transfer-encoding") == "chunked":
        body = unchunk(body)
    return int(lines[0].split()[1]), headers, body


def unchunk(data: bytes) -> bytes:
    """The payload of a chunked body; raises ValueError when its end is missing."""
    out = b""
    while True:
        size, _, rest = data.partition(b"\r\n")
        if not size:
            raise ValueError("the chunked body has no end")
        if int(size, 16) == 0:
            return out
        out += rest[: int(size, 16)]
        data = rest[int(size, 16) + 2 :]


def two_tenants(**server: Any) -> dict[str, Any]:
    """acme (two engines, an alias and a plain name) and globex (one engine), probed often."""
    health = {"interval": 0.2, "scrape_interval": 0.2}
    return {
        "server": {"base_domain": "llm.test", "port": 0, "admin_port": 0, **server},
        "tenants": {
            "acme": {
                "tier": "platinum",
                "hosts": ["llm.acme.example"],
                "api_keys": [
                    {"id": "main", "sha256": sha256("acme-key")},
                    {"id": "old", "sha256": sha256("acme-old"), "expires": "2020-01-01"},
                    {"id": "scoped", "sha256": sha256("acme-scoped"), "models": ["tiny"], "apis": ["chat", "models"]},
                ],
                "models": {"qwen2-7b": {"pool": "acme", "engine_model": "tiny"}, "tiny": {"pool": "acme"}},
            },
            "globex": {
                "api_keys": [{"id": "app", "sha256": sha256("globex-key")}],
                "models": {"qwen2-7b": {"pool": "globex", "engine_model": "tiny"}, "secret-model": {"pool": "globex"}},
            },
            "open": {"anonymous": True, "models": {"free": {"pool": "open", "engine_model": "tiny"}}},
        },
        "pools": {
            name: {"endpoints": [{"name": e, "url": f"ENGINE:{e}"} for e in names], "health": health}
            for name, names in {"acme": ("acme-0", "acme-1"), "globex": ("globex-0",), "open": ("open-0",)}.items()
        },
    }


ENGINES = ["acme-0", "acme-1", "globex-0", "open-0"]


def chat(model: str = "tiny", content: str = "hello", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": content}], **fields}


@contextlib.contextmanager
def running(
    config: dict[str, Any] | None = None,
    engines: list[str] | None = None,
    *,
    wait: bool = True,
    ledger: Any = None,
    access: Any = None,
    tracing: Any = None,
) -> Iterator[Stack]:
    with Stack(
        config or two_tenants(), engines or ENGINES, wait=wait, ledger=ledger, access=access, tracing=tracing
    ) as stack:
        yield stack
