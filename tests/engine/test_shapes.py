"""Bodies, streams, errors, headers and metric names beside what the real server was seen to send."""

from __future__ import annotations

import dataclasses
import json
import re
from typing import Any

import pytest

from benchmarks.engine.launch import serve_in_process
from tests.engine.conftest import (
    FAST,
    EngineClient,
    events,
    sample,
    sample_body,
    sample_headers,
    sample_status,
    shape,
)
from tests.engine.sleep_steps import transcript

HELLO = [{"role": "user", "content": "hello there"}]
CONTINUED = {
    "messages": [*HELLO, {"role": "assistant", "content": " able about"}],
    "continue_final_message": True,
    "add_generation_prompt": False,
    "return_token_ids": True,
}


async def test_a_whole_chat_answer_has_the_captured_headers_fields_and_ids(engine: EngineClient) -> None:
    answer = await engine.ask(max_tokens=8, model="tiny", extra={"unknown": 1})
    assert shape(answer.json()) == shape(sample_body("chat_nonstream"))
    assert [name.decode() for name, _ in answer.headers.raw] == sample_headers("chat_nonstream")
    named = await engine.post(
        "/v1/chat/completions", json={"messages": HELLO, "max_tokens": 1}, headers={"x-request-id": "my-req-1"}
    )
    assert named.json()["id"] == sample_body("chat_nonstream")["id"]
    assert named.headers["x-request-id"] == "my-req-1"


async def test_a_body_request_id_names_the_answer_and_not_the_header(engine: EngineClient) -> None:
    answer = await engine.ask(max_tokens=1, request_id="body-id")
    assert answer.json()["id"] == "chatcmpl-body-id"
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


@pytest.mark.parametrize(
    ("name", "tokens", "options"),
    [
        ("chat_stream_no_usage", 2, None),
        ("chat_stream_usage", 4, {"include_usage": True}),
        ("chat_stream_continuous_usage", 3, {"include_usage": True, "continuous_usage_stats": True}),
    ],
)
async def test_chat_streams_have_the_captured_events(
    engine: EngineClient, name: str, tokens: int, options: dict[str, bool] | None
) -> None:
    answer = await engine.ask(max_tokens=tokens, stream=True, **({"stream_options": options} if options else {}))
    captured = sample(name)
    assert shape(events(answer.text)[:-1]) == shape(events(captured)[:-1])
    assert [shape(event) for event in events(answer.text)] == [shape(event) for event in events(captured)]
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_a_stream_has_the_captured_headers_in_order(engine: EngineClient) -> None:
    answer = await engine.ask(max_tokens=1, stream=True)
    assert [name.decode() for name, _ in answer.headers.raw] == sample_headers("chat_stream_usage")


async def test_completions_have_the_captured_fields_whole_and_streamed(engine: EngineClient) -> None:
    body = {"model": "tiny", "prompt": "hello there", "max_tokens": 3}
    whole = await engine.post("/v1/completions", json=body)
    assert shape(whole.json()) == shape(sample_body("completion_nonstream"))
    options = {"stream": True, "stream_options": {"include_usage": True}}
    streamed = await engine.post("/v1/completions", json=body | options)
    captured = events(sample("completion_stream"))
    assert [shape(event) for event in events(streamed.text)] == [shape(event) for event in captured]


async def test_logprobs_and_token_ids_have_the_captured_fields(engine: EngineClient) -> None:
    logged = await engine.ask(max_tokens=1, logprobs=True, top_logprobs=2)
    assert shape(logged.json()) == shape(sample_body("chat_logprobs"))
    ids = await engine.ask(max_tokens=8, return_token_ids=True)
    assert shape(ids.json()) == shape(sample_body("cont_full"))


async def test_a_continued_stream_has_the_captured_events(engine: EngineClient) -> None:
    answer = await engine.post("/v1/chat/completions", json=CONTINUED | {"max_tokens": 3, "stream": True})
    captured = events(sample("cont_stream"))
    assert [shape(event) for event in events(answer.text)] == [shape(event) for event in captured]


