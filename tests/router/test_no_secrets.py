"""Nothing that a run writes holds a prompt, an answer or a key: everything is looked through, byte by byte."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from router.secret import cache_salt
from tests.router.collector import collecting
from tests.router.gateway_process import SECRET, Engines, Gateway, configuration, request
from tests.router.stack import read_answer, whole

MARK = "zyxmarkerzyx"
"""In all that is a client's or an engine's text: prompts, answers, names, wrong keys, headers."""
FORBIDDEN, MAIL = "zwordz forbiddenzyx", "zyxmailzyx@example.org"
"""What rules of the tenant find."""
WATCHED = "zyxwatchedzyx"
CALL = {"id": MARK, "type": "function", "function": {"name": MARK, "arguments": json.dumps({MARK: MARK})}}
KEYS = ("acme-key", f"pl-{MARK}-wrong", SECRET)
ASK = {"model": "qwen", "messages": [{"role": "user", "content": f"prompt {MARK} " * 40}]}
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    made = Engines("e0")
    yield made
    made.stop()


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


async def answers(_: bytes, writer: asyncio.StreamWriter) -> None:
    message = {"role": "assistant", "content": f"said {MARK} {WATCHED}", "tool_calls": [CALL]}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 90, "completion_tokens": 3, "total_tokens": 93}
    writer.write(whole(json.dumps({"id": "x", "model": "tiny", "choices": [choice], "usage": usage}).encode()))


async def streams(_: bytes, writer: asyncio.StreamWriter) -> None:
    event = {"id": "x", "model": "tiny", "choices": [{"index": 0, "delta": {"content": MARK}, "finish_reason": "stop"}]}
    writer.write(STREAM + chunked(b"data: %b\n\n" % json.dumps(event).encode(), b"data: [DONE]\n\n") + b"0\r\n\r\n")


async def breaks(_: bytes, writer: asyncio.StreamWriter) -> None:
    event = {"id": "x", "model": "tiny", "choices": [{"index": 0, "delta": {"content": MARK}, "finish_reason": None}]}
    writer.write(STREAM + chunked(b"data: %b\n\n" % json.dumps(event).encode()))
    await writer.drain()
    writer.transport.abort()


async def fails(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(b'{"error":{"message":"%b"}}' % MARK.encode(), b"500 Internal Server Error"))


async def objects(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(whole(b'{"error":{"message":"%b"}}' % MARK.encode(), b"400 Bad Request"))


async def talks_nonsense(_: bytes, writer: asyncio.StreamWriter) -> None:
    writer.write(f"{MARK} is no HTTP\r\n\r\n".encode())


def ask(gateway: Gateway, raw: bytes) -> int:
    """The status of the answer; 0 without one."""
    with gateway.connect() as sock:
        sock.sendall(raw)
        return read_answer(sock)[0]


def traffic(gateway: Gateway, engines: Engines) -> list[int]:
    """Requests of every kind and end; their statuses."""
    found: list[int] = []
    stream: dict[str, Any] = {**ASK, "stream": True}
    kinds = [(answers, ASK), (streams, stream), (breaks, stream), (fails, ASK), (objects, ASK), (talks_nonsense, ASK)]
    for reply, body in kinds:
        engines["e0"].reply = reply
        found.append(ask(gateway, request(body, connection="close")))
        gateway.wait_healthy("e0")
    engines["e0"].reply = answers
    text = json.dumps(ASK).encode()
    bodies = (
        text[:-3],  # cut off
        b'{"model":"qwen","messages":"%b"}' % MARK.encode(),
        b'{"model":"%b","messages":[]}' % MARK.encode(),
        b'{"model":"qwen","messages":[],"max_tokens":"%b"}' % MARK.encode(),
        b"\xff\xfe" + MARK.encode(),
        json.dumps({**ASK, "stop": [MARK], "tools": [{"type": "function", "function": {"name": MARK}}]}).encode(),
        json.dumps({**ASK, "user": MARK, "metadata": {"a": MARK}, "prompt_cache_key": MARK, MARK: MARK}).encode(),
        json.dumps({**ASK, "messages": [{"role": "user", "content": f"{MARK} {FORBIDDEN}"}]}).encode(),
        json.dumps({**ASK, "messages": [{"role": "user", "content": f"write to {MAIL}"}]}).encode(),
        text + b" " * 70_000,  # longer than the bound
    )
    found += [ask(gateway, request(body, connection="close")) for body in bodies]
    for header in ("authorization", "x-api-key", "api-key"):
        key = f"Bearer {KEYS[1]}" if header == "authorization" else KEYS[1]
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {MARK}\r\n{header}: {key}\r\nconnection: close\r\n"
        found.append(ask(gateway, f"{head}content-length: {len(text)}\r\n\r\n".encode() + text))
    odd = {"cookie": MARK, "user_agent": MARK, "x_request_id": f"{MARK} {MARK}", "tracestate": f"a={MARK}"}
    odd |= {"x_promptlane_lane": MARK, "x_forwarded_for": MARK, "x_forwarded_host": MARK, "traceparent": MARK}
    found.append(ask(gateway, request(ASK, connection="close", **odd)))
    for line in (f"GET /v1/{MARK}?key={MARK}", f"GET /v1/models/{MARK}", f"DELETE /v1/chat/completions?{MARK}"):
        head = f"{line} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer acme-key\r\nconnection: close\r\n\r\n"
        found.append(ask(gateway, head.encode()))
    found.append(ask(gateway, f"{MARK} is no HTTP\r\n\r\n".encode()))
    engines["e0"].reply = engines["e0"].silent
    with gateway.connect() as sock:  # whose client leaves
        sock.sendall(request(ASK))
        engines.run(engines["e0"].began.wait())
    engines.run(engines["e0"].client_left.wait())
    return found


def spellings(text: str) -> list[bytes]:
    """As text, in hexadecimal and in base64 wherever it may begin."""
    raw = text.encode()
    coded = [base64.b64encode(b"x" * before + raw)[4:-4] for before in range(3)]
    return [raw, raw.hex().encode(), *coded]


def run(folder: Path, config: dict[str, Any], engines: Engines) -> tuple[list[int], dict[str, bytes], str, Gateway]:
    """A process from start to end: statuses of its answers, all that it wrote but its configuration, and a new key."""
    gateway = Gateway(folder, config, PROMPTLANE_SECRET=SECRET)
    try:
        gateway.wait_ready()
        gateway.wait_healthy("e0")
        statuses = traffic(gateway, engines)
        made = gateway.admin("/admin/keys", "POST", {"tenant": "acme"}).json()["key"]
        pages = {path: gateway.admin(path).content for path in ("/metrics", "/admin/state", "/admin/keys")}
        meanwhile = {f"{file}, while it ran": file.read_bytes() for file in written_to(gateway)}
    finally:
        gateway.stop()
    return statuses, pages | meanwhile | {str(file): file.read_bytes() for file in written_to(gateway)}, made, gateway


def written_to(gateway: Gateway) -> list[Path]:
    return [file for file in gateway.folder.rglob("*") if file.is_file() and file != gateway.file]


def test_no_prompt_answer_or_key_is_in_anything_that_a_run_writes(tmp_path: Path, engines: Engines) -> None:
    config = configuration(
        {"e0": engines.url("e0")},
        log_level="debug",
        log_format="json",
        access_log="access.jsonl",
        max_body_bytes=65_536,
    )
    config["state"] = {"ledger_url": "sqlite:///records.db"}
    rules: list[dict[str, Any]] = [
        {"name": "names", "on": "input", "action": "block", "find": {"words": [FORBIDDEN]}},
        {"name": "mail", "on": "both", "action": "redact", "find": {"pii": ["email"]}},
    ]
    config["tenants"]["acme"]["guards"] = rules
    config["tenants"]["acme"]["watch_words"] = [WATCHED]
    config["governance"] = {"output": "all"}
    config["tiers"] = {"silver": {"slo": {"ttft_seconds": 2}}}
    with collecting() as collector:
        config["tracing"] = {"endpoint": collector.url, "sample": 1}
        statuses, written, made, gateway = run(tmp_path, config, engines)
        spans = collector.spans()
        written |= {f"spans {number}": body for number, body in enumerate(collector.bodies)}
    assert len(spans) >= 15
    assert {200, 400, 401, 404, 405, 413} <= set(statuses), statuses
    assert any(MARK.encode() in one for one in engines["e0"].received), "the engine had it"

    verdicts = re.findall(rb"promptlane_guard_verdicts_total{.*} (\S+)", written["/metrics"])
    assert sum(map(float, verdicts)) >= 2, "rules have found something"
    assert len((tmp_path / "access.jsonl").read_text().splitlines()) >= len(statuses) - 1
    with sqlite3.connect(tmp_path / "records.db") as database:
        assert database.execute("select count(*) from ledger_records").fetchone()[0] >= 10
        looked = [json.loads(row[0]) for row in database.execute("select output from ledger_records") if row[0]]
        given = [json.loads(row[0]) for row in database.execute("select parameters from ledger_records") if row[0]]
    assert [one for one in looked if one.get("watched") and one.get("tool_calls")], "answers were looked at"
    assert [one for one in given if one.get("stop") and one.get("tool_names_hash")], "stop strings and tools are hashes"
    assert len(gateway.output.splitlines()) > 5
    secrets = [*KEYS, made, cache_salt(SECRET.encode(), "acme"), MARK, FORBIDDEN, MAIL, WATCHED]
    found = {
        (name, secret)
        for name, data in written.items()
        for secret in secrets
        for spelling in spellings(secret)
        if spelling in data or spelling in inflated(data)
    }
    assert found == set()


def inflated(data: bytes) -> bytes:
    """What it holds if it is compressed."""
    try:
        return zlib.decompressobj(wbits=47).decompress(data)
    except zlib.error:
        return b""
