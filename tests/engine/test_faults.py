"""Every fault, as a client sees it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx2
import pytest

from benchmarks.engine.faults import SLOW_FACTOR, FaultKind, FaultOrder, FaultSwitch
from tests.engine.conftest import EngineClient, events, sample
from tests.engine.test_server import connect

HELLO = [{"role": "user", "content": "hello there"}]
BODY = json.dumps({"messages": HELLO, "max_tokens": 10}).encode()
STREAM = json.dumps({"messages": HELLO, "max_tokens": 10, "stream": True}).encode()


async def all_bytes(client: EngineClient, body: bytes) -> bytes:
    """Everything until the connection closes."""
    reader, writer = await connect(client, body)
    async with asyncio.timeout(60):
        try:
            return await reader.read()
        finally:
            writer.close()


async def test_a_hung_engine_is_healthy_and_answers_when_the_fault_ends(engine: EngineClient) -> None:
    await engine.fault("hang")
    asked = asyncio.create_task(engine.ask(max_tokens=1))
    await engine.until(lambda state: state["fault"]["hits_total"] == 1)
    assert (await engine.get("/health")).status_code == 200
    assert (await engine.state())["running"] == 0
    assert not asked.done()
    await engine.fault("none")
    assert (await asked).status_code == 200


async def test_a_client_that_leaves_a_hung_engine_is_never_served(engine: EngineClient) -> None:
    await engine.fault("hang")
    _, writer = await connect(engine, BODY)
    await engine.until(lambda state: state["fault"]["hits_total"] == 1)
    writer.close()
    await writer.wait_closed()
    await engine.fault("none")
    await engine.ask(max_tokens=1)
    assert (await engine.state())["finished_total"] == 1


@pytest.mark.parametrize("kind", ["error", "abort"])
async def test_a_fault_may_hit_one_request_of_so_many(engine: EngineClient, kind: str) -> None:
    await engine.fault(kind, every=4)
    answers = [await engine.ask(max_tokens=3) for _ in range(12)]
    failed = [
        number
        for number, answer in enumerate(answers, 1)
        if answer.status_code != 200 or answer.json()["choices"][0]["finish_reason"] == "abort"
    ]
    assert failed == [4, 8, 12]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/v1/messages/count_tokens"])
async def test_an_error_has_the_captured_body_and_hits_as_often_as_told(engine: EngineClient, path: str) -> None:
    await engine.fault("error", count=2)
    answers = [await engine.post(path, json={"messages": HELLO, "max_tokens": 1}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [500, 500, 200]
    if "messages/" not in path:
        assert answers[0].text == sample("engine_dead").splitlines()[0]


async def test_an_error_may_have_another_status_and_hit_some_paths_only(engine: EngineClient) -> None:
    await engine.fault("error", status=503, message="no", paths=["/v1/completions"])
    assert (await engine.ask(max_tokens=1)).status_code == 200
    answer = await engine.post("/v1/completions", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (503, "no")


async def test_an_error_in_a_stream_is_the_captured_event_and_then_done(engine: EngineClient) -> None:
    await engine.fault("error", after_chunks=3)
    answer = await engine.ask(max_tokens=10, stream=True)
    assert answer.status_code == 200
    assert answer.text.endswith(sample("engine_dead_event"))
    assert len(events(answer.text)) == 3 + 2
    assert (await engine.ask(max_tokens=10)).status_code == 500


async def test_a_stream_that_dies_ends_without_terminator_after_its_chunks(engine: EngineClient) -> None:
    await engine.fault("die-mid-stream", after_chunks=4)
    received = await all_bytes(engine, STREAM)
    assert received.count(b"data: {") == 4
    assert b"[DONE]" not in received
    assert not received.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("body", [BODY, STREAM])
async def test_a_connection_can_die_before_its_first_byte(engine: EngineClient, body: bytes) -> None:
    await engine.fault("die-mid-stream", after_chunks=0)
    assert await all_bytes(engine, body) == b""
    assert (await engine.state())["running"] == 0


async def test_a_whole_body_that_dies_is_cut_in_the_middle(engine: EngineClient) -> None:
    await engine.fault("die-mid-stream", after_chunks=2)
    head, _, body = (await all_bytes(engine, BODY)).partition(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    assert 0 < len(body) < length
    with pytest.raises(httpx2.RemoteProtocolError):
        await engine.post("/tokenize", json={"prompt": "hello"})


async def test_a_silent_stream_stays_open_and_says_nothing_more(engine: EngineClient) -> None:
    await engine.fault("silent", after_chunks=2)
    reader, writer = await connect(engine, STREAM)
    await reader.readuntil(b'"content":""')
    await reader.readuntil(b'"token_ids":null')
    await engine.until(lambda state: state["finished_total"] == 1)
    late = asyncio.create_task(reader.readuntil(b"data: {"))
    assert (await engine.get("/health")).status_code == 200
    assert not late.done()
    writer.close()
    with pytest.raises(asyncio.IncompleteReadError):
        await late


async def test_a_stream_that_is_under_way_is_hit_too(slow_engine: EngineClient) -> None:
    body = json.dumps({"messages": HELLO, "stream": True, "max_tokens": 4000, "ignore_eos": True}).encode()
    reader, writer = await connect(slow_engine, body)
    await reader.readuntil(b'"content":" ')
    await slow_engine.fault("die-mid-stream")
    async with asyncio.timeout(60):
        assert b"[DONE]" not in await reader.read()
    writer.close()
    assert (await slow_engine.state())["running"] == 0


async def test_an_abort_ends_normally_with_the_captured_reason(engine: EngineClient) -> None:
    await engine.fault("abort", after_chunks=3)
    streamed = events((await engine.ask(max_tokens=10, stream=True)).text)
    assert streamed[-1] == "[DONE]"
    assert streamed[-2]["choices"][0] == json.loads(sample("abort_end").split("\n")[0][6:])["choices"][0]
    whole = await engine.ask(max_tokens=10)
    assert whole.status_code == 200
    assert whole.json()["choices"][0]["finish_reason"] == "abort"
    assert 0 < whole.json()["usage"]["completion_tokens"] < 10


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses", "/v1/completions"])
async def test_faults_in_a_stream_hit_every_api(engine: EngineClient, path: str) -> None:
    fields: dict[str, Any] = {"messages": HELLO, "input": "hi", "prompt": "hi", "max_tokens": 10, "stream": True}
    await engine.fault("die-mid-stream", after_chunks=3)
    with pytest.raises(httpx2.RemoteProtocolError):
        await engine.post(path, json=fields)


@pytest.mark.parametrize(
    "body", [{"kind": "unheard of"}, {"kind": "hang", "typo": 1}, {"kind": "error", "status": 200}, 7]
)
async def test_a_fault_that_makes_no_sense_is_refused(engine: EngineClient, body: Any) -> None:
    assert (await engine.post("/fault", json=body)).status_code == 400


def test_a_slow_engine_takes_longer_for_every_step_until_the_time_is_over() -> None:
    switch = FaultSwitch()
    switch.set(FaultOrder(kind=FaultKind.SLOW, factor=4, seconds=10), now=0.0)
    assert [switch.step_factor(now) for now in (0.0, 9.9, 10.0)] == [4, 4, 1]


def test_any_other_fault_slows_what_is_under_way_only_where_it_says_so() -> None:
    switch = FaultSwitch()
    switch.set(FaultOrder(kind=FaultKind.HANG), now=0.0)
    assert switch.step_factor(0.0) == 1
    switch.set(FaultOrder(kind=FaultKind.HANG, factor=50), now=0.0)
    assert switch.step_factor(0.0) == 50
    assert switch.claim("/v1/completions", 0.0) is not None
    switch.set(FaultOrder(kind=FaultKind.SLOW), now=0.0)
    assert switch.step_factor(0.0) == SLOW_FACTOR


def test_a_count_is_used_up_by_what_it_hits_and_by_nothing_else() -> None:
    switch = FaultSwitch()
    switch.set(FaultOrder(kind=FaultKind.ERROR, count=1, paths=["/a"]), now=0.0)
    assert switch.claim("/b", 0.0) is None
    assert switch.claim("/a", 0.0, started=True) is None
    assert switch.claim("/a", 0.0) is not None
    assert switch.claim("/a", 0.0) is None