ERRORS: list[tuple[str, dict[str, Any]]] = [
    ("err_missing_messages", {"model": "tiny"}),
    ("err_bad_model", {"model": "nope", "messages": HELLO}),
    ("err_bad_temperature", {"messages": HELLO, "temperature": -1.0}),
    ("err_max_tokens_too_big", {"messages": HELLO, "max_tokens": 9000}),
    ("err_priority_str", {"messages": HELLO, "priority": "high"}),
    ("err_too_long", {"messages": [{"role": "user", "content": "word " * 9000}]}),
    ("err_too_long", {"messages": [{"role": "user", "content": "word " * 9000}], "stream": True}),
]


@pytest.mark.parametrize(("name", "body"), ERRORS)
async def test_errors_are_word_for_word_the_captured_ones(
    engine: EngineClient, name: str, body: dict[str, Any]
) -> None:
    answer = await engine.post("/v1/chat/completions", json=body)
    assert answer.text == sample(name).splitlines()[0]
    assert answer.status_code == sample_status(name)


async def test_bad_json_and_a_wrong_content_type_are_the_captured_errors(engine: EngineClient) -> None:
    kind = {"content-type": "application/json"}
    bad = await engine.post("/v1/chat/completions", content=b'{"model":"tiny","messages": x', headers=kind)
    assert (bad.text, bad.status_code) == (sample("err_bad_json").splitlines()[0], 400)
    form = {"content-type": "application/x-www-form-urlencoded"}
    untyped = await engine.post("/v1/chat/completions", content=b"{}", headers=form)
    assert (untyped.text, untyped.status_code) == (sample("err_no_ctype").splitlines()[0], 400)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'"x"', b"[" * 100_000, b"null"])
async def test_any_body_gets_a_clear_400(engine: EngineClient, content: bytes) -> None:
    answer = await engine.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "Bad Request"


async def test_both_ends_of_a_turn_at_once_are_the_captured_error(engine: EngineClient) -> None:
    answer = await engine.ask(continue_final_message=True)
    assert (answer.json(), answer.status_code) == (sample_body("cont_bad"), 400)


async def test_unknown_routes_and_methods_are_the_captured_errors(engine: EngineClient) -> None:
    unknown = await engine.post("/v1/nothing", json={})
    assert (unknown.json(), unknown.status_code) == (sample_body("err_not_found"), 404)
    wrong = await engine.get("/v1/chat/completions")
    assert (wrong.json(), wrong.status_code) == (sample_body("err_wrong_method"), 405)


