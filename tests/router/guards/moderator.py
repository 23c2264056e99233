"""A service in the shape of OpenAI's moderations, on a real socket, that also hangs, dies and talks nonsense."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Moderator:
    """`mood`: `well`, `silent`, `dead`, `broken`, `nonsense`, `few`, `endless` or `html`. `asked`: bodies and keys."""

    def __init__(self) -> None:
        self.mood = "well"
        self.asked: list[tuple[dict[str, Any], str]] = []
        self.over = threading.Event()
        self.url = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        self.asked.append((body, handler.headers.get("authorization", "")))
        results = [
            {"flagged": "hate" in text, "categories": {"hate": "hate" in text, "violence": "fight" in text}}
            for text in body["input"]
        ]
        if self.mood == "dead":
            handler.connection.close()
        elif self.mood == "silent":
            self.over.wait(30)
        elif self.mood == "endless":
            self._head(handler, 200, None)
            while not self.over.is_set():
                handler.wfile.write(b" " * 65536)
                time.sleep(0)
        else:
            said = {
                "broken": b"{}",
                "nonsense": b'{"results": [{"flagged": "perhaps"}]}',
                "few": b'{"results": []}',
                "html": b"<html>",
            }.get(self.mood, json.dumps({"id": "m", "model": "o", "results": results}).encode())
            self._head(handler, 500 if self.mood == "broken" else 200, len(said))
            handler.wfile.write(said)

    def _head(self, handler: BaseHTTPRequestHandler, status: int, length: int | None) -> None:
        handler.send_response(status)
        if length is not None:
            handler.send_header("content-length", str(length))
        handler.end_headers()


@contextmanager
def running_moderator() -> Iterator[Moderator]:
    moderator = Moderator()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with suppress(OSError):
                moderator.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    moderator.url = f"http://127.0.0.1:{server.server_address[1]}/v1/moderations"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield moderator
    finally:
        moderator.over.set()
        server.shutdown()
        thread.join()
        server.server_close()
