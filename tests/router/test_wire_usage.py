"""Usage in captured answers of a real vLLM, in the other dialects, and in bytes that no engine should send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.events import read_whole
from router.wire.openai import APIS
from router.wire.usage import Told, Usage, find_fingerprint, find_finish, find_usage

SAMPLES = Path(__file__).resolve().parents[1] / "engine" / "samples"
OURS = Path(__file__).resolve().parent / "samples"
CHAT = "/v1/chat/completions"
USAGE = b'"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10}'
FRAGMENTS = [
    b'"usage":',
    b"{",
    b"}",
    b"null",
    b'"prompt_tokens":7',
    b",",
    b" ",
    b"\n",
    b"\xff",
    b'"',
    b"[",
    b"]",
    b'"a":',
]


def sample(name: str) -> bytes:
    return (SAMPLES / f"{name}.txt").read_bytes()


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("chat_nonstream", Usage(39, 8, 0)),
        ("chat_stream_usage", Usage(15, 4, 0)),
        ("completion_nonstream", Usage(3, 4, 0)),
        ("completion_stream", Usage(3, 3, 0)),
        ("chat_stream_no_usage", None),
        ("cont_stream", None),
        ("engine_dead_event", None),
        ("abort_end", None),
        ("err_too_long", None),
    ],
)
def test_usage_is_found_where_a_real_engine_says_it(name: str, usage: Usage | None) -> None:
    assert find_usage(sample(name)) == usage


def test_of_continuous_usage_the_last_counts() -> None:
    assert find_usage(sample("chat_stream_continuous_usage")) == Usage(15, 3, 0)


def test_the_responses_apis_words_are_understood() -> None:
    response = {
        "id": "resp_1",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": '"usage":{"input_tokens":1}'}]}],
        "usage": {
            "input_tokens": 9,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 12,
        },
        "user": None,
    }
    event = b"event: response.completed\ndata: " + json.dumps({"response": response}).encode() + b"\n\n"
    assert find_usage(event) == Usage(9, 3, 4)


def test_anthropics_words_are_understood() -> None:
    delta = {"type": "message_delta", "usage": {"input_tokens": 9, "output_tokens": 3, "cache_read_input_tokens": 4}}
    event = (
        b"event: message_delta\ndata: "
        + json.dumps(delta).encode()
        + b'\n\nevent: message_stop\ndata: {"type":"x"}\n\n'
    )
    assert find_usage(event) == Usage(13, 3, 4), "Anthropic's input tokens leave out the cached ones"


@pytest.mark.parametrize("name", ["messages_cached", "responses_cached"])
def test_streams_that_carry_usage_anyway_tell_the_whole_prompt_and_what_was_cached(name: str) -> None:
    """One prompt of 114 tokens, of which 96 were in the cache, in both APIs."""
    events = (OURS / f"{name}.txt").read_bytes().split(b"\n\n")
    assert find_usage(b"\n\n".join(events)) == Usage(114, 4, 96)
    assert find_usage(b"\n\n".join(events[-4:])) == Usage(114, 4, 96), "it is in the last pieces of a stream"


@pytest.mark.parametrize(
    "later", [b'"usage":null', b'"usage":{"prompt_tok', b'"usage":[]', b'"usage":', b'"usage":"x"']
)
def test_a_usage_that_is_none_does_not_hide_the_one_before(later: bytes) -> None:
    assert find_usage(b"{" + USAGE + b"}\n\n{" + later) == Usage(7, 3, None)


def test_what_was_written_to_the_cache_is_prompt_too_in_anthropics_words() -> None:
    usage = (
        b'"usage":{"input_tokens":18,"output_tokens":4,"cache_creation_input_tokens":96,"cache_read_input_tokens":0}'
    )
    assert find_usage(b"{" + usage + b"}") == Usage(114, 4, 0)


def test_usage_that_a_model_wrote_is_text() -> None:
    assert find_usage(json.dumps({"content": '{"usage":{"prompt_tokens":1000000}}'}).encode()) is None


@pytest.mark.parametrize("name", ["chat_nonstream", "chat_stream_usage", "completion_stream"])
def test_a_captured_answer_cut_anywhere_never_raises_and_never_gives_half_a_usage(name: str) -> None:
    data = sample(name)
    found = {find_usage(data[:end]) for end in range(len(data) + 1)}
    assert found == {None, find_usage(data)}


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=40).map(b"".join))
def test_no_bytes_raise(data: bytes) -> None:
    found = find_usage(data)
    assert found is None or found.total_tokens >= 0


@given(st.data())
def test_a_damaged_answer_never_raises(data: st.DataObject) -> None:
    answer = bytearray(sample("chat_stream_usage")[-600:])
    for place in data.draw(st.lists(st.integers(0, len(answer) - 1), max_size=8)):
        answer[place] = data.draw(st.integers(0, 255))
    found = find_usage(bytes(answer))
    assert found is None or 0 <= found.total_tokens < 2**53


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_usage_nested_without_end_is_none(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}[opening]
    depth = 4000 // len(opening + closing)
    inner = opening * depth + b"1" + closing * depth
    assert find_usage(b'{"usage":{"prompt_tokens":1,"x":' + inner + b"}}") is None


@pytest.mark.parametrize("count", [b"-5", b"9" * 400])
def test_counts_that_no_engine_can_have_are_not_believed(count: bytes) -> None:
    found = find_usage(b'{"usage":{"prompt_tokens":' + count + b',"completion_tokens":' + count + b"}}")
    assert found is None or 0 <= found.total_tokens < 2**53


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n\ndata: [DONE]\n\n', "length"),
        (b'{"choices":[{"finish_reason":"stop"},{"finish_reason":"tool_calls"}]}', "tool_calls"),
        (b'{"choices": [{"finish_reason": "stop", "stop_reason": null}]}', "stop"),
        (b'{"content":[],"stop_reason":"end_turn","usage":{}}', "end_turn"),
        (b'{"choices":[{"delta":{"content":"\\"finish_reason\\":\\"stop\\""},"finish_reason":null}]}', None),
        (b'{"finish_reason":"' + b"x" * 50 + b'"}', None),
        (b'{"finish_reason":"st', None),
        (b'{"finish_reason":"\xff"}', None),
        (b"", None),
    ],
)
def test_why_an_answer_ended_is_read_in_the_engines_word(data: bytes, word: str | None) -> None:
    assert find_finish(data) == word


def searched(body: bytes) -> Told:
    return Told(find_usage(body), find_finish(body), find_fingerprint(body))


@pytest.mark.parametrize(("name", "path"), [("chat_nonstream", CHAT), ("completion_nonstream", "/v1/completions")])
def test_a_captured_answer_says_the_same_read_once_as_searched(name: str, path: str) -> None:
    captured = sample(name)
    body = captured[captured.index(b"{") : captured.rindex(b"}") + 1]
    found = read_whole(body, APIS[path])
    assert found is not None
    assert found == searched(body)
    assert found.usage is not None
    assert found.finish_reason == "length"


_counts = st.none() | st.integers(0, 2**40)
_usages = st.fixed_dictionaries(
    {}, optional={
        "prompt_tokens": _counts, "completion_tokens": _counts, "total_tokens": _counts,
        "prompt_tokens_details": st.none() | st.fixed_dictionaries({}, optional={"cached_tokens": _counts}),
    }
)  # fmt: skip
_words = st.none() | st.sampled_from(["stop", "length", "tool_calls", "", "no word", "x" * 50, 'a"b', "\u00e9t\u00e9"])
_choices = st.lists(
    st.fixed_dictionaries(
        {"message": st.just({"role": "assistant", "content": '"usage":{"prompt_tokens":9},"finish_reason":"x"'})},
        optional={"finish_reason": _words, "stop_reason": st.none() | st.integers(0, 9) | st.just("end")},
    ),
    min_size=1, max_size=3,
)  # fmt: skip
_answers = st.fixed_dictionaries(
    {"choices": _choices},
    optional={
        "usage": st.none() | _usages,
        "system_fingerprint": st.none() | st.sampled_from(["vllm-0.32.0-tp1", "fp_1", "", "two words", "x" * 200]),
        "object": st.just("chat.completion"),
    },
)


@given(_answers, st.booleans())
def test_any_answer_says_the_same_read_once_as_searched(answer: dict[str, Any], spaced: bool) -> None:
    body = json.dumps(answer, separators=(", ", ": ") if spaced else (",", ":")).encode()
    assert read_whole(body, APIS[CHAT]) == searched(body)


@pytest.mark.parametrize("odd", [b'"usage":{"prompt_tokens":-1}', b'"usage":"many"', b'"system_fingerprint":7'])
def test_odd_figures_make_no_answer_of_an_error_and_no_error_of_an_answer(odd: bytes) -> None:
    good = b'{"choices":[{"finish_reason":"stop"}],' + odd + b"}"
    assert read_whole(good, APIS[CHAT]) == Told(None, "stop", None)
    assert read_whole(b'{"error":{"message":"x"},' + odd + b"}", APIS[CHAT]) is None
    assert read_whole(b'{"choices":[{"finish_reason":"abort"}],' + odd + b"}", APIS[CHAT]) is None