@pytest.mark.parametrize(
    "fields",
    [
        {"cache_salt": ""},
        {"cache_salt": "a/b"},
        {"cache_salt": "x" * 129},
        {"stream_options": {"include_usage": True}},
        {"stop": ["a", "b", "c", "d", "e"]},
        {"n": 0},
        {"max_tokens": 0},
        {"top_p": 0},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": {"function": {"name": "g"}}},
    ],
)
async def test_values_out_of_range_are_a_400_that_names_the_field(engine: EngineClient, fields: dict[str, Any]) -> None:
    answer = await engine.ask(**fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in (*fields, "tool_choice")


async def test_a_prompt_that_leaves_no_room_for_the_output_is_refused(engine: EngineClient) -> None:
    answer = await engine.ask(max_tokens=8190)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "input_tokens"


async def test_of_a_key_that_comes_twice_the_last_counts(engine: EngineClient) -> None:
    content = json.dumps({"messages": HELLO})[:-1] + ', "max_tokens": 50, "max_tokens": 2}'
    answer = await engine.post("/v1/chat/completions", content=content, headers={"content-type": "application/json"})
    assert answer.json()["usage"]["completion_tokens"] == 2


async def test_a_full_queue_is_the_captured_503_without_retry_after() -> None:
    config = dataclasses.replace(FAST, max_num_queued_reqs=0)
    async with serve_in_process(config) as url, EngineClient(base_url=url) as client:
        answer = await client.ask()
        metrics = (await client.get("/metrics")).text
    assert (answer.text, answer.status_code) == (sample("err_overload").splitlines()[0], 503)
    assert "retry-after" not in answer.headers
    assert 'vllm:admission_rejections_total{model_name="tiny",reason="max_num_queued_reqs"} 1.0' in metrics


async def test_the_small_gets_have_the_captured_bodies_and_headers(engine: EngineClient) -> None:
    for path, name in (("/v1/models", "get_v1_models"), ("/version", "get_version"), ("/load", "get_load")):
        answer = await engine.get(path)
        assert shape(answer.json()) == shape(sample_body(name))
        assert [name.decode() for name, _ in answer.headers.raw][:-1] == sample_headers(name)
    health = await engine.get("/health")
    assert (health.status_code, health.content) == (200, b"")
    assert [name.decode() for name, _ in health.headers.raw][:-1] == sample_headers("get_health")
    assert (await engine.post("/ping")).status_code == 200


async def test_metrics_have_the_names_and_labels_of_the_captured_server(engine: EngineClient) -> None:
    await engine.ask(max_tokens=2)
    found = {}
    for line in (await engine.get("/metrics")).text.splitlines():
        match = re.match(r"([^{# ]+)(?:\{(.*)\})? \S+$", line)
        if match:
            found[match[1]] = ",".join(sorted(re.findall(r'(\w+)="', match[2] or "")))
    captured = {
        name: labels for name, _, labels in (line.partition(" ") for line in sample("metric_names").splitlines())
    }
    assert found == captured


async def test_metrics_count_tokens_hits_and_endings(engine: EngineClient) -> None:
    for _ in range(2):
        await engine.ask("word " * 60, max_tokens=3)
    text = (await engine.get("/metrics")).text
    labels = 'engine="0",model_name="tiny"'
    usage = (await engine.ask("word " * 60, max_tokens=1)).json()["usage"]
    assert f"vllm:prefix_cache_queries_total{{{labels}}} {2.0 * usage['prompt_tokens']}" in text
    assert f"vllm:prefix_cache_hits_total{{{labels}}} {float(usage['prompt_tokens_details']['cached_tokens'])}" in text
    assert 'vllm:request_success_total{engine="0",finished_reason="length",model_name="tiny"} 2.0' in text
    assert f"vllm:generation_tokens_total{{{labels}}} 6.0" in text
    assert f"vllm:time_to_first_token_seconds_count{{{labels}}} 2.0" in text
    assert 'block_size="16"' in text
    assert 'num_gpu_blocks="25600"' in text


async def test_tokenize_and_detokenize_have_the_captured_fields_and_round_trip(engine: EngineClient) -> None:
    body = {"model": "tiny", "prompt": "hello there", "return_token_strs": True}
    answer = (await engine.post("/tokenize", json=body)).json()
    assert shape(answer) == shape(sample_body("err_tokenize_prompt"))
    assert answer["token_strs"] == ["hello", "\u0120there"]
    back = await engine.post("/detokenize", json={"model": "tiny", "tokens": answer["tokens"]})
    assert back.json() == {"prompt": "hello there"}
    chat = (await engine.post("/tokenize", json={"messages": HELLO})).json()
    assert chat["count"] == (await engine.ask(max_tokens=1)).json()["usage"]["prompt_tokens"]
    assert (await engine.post("/detokenize", json={"tokens": [2**40]})).status_code == 400


async def test_sleep_and_pause_are_answered_as_captured_and_leave_the_engine_as_it_was_seen(
    engine: EngineClient,
) -> None:
    assert await transcript(engine, patience=0.5) == sample("sleep").splitlines()
