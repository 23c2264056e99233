"""What a gateway meets over HTTP: text, caching, priority, sleep, leaving clients, other APIs and processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
import os
import select
import socket
import subprocess
import sys
import time
from typing import Any

import httpx2
import pytest

from benchmarks.engine.config import EngineConfig
from benchmarks.engine.launch import ROOT, Engine, serve_in_process, start_engine
from tests.engine.conftest import FAST, PATIENCE, SLOW, EngineClient, events, sample

ENDLESS = {"max_tokens": 4000, "ignore_eos": True}


def content(answer: Any) -> str:
    return str(answer.json()["choices"][0]["message"]["content"])


async def test_two_engines_of_one_model_say_the_same_and_stop_by_themselves(engine: EngineClient) -> None:
    async with serve_in_process(FAST) as url, EngineClient(base_url=url) as twin:
        one, other = await engine.ask(), await twin.ask()
    assert content(one) == content(other) != ""
    assert one.json()["choices"][0]["finish_reason"] == "stop"
    assert one.json()["usage"]["completion_tokens"] == FAST.reply_tokens


async def test_a_stream_says_what_the_whole_answer_says(engine: EngineClient) -> None:
    streamed = events((await engine.ask(stream=True)).text)
    deltas = [event["choices"][0]["delta"].get("content", "") for event in streamed[:-1]]
    assert "".join(deltas) == content(await engine.ask())


async def test_ignore_eos_runs_to_the_bound(engine: EngineClient) -> None:
    answer = (await engine.ask(max_tokens=200, ignore_eos=True)).json()
    assert (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"]) == (200, "length")


async def test_a_continued_chat_says_the_rest_of_the_unbroken_one(engine: EngineClient) -> None:
    whole = content(await engine.ask())
    cut = len(" ".join(whole.split(" ")[:20]))
    messages = [{"role": "user", "content": "hello there"}, {"role": "assistant", "content": whole[:cut]}]
    turn = {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}
    rest = await engine.post("/v1/chat/completions", json=turn)
    assert whole[:cut] + content(rest) == whole
    assert rest.json()["choices"][0]["finish_reason"] == "stop"


async def test_a_chat_continued_by_token_ids_gives_the_very_same_ids(engine: EngineClient) -> None:
    streamed = events((await engine.ask(stream=True, return_token_ids=True)).text)[:-1]
    prompt = streamed[0]["prompt_token_ids"]
    ids = [token for event in streamed[1:] for token in event["choices"][0]["token_ids"]]
    for cut in (1, 30, len(ids) - 1):
        body = {"prompt": prompt + ids[:cut], "max_tokens": 100, "return_token_ids": True}
        choice = (await engine.post("/v1/completions", json=body)).json()["choices"][0]
        assert choice["token_ids"] == ids[cut:]
        assert choice["finish_reason"] == "stop"


async def test_a_repeated_prompt_is_cached_in_whole_blocks_and_a_salt_keeps_it_apart(engine: EngineClient) -> None:
    def cached(answer: Any) -> int:
        return int(answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"])

    first, again = [await engine.ask("word " * 100, max_tokens=1) for _ in range(2)]
    salted = await engine.ask("word " * 100, max_tokens=1, cache_salt="abc")
    prompt = first.json()["usage"]["prompt_tokens"]
    assert (cached(first), cached(salted)) == (0, 0)
    assert cached(again) == (prompt - 1) // 16 * 16
    assert (await engine.post("/reset_prefix_cache")).json() == {"success": True}
    assert cached(await engine.ask("word " * 100, max_tokens=1)) == 0


async def test_a_stop_string_ends_the_answer_before_it(engine: EngineClient) -> None:
    whole = content(await engine.ask())
    stop = whole.split(" ")[10]
    before = whole[: whole.index(stop)]
    answer = await engine.ask(stop=stop)
    assert content(answer) == before
    assert answer.json()["choices"][0]["stop_reason"] == stop
    streamed = events((await engine.ask(stop=[stop, "never said"], stream=True)).text)[:-1]
    assert "".join(event["choices"][0]["delta"]["content"] for event in streamed) == before
    assert (await engine.state())["running"] == 0


async def test_several_choices_and_prompts_are_numbered_and_differ(engine: EngineClient) -> None:
    chat = (await engine.ask(n=2, max_tokens=5)).json()["choices"]
    assert [choice["index"] for choice in chat] == [0, 1]
    assert chat[0]["message"]["content"] != chat[1]["message"]["content"]
    body = {"prompt": ["one", "two"], "n": 2, "echo": True, "max_tokens": 1}
    texts = [choice["text"] for choice in (await engine.post("/v1/completions", json=body)).json()["choices"]]
    assert [text.split()[0] for text in texts] == ["one", "one", "two", "two"]


async def test_a_forced_tool_is_called_with_arguments_that_fit_whole_and_streamed(engine: EngineClient) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    choice = (await engine.ask(tools=tools, tool_choice="required")).json()["choices"][0]
    call = choice["message"]["tool_calls"][0]
    assert (call["function"]["name"], choice["finish_reason"]) == ("weather", "tool_calls")
    assert json.loads(call["function"]["arguments"]) == {"city": "word", "days": 1}
    streamed = events((await engine.ask(tools=tools, tool_choice="required", stream=True)).text)[:-1]
    deltas = [event["choices"][0]["delta"].get("tool_calls", [{}])[0] for event in streamed]
    arguments = "".join(delta.get("function", {}).get("arguments", "") for delta in deltas)
    assert json.loads(arguments) == {"city": "word", "days": 1}
    assert (await engine.ask(tools=tools, max_tokens=2)).json()["choices"][0]["message"]["content"]


async def test_a_json_schema_is_answered_with_json(engine: EngineClient) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert json.loads(content(await engine.ask(response_format=wanted))) == {"ok": True}


@pytest.mark.parametrize("by_header", [True, False])
async def test_with_one_seat_the_lower_priority_value_is_served_first(by_header: bool) -> None:
    config = dataclasses.replace(FAST, max_num_seqs=1)
    async with serve_in_process(config) as url, EngineClient(base_url=url, timeout=PATIENCE) as client:
        await client.post("/pause")
        done: list[int] = []

        async def ask(priority: int) -> None:
            field, header = ({}, {"x-vllm-priority": str(priority)}) if by_header else ({"priority": priority}, {})
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **field}
            await client.post("/v1/chat/completions", json=body, headers=header)
            done.append(priority)

        async with asyncio.TaskGroup() as group:
            for number, priority in enumerate((7, 3, 5)):
                group.create_task(ask(priority))
                await client.until(lambda state, held=number + 1: state["held"] == held)
            await client.post("/resume")
    assert done == [3, 5, 7]


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_frees_its_seat_and_counts_as_no_ending(
    slow_engine: EngineClient, stream: bool
) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": stream, **ENDLESS}).encode()
    reader, writer = await connect(slow_engine, body)
    if stream:
        await reader.readuntil(b'"role":"assistant"')
    await slow_engine.until(lambda state: state["running"] == 1)
    writer.close()
    state = await slow_engine.until(lambda state: state["running"] == 0)
    assert (state["aborted_total"], state["finished_total"], state["kv_used_blocks"]) == (1, 0, 0)
    assert 'finished_reason="abort",model_name="tiny"} 0.0' in (await slow_engine.get("/metrics")).text


async def connect(client: EngineClient, body: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    writer.write(head % len(body) + body)
    return reader, writer


async def test_while_it_sleeps_health_is_good_and_requests_hang_until_it_wakes(engine: EngineClient) -> None:
    assert (await engine.post("/sleep?level=1")).json() == {"status": "sleeping", "level": 1}
    asked = asyncio.create_task(engine.ask(max_tokens=1))
    state = await engine.until(lambda state: state["held"] == 1)
    assert (state["running"], state["waiting"]) == (0, 0)
    assert (await engine.get("/health")).status_code == 200
    assert (await engine.get("/is_sleeping")).json() == {"is_sleeping": True}
    assert 'sleep_state="weights_offloaded"} 1.0' in (await engine.get("/metrics")).text
    assert not asked.done()
    assert (await engine.post("/wake_up?tags=weights")).json() == {"status": "sleeping", "tags": ["weights"]}
    assert (await engine.post("/wake_up")).json() == {"status": "awake", "tags": None}
    assert (await asked).status_code == 200
    assert (await engine.get("/is_sleeping")).json() == {"is_sleeping": False}


async def test_sleep_ends_what_runs_with_abort_and_forgets_the_cache(slow_engine: EngineClient) -> None:
    asked = asyncio.create_task(slow_engine.ask("word " * 100, stream=True, **ENDLESS))
    await slow_engine.until(lambda state: state["running"] == 1 and state["kv_cached_blocks"] > 0)
    await slow_engine.post("/sleep")
    streamed = events((await asked).text)
    assert streamed[-2]["choices"][0]["finish_reason"] == "abort"
    assert (await slow_engine.state())["kv_cached_blocks"] == 0


async def test_a_pause_that_keeps_freezes_the_stream_and_resume_goes_on(engine: EngineClient) -> None:
    asked = asyncio.create_task(engine.ask(max_tokens=2000, ignore_eos=True))
    await engine.until(lambda state: state["running"] == 1)
    assert (await engine.post("/pause?mode=keep")).json() == {"status": "paused"}
    assert (await engine.get("/is_paused")).json() == {"is_paused": True}
    assert (await engine.state())["running"] == 1
    assert (await engine.post("/resume")).json() == {"status": "resumed"}
    assert (await asked).json()["usage"]["completion_tokens"] == 2000


async def test_embeddings_are_unit_vectors_and_alike_for_alike_texts(engine: EngineClient) -> None:
    body = {"model": "tiny", "input": ["the red house", "the red houses", "quantum"]}
    rows = [row["embedding"] for row in (await engine.post("/v1/embeddings", json=body)).json()["data"]]
    near, far = (sum(a * b for a, b in zip(rows[0], row, strict=True)) for row in rows[1:])
    assert [math.hypot(*row) for row in rows] == pytest.approx([1, 1, 1])
    assert near > far
    assert (await engine.state())["finished_total"] == 3


@pytest.mark.parametrize("path", ["/v1/rerank", "/rerank"])
async def test_rerank_puts_the_document_with_the_words_of_the_query_first(engine: EngineClient, path: str) -> None:
    body = {"query": "red house", "documents": ["a blue car", "the red house", "green"], "top_n": 2}
    results = (await engine.post(path, json=body)).json()["results"]
    assert results[0]["index"] == 1
    assert len(results) == 2


@pytest.mark.parametrize("path", ["/v1/score", "/score"])
async def test_scores_compare_one_text_with_each(engine: EngineClient, path: str) -> None:
    body = {"text_1": "red house", "text_2": ["red house", "something else"]}
    scores = [row["score"] for row in (await engine.post(path, json=body)).json()["data"]]
    assert scores[0] == 1.0 > scores[1]


async def test_every_request_is_recorded_as_it_arrived_and_probes_are_not(engine: EngineClient) -> None:
    raw = b'{"messages": [ {"role":"user","content":"\xc3\xbc"} ], "max_tokens":1}'
    kind = {"content-type": "application/json", "x-mark": "7"}
    await engine.post("/v1/chat/completions", content=raw, headers=kind)
    await engine.post("/unknown", content=b"\xff", headers=kind)
    await engine.get("/health")
    known, unknown = (await engine.get("/debug/requests")).json()
    assert (known["path"], known["body"].encode()) == ("/v1/chat/completions", raw)
    assert ["x-mark", "7"] in known["headers"]
    assert (unknown["path"], unknown["body"]) == ("/unknown", "\\xff")
    await engine.post("/debug/clear")
    assert (await engine.get("/debug/requests")).json() == []


async def test_what_an_answer_has_told_of_its_usage_is_recorded_and_records_are_taken_once(
    engine: EngineClient,
) -> None:
    whole = (await engine.ask(max_tokens=3)).json()["usage"]
    await engine.ask(max_tokens=3, stream=True)
    await engine.ask(max_tokens=3, stream=True, stream_options={"include_usage": True})
    told = [record["told"] for record in (await engine.post("/debug/take")).json()]
    assert told[0][::2] == [whole["prompt_tokens"], whole["completion_tokens"]]
    assert told[1] is None, "this stream has no usage"
    assert told[2][::2] == told[0][::2]
    assert (await engine.post("/debug/take")).json() == []


async def test_usage_is_told_where_an_answer_dies_after_it_and_not_where_it_dies_before(engine: EngineClient) -> None:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = (await engine.ask(max_tokens=3, **usage)).text.count("data: ")
    for sent in (chunks - 1, chunks - 2):
        await engine.post("/debug/clear")
        await engine.fault("die-mid-stream", after_chunks=sent)
        with pytest.raises(httpx2.RemoteProtocolError):
            await engine.ask(max_tokens=3, **usage)
        (record,) = (await engine.post("/debug/take")).json()
        assert (record["told"] is not None) == (sent == chunks - 1)


async def test_three_hundred_streams_at_once_all_end_and_free_their_seats(engine: EngineClient) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 5}).encode()

    async def one() -> bytes:
        reader, writer = await connect(engine, body)
        try:
            return await reader.readuntil(b"data: [DONE]\n\n")
        finally:
            writer.close()

    async with asyncio.timeout(PATIENCE):
        answers = await asyncio.gather(*(one() for _ in range(300)))
    assert all(answer.count(b'"delta"') == 6 for answer in answers)
    state = await engine.state()
    assert (state["running"], state["kv_used_blocks"], state["finished_total"]) == (0, 0, 300)


async def test_a_server_that_stops_ends_its_streams_as_the_captured_one_did() -> None:
    server = serve_in_process(SLOW)
    url = await server.__aenter__()
    async with EngineClient(base_url=url, timeout=PATIENCE) as client:
        asked = asyncio.create_task(client.ask(stream=True, **ENDLESS))
        await client.until(lambda state: state["running"] == 1)
        await server.__aexit__(None, None, None)
        text = (await asked).text
    end, captured = (
        data[data.index('"choices"') : data.index('"system_fing')]
        for data in (text.split("data: ")[-2], sample("abort_end"))
    )
    assert end == captured
    assert text.endswith("data: [DONE]\n\n")


@pytest.fixture(scope="module")
def process() -> Any:
    with start_engine(decode_step_seconds=0.001) as running:
        yield running


def answers(engine: Engine) -> bool:
    try:
        socket.create_connection(("127.0.0.1", engine.port), PATIENCE).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_process_listens_refuses_on_order_and_listens_again(process: Engine) -> None:
    assert answers(process)
    process.fault("refuse")
    assert not answers(process)
    assert process.state()["fault"]["kind"] == "refuse"
    process.fault("none")
    assert answers(process)


def test_a_refusal_with_a_time_ends_by_itself(process: Engine) -> None:
    process.fault("refuse", seconds=0.05)
    patience = time.monotonic() + PATIENCE
    while not answers(process) and time.monotonic() < patience:
        pass
    assert answers(process)
    assert process.state()["fault"]["kind"] == "none"


def test_a_stopped_and_a_killed_process_leave_nothing_behind() -> None:
    for end in ("stop", "kill"):
        engine = start_engine()
        getattr(engine, end)()
        assert not engine.alive
        assert not answers(engine)


def test_an_engine_ends_when_its_parent_is_killed() -> None:
    script = (
        "import os, signal; from benchmarks.engine.launch import start_engine; e = start_engine();"
        "print(e.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended, _, _ = select.select([handle], [], [], PATIENCE)
        os.close(handle)
        assert ended


def test_help_explains_every_option_and_fault() -> None:
    command = [sys.executable, "-m", "benchmarks.engine", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    for field in dataclasses.fields(EngineConfig):
        assert f"--{field.name.replace('_', '-')}" in text
    assert "die-mid-stream" in text


def test_a_bad_option_fails_the_start_with_a_clear_error() -> None:
    with pytest.raises(RuntimeError, match="before it listened"):
        start_engine(port="none")
