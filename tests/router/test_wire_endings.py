"""How answers begin and end: captured ones of vLLM 0.32, cut anywhere, and those that only look good."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import EngineAborted, EngineClosed
from router.wire.endings import HELD_BYTES, StreamJudge, told_by
from router.wire.events import read_whole
from router.wire.openai import APIS
from router.wire.sse import EVENT_BYTES

CHAT, COMPLETIONS = APIS["/v1/chat/completions"], APIS["/v1/completions"]
MESSAGES, RESPONSES = APIS["/v1/messages"], APIS["/v1/responses"]

# As captured (shared/vllm_kit/samples: chat_stream_usage, completion_stream, kill_sigkill_engine, kill_sigterm_api).
HEAD = b'data: {"id":"chatcmpl-baebc16c2ac28032","object":"chat.completion.chunk","created":1795326452,"model":"tiny",'
ROLE = HEAD + (
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
    b'"prompt_token_ids":null,"prompt_text":null}\n\n'
)
WORD = HEAD + (
    b'"choices":[{"index":0,"delta":{"content":" yield"},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n'
)
EMPTY = WORD.replace(b" yield", b"")
STOP = WORD.replace(b'"finish_reason":null', b'"finish_reason":"length","stop_reason":null')
ABORT = EMPTY.replace(b'"finish_reason":null', b'"finish_reason":"abort","stop_reason":null')
USAGE = HEAD + b'"choices":[],"usage":{"prompt_tokens":15,"total_tokens":19,"completion_tokens":4}}\n\n'
ERROR = (
    b'data: {"error": {"message": "EngineCore encountered an issue. See stack trace (above) for the root cause.", '
    b'"type": "InternalServerError", "param": null, "code": 500}}\n\n'
)
DONE = b"data: [DONE]\n\n"
ALIVE = b": keep-alive\n\n"
GOOD = ROLE + WORD + WORD + STOP + USAGE + DONE
TEXT = (
    b'data: {"id":"cmpl-9e","object":"text_completion","created":1,"model":"tiny","choices":[{"index":0,"text":" upd",'
    b'"logprobs":null,"finish_reason":null,"stop_reason":null,"prompt_token_ids":null,"token_ids":null}]}\n\n'
)


def named(kind: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (kind.encode(), json.dumps({"type": kind, **fields}).encode())


START = named("message_start", message={"id": "m", "stop_reason": None}) + named("content_block_start", index=0)
SAID = named("content_block_delta", index=0, delta={"type": "text_delta", "text": "a"})
CREATED = named("response.created", response={"status": "in_progress"}) + named("response.in_progress", response={})
DELTA = named("response.output_text.delta", delta="a")


def judged(judge: StreamJudge, stream: bytes, cuts: list[int] | None = None) -> bytes:
    """What comes out of a stream that is cut at these places and ends cleanly."""
    out, at = b"", 0
    for cut in [*sorted({min(cut, len(stream)) for cut in cuts or []}), len(stream)]:
        if at < cut:
            out += judge.feed(stream[at:cut])
        at = cut
    return out + judge.flush()


Cuts = st.lists(st.integers(0, 3000), max_size=30)


@given(Cuts, st.booleans())
def test_a_good_stream_comes_out_as_it_went_in_however_it_is_cut(cuts: list[int], hold: bool) -> None:
    judge = StreamJudge(CHAT, hold=hold)
    assert judged(judge, GOOD, cuts) == GOOD
    assert (judge.failure, judge.complete, judge.refused) == (None, True, 0)


@given(Cuts, st.integers(0, 4), st.booleans())
def test_an_error_event_is_a_failure_though_done_follows_and_is_not_seen(
    cuts: list[int], words: int, crlf: bool
) -> None:
    stream = ROLE + words * WORD + ERROR + DONE
    good = ROLE + words * WORD
    if crlf:
        stream, good = stream.replace(b"\n", b"\r\n"), good.replace(b"\n", b"\r\n")
    judge = StreamJudge(CHAT)
    out = judged(judge, stream, cuts)
    assert isinstance(judge.failure, EngineAborted)
    assert out == (good if words else b""), "without content nothing has been seen of it"


@given(Cuts, st.integers(0, 4))
def test_an_abort_is_a_failure_and_the_text_of_its_chunk_goes_on(cuts: list[int], words: int) -> None:
    last = ABORT.replace(b'"content":""', b'"content":" rest"') if words % 2 else ABORT
    judge = StreamJudge(CHAT)
    out = judged(judge, ROLE + words * WORD + last + DONE, cuts)
    assert isinstance(judge.failure, EngineAborted)
    assert b"abort" not in out
    assert b"[DONE]" not in out
    assert out.count(b" yield") == words
    assert out.count(b" rest") == words % 2


@pytest.mark.parametrize("reason", ["abort", "error"])
def test_other_spellings_of_an_abort_are_seen_too(reason: str) -> None:
    judge = StreamJudge(CHAT)
    judge.feed(ROLE + WORD + b'data: {"choices": [{"delta": {}, "finish_reason": "%b"}]}\n\n' % reason.encode())
    assert isinstance(judge.failure, EngineAborted)


@pytest.mark.parametrize("end", [b"", STOP, STOP + USAGE, STOP + DONE[:-3]])
def test_a_stream_without_its_last_event_is_a_failure(end: bytes) -> None:
    judge = StreamJudge(CHAT)
    assert judged(judge, ROLE + WORD + end) == ROLE + WORD + (end if end.endswith(b"\n\n") else STOP if end else b"")
    assert isinstance(judge.failure, EngineClosed)


def test_words_of_a_model_are_never_taken_for_an_end() -> None:
    said = rb"\n\ndata: {\"error\": {}}\n\ndata: [DONE]\n\n\"finish_reason\":\"abort\" event: error"
    stream = ROLE + WORD.replace(b" yield", said) * 3 + STOP + DONE
    judge = StreamJudge(CHAT)
    assert judged(judge, stream, [len(ROLE), len(ROLE) + 200]) == stream
    assert judge.failure is None


def test_an_error_that_the_request_caused_is_passed_on() -> None:
    event = ERROR.replace(b"500", b"400").replace(b"InternalServerError", b"BadRequestError")
    judge = StreamJudge(CHAT)
    assert judged(judge, event + DONE) == event + DONE
    assert (judge.failure, judge.refused) == (None, 400)


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error":"The model is currently scaling. Please try again later."}\n\n',
        b'data:{"object":"error","message":"x","type":"InternalServerError","code":500}\n\n',
        b'data: {"error":{"message":"x","code":"500"}}\n\n',
        b'data: {"id":"x","error":{"message":"x"},"choices":[]}\n\n',
    ],
    ids=["a text", "an old vLLM", "a code in quotes", "in a chunk"],
)
def test_errors_have_many_shapes(event: bytes) -> None:
    judge = StreamJudge(CHAT)
    assert judge.feed(ROLE + event + DONE) == b""
    assert isinstance(judge.failure, EngineAborted)


# -- the beginning


def test_nothing_comes_out_before_the_first_content_and_then_all_does() -> None:
    judge = StreamJudge(CHAT)
    for piece in (ALIVE, ROLE[:40], ROLE[40:], ROLE.replace(b'"index":0', b'"index":1'), EMPTY):
        assert judge.feed(piece) == b""
    assert judge.holds
    assert judge.feed(WORD) == ALIVE + ROLE + ROLE.replace(b'"index":0', b'"index":1') + EMPTY + WORD
    assert not judge.holds
    assert judge.feed(ALIVE) == ALIVE, "later ones tell the client that somebody is there"


@pytest.mark.parametrize(
    ("said", "content"),
    [
        (b'{"reasoning":"hm"}', True),
        (b'{"content":"","reasoning":"hm"}', True),
        (b'{"role":"assistant","content":"\\""}', True),
        (b'{"tool_calls":[{"index":0}]}', True),
        (b'{"role":"assistant","content":"a"}', True),
        (b'{"role":"assistant","content":"","reasoning_content":null,"tool_calls":[]}', False),
        (b"{}", False),
    ],
)
def test_what_is_content(said: bytes, content: bool) -> None:
    judge = StreamJudge(CHAT)
    event = WORD.replace(b'{"content":" yield"}', said)
    assert judge.feed(event) == (event if content else b"")


def test_what_is_held_is_bounded_in_bytes_and_let_go_on_request() -> None:
    judge = StreamJudge(CHAT)
    long = ROLE.replace(b'"prompt_token_ids":null', b'"prompt_token_ids":[%b]' % (b"1," * (HELD_BYTES // 4) + b"1"))
    assert judge.feed(long) == b""
    assert judge.feed(long) == 2 * long
    other = StreamJudge(CHAT)
    other.feed(ROLE)
    assert other.release() == ROLE
    assert other.feed(EMPTY) == EMPTY, "the answer has begun"


def test_an_event_too_long_to_hold_passes_in_parts() -> None:
    judge = StreamJudge(CHAT)
    long = WORD.replace(b" yield", b"a" * (2 * EVENT_BYTES))
    stream = ROLE + long + STOP + DONE
    cuts = list(range(0, len(stream), 65_536))
    out = judge.feed(stream[: EVENT_BYTES + 500])
    assert out.startswith(ROLE)
    assert judge.inside_event
    assert out + judged(judge, stream[EVENT_BYTES + 500 :], cuts) == stream
    assert not judge.inside_event


def test_the_usual_piece_is_passed_without_a_copy() -> None:
    judge = StreamJudge(CHAT)
    judge.feed(ROLE + WORD)
    assert judge.feed(WORD) is WORD
    several = 4 * WORD
    assert judge.feed(several) is several


# -- other APIs


def test_completions_end_with_done_and_begin_with_text() -> None:
    judge = StreamJudge(COMPLETIONS)
    empty = TEXT.replace(b" upd", b"")
    assert judge.feed(empty) == b""
    assert judge.feed(TEXT + DONE) == empty + TEXT + DONE
    assert judge.complete


@pytest.mark.parametrize(
    ("spec", "opening", "content", "last"),
    [
        (MESSAGES, START, SAID, named("message_delta", delta={"stop_reason": "end_turn"}) + named("message_stop")),
        (
            RESPONSES,
            CREATED,
            DELTA,
            named("response.completed", response={"status": "completed", "output": [{"text": "a"}]}),
        ),
        (RESPONSES, CREATED, DELTA, named("response.incomplete", response={"status": "incomplete"})),
    ],
    ids=["messages", "responses", "responses cut by their bound"],
)
def test_named_events_are_held_passed_and_end(spec: Any, opening: bytes, content: bytes, last: bytes) -> None:
    judge = StreamJudge(spec)
    assert judge.feed(opening) == b""
    assert judge.feed(content) == opening + content
    assert judge.feed(content) is content
    assert judge.feed(last) + judge.flush() == last
    assert (judge.failure, judge.complete) == (None, True)


@pytest.mark.parametrize(
    ("spec", "start", "bad"),
    [
        (MESSAGES, START + SAID, named("error", error={"type": "internal_error", "message": "x"})),
        (MESSAGES, START + SAID, named("message_delta", delta={"stop_reason": None}) + named("message_stop")),
        (RESPONSES, CREATED + DELTA, named("error", code="500", message="x")),
        (RESPONSES, CREATED + DELTA, named("response.failed", response={"status": "failed"})),
        (RESPONSES, CREATED + DELTA, named("response.completed", response={"status": "cancelled"})),
        (RESPONSES, CREATED + DELTA, b'data: {"error": {"message": "x", "code": 500}}\n\n'),
    ],
    ids=["error", "abort", "error event", "failed", "cancelled", "error without a name"],
)
def test_named_events_that_end_badly_are_failures(spec: Any, start: bytes, bad: bytes) -> None:
    judge = StreamJudge(spec)
    assert judged(judge, start + bad) == start
    assert isinstance(judge.failure, EngineAborted)


def test_a_bad_request_inside_a_stream_of_messages_is_the_clients() -> None:
    event = named("error", error={"type": "BadRequestError", "message": "x"})
    judge = StreamJudge(MESSAGES)
    assert judged(judge, event) == event
    assert judge.refused == 400


# -- whole answers

MESSAGE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}


@pytest.mark.parametrize(
    ("spec", "body", "good"),
    [
        (CHAT, {"id": "1", "choices": [MESSAGE]}, True),
        (CHAT, {"id": "1", "choices": [MESSAGE, MESSAGE | {"finish_reason": "abort"}]}, False),
        (CHAT, {"id": "1", "choices": [MESSAGE | {"finish_reason": "error"}]}, False),
        (CHAT, {"error": {"message": "x", "code": 500}}, False),
        (CHAT, {"error": "scaling"}, False),
        (CHAT, {"object": "error", "message": "x"}, False),
        (CHAT, {"id": "1"}, False),
        (CHAT, {"id": "1", "choices": None}, False),
        (COMPLETIONS, {"choices": [{"text": '"finish_reason":"abort"', "finish_reason": "length"}]}, True),
        (MESSAGES, {"type": "message", "content": [], "stop_reason": "end_turn"}, True),
        (MESSAGES, {"type": "message", "content": [], "stop_reason": None}, False),
        (MESSAGES, {"type": "error", "error": {"type": "x"}}, False),
        (RESPONSES, {"object": "response", "status": "completed", "error": None}, True),
        (RESPONSES, {"object": "response", "status": "cancelled"}, False),
        (RESPONSES, {"object": "response", "status": "failed", "error": {"code": "x"}}, False),
        (APIS["/v1/embeddings"], {"data": [], "usage": {"prompt_tokens": 1}}, True),
        (APIS["/v1/embeddings"], {"error": {"message": "x"}}, False),
        (APIS["/tokenize"], {"count": 3, "tokens": [1, 2, 3]}, True),
        (APIS["/v1/messages/count_tokens"], {"input_tokens": 3}, True),
    ],
)
def test_a_body_with_a_good_status_is_an_answer_or_not(spec: Any, body: dict[str, Any], good: bool) -> None:
    data = json.dumps(body, separators=(",", ":")).encode()
    assert (read_whole(data, spec) is not None) is good


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"choices":[', b'{"choices":[],"a":' + b"[" * 5000])
def test_a_body_that_is_no_json_is_no_answer(body: bytes) -> None:
    with pytest.raises(EngineAborted):
        told_by(CHAT, body)


def test_the_captured_answers_are_good_ones() -> None:
    samples = Path(__file__).resolve().parents[3] / "shared" / "vllm_kit" / "samples"
    if not samples.exists():
        pytest.skip("the captures do not lie beside this checkout")
    for name, spec in (("chat_stream_usage", CHAT), ("chat_stream_no_usage", CHAT), ("completion_stream", COMPLETIONS)):
        stream = (samples / f"{name}.txt").read_bytes()
        stream = stream[stream.index(b"data: {") :].rstrip() + b"\n\n"
        judge = StreamJudge(spec)
        assert judged(judge, stream, list(range(0, len(stream), 97))) == stream, name
        assert judge.failure is None, name
