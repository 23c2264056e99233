"""Comments while a request is held, and what may still be said after them."""

from __future__ import annotations

import asyncio

from router.client import Client
from router.heartbeat import COMMENT, Heartbeat
from tests.router.test_client import Server, client_of

HEADERS = [(b"content-type", b"text/event-stream")]


async def comments(server: Server, count: int) -> None:
    async with asyncio.timeout(60):
        while server.body.count(COMMENT) < count:  # noqa: ASYNC110  # the server is the test's own
            await asyncio.sleep(0.001)


async def opened() -> tuple[Server, Client]:
    server = Server()
    client = client_of(server)
    await client.comment(HEADERS, COMMENT)
    return server, client


async def test_comments_come_until_it_ends_and_the_answer_follows_in_the_same_stream() -> None:
    server = Server()
    client = client_of(server)
    beat = Heartbeat(client, HEADERS, 0.001, "r")
    await comments(server, 2)
    assert (client.opened, client.started) == (True, False)
    beat.end()
    before = server.body
    client.head(200, [(b"x-late", b"1")])
    assert client.write(b"data: 1\n\n") is None
    await client.finish(b"data: [DONE]\n\n")
    assert server.body == before + b"data: 1\n\ndata: [DONE]\n\n"
    assert [one["type"] for one in server.sent].count("http.response.start") == 1
    assert client.started


async def test_nothing_is_written_when_the_wait_is_short() -> None:
    server = Server()
    beat = Heartbeat(client_of(server), HEADERS, 60.0, "r")
    await asyncio.sleep(0)
    beat.end()
    await asyncio.sleep(0)
    assert server.sent == []


async def test_a_client_that_is_gone_gets_no_comment() -> None:
    server = Server()
    client = client_of(server)
    client.gone = True
    beat = Heartbeat(client, HEADERS, 0.0, "r")
    for _ in range(5):
        await asyncio.sleep(0)
    assert server.sent == []
    beat.end()


async def test_a_whole_answer_becomes_the_last_event_of_a_stream_that_was_opened() -> None:
    server, client = await opened()
    await client.respond(400, [(b"content-type", b"application/json")], b'{"error":\n {"message":"no"}}')
    assert server.body == COMMENT + b'data: {"error":\ndata:  {"message":"no"}}\n\n'
    assert server.sent[0]["status"] == 200
    assert [one["type"] for one in server.sent].count("http.response.start") == 1
    assert server.sent[-1]["more_body"] is False
