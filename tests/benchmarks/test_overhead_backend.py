"""The canned backend answers what gateways ask engines, and the load's connections fail loudly."""

import asyncio
import json

import pytest

from benchmarks.overhead_parts import clients
from benchmarks.overhead_parts.answers import CHAT_BODY, MODEL, BadAnswer, http_answer, stream_writes
from benchmarks.overhead_parts.backend import answer
from benchmarks.overhead_parts.clients import Client, Clients
from benchmarks.overhead_parts.readers import PlainAnswer
from benchmarks.overhead_parts.traffic import LATENCY, REQUESTS, STREAMS, bodies, requests

CHAT = b"POST /v1/chat/completions HTTP/1.1"


def test_a_chat_is_answered_with_the_canned_body() -> None:
    assert answer(CHAT, bodies(REQUESTS)[0]) == http_answer(CHAT_BODY)
    assert answer(CHAT, b'{"stream":false,"max_tokens":9}') == http_answer(CHAT_BODY)


@pytest.mark.parametrize(
    ("body", "chunks"),
    [
        (bodies(STREAMS)[0], 64),
        (b'{"max_completion_tokens":9,"stream":true}', 9),
        (b'{"stream" : true, "max_tokens" : 3}', 3),
        (b'{"stream":true}', 64),
    ],
)
def test_a_stream_has_as_many_chunks_as_tokens_were_asked_for(body: bytes, chunks: int) -> None:
    assert answer(CHAT, body) == chunks


def test_token_ids_are_in_a_stream_for_who_asks_and_null_for_clients() -> None:
    with_ids, without = (b"".join(stream_writes(4, ids)) for ids in (True, False))
    assert with_ids.count(b'"token_ids":[') == 4
    assert b'"prompt_token_ids":[1000,' in with_ids
    assert b"[1" not in without
    events = [[json.loads(line[6:]) for line in data.split(b"\n") if line[:6] == b"data: " and b"{" in line]
              for data in (with_ids, without)]  # fmt: skip
    for event in events[0]:
        for part in (event, *event["choices"]):
            part.update({name: None for name in ("token_ids", "prompt_token_ids") if name in part})
    assert events[0] == events[1]


def test_the_role_comes_with_the_first_token_as_of_vllm() -> None:
    writes = stream_writes(4)
    assert writes[0].count(b"data: ") == 2
    assert b'"role":"assistant"' in writes[0]
    assert [write.count(b'"content":" ') for write in writes] == [1, 1, 1, 1]


def page(line: bytes) -> tuple[int, bytes]:
    found = answer(line + b" HTTP/1.1", b"")
    assert isinstance(found, bytes)
    head, _, body = found.partition(b"\r\n\r\n")
    assert b"content-length: %d\r\n" % len(body) in head
    return int(head.split()[1]), body


def test_gateways_find_the_model_the_health_and_the_cache_size() -> None:
    assert page(b"GET /health") == (200, b"")
    assert [model["id"] for model in json.loads(page(b"GET /v1/models?x=1")[1])["data"]] == [MODEL]
    assert b"vllm:cache_config_info{" in page(b"GET /metrics")[1]
    assert {page(b"GET " + path)[0] for path in (b"/get_server_info", b"/server_info", b"/model_info")} == {200}


def test_what_a_default_vllm_lacks_is_refused() -> None:
    assert page(b"POST /v1/chat/completions/render")[0] == 403
    assert page(b"GET /nothing")[0] == 404


class Server(asyncio.Protocol):
    """Takes a request and does not answer; hangs up when told to."""

    def __init__(self, hang_up: bool) -> None:
        self._hang_up = hang_up

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._hang_up:
            self._transport.close()


def ignore(client: Client[PlainAnswer], elapsed: float) -> None:
    raise AssertionError("nothing was answered")


@pytest.mark.parametrize(("hang_up", "reason"), [(False, "no complete answer"), (True, "connection closed")])
async def test_silence_and_hanging_up_end_a_measurement(
    monkeypatch: pytest.MonkeyPatch, hang_up: bool, reason: str
) -> None:
    monkeypatch.setattr(clients, "_SILENT_SECONDS", 0.05)
    server = await asyncio.get_running_loop().create_server(lambda: Server(hang_up), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Clients[PlainAnswer]() as opened:
        client = await opened.open(port, PlainAnswer(), ignore)
        client.send(requests(LATENCY, "127.0.0.1", {})[0])
        with pytest.raises(BadAnswer, match=reason):
            await opened.until_finished()
