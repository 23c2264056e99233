"""The request for what is missing of a stream, and its answer as the rest of that stream."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.resume import hindrance
from router.errors import BadEngineResponse, EngineAborted
from router.wire.continuation import (
    Continuation,
    Request,
    ending,
    judged_fields,
    said_usage,
    seam_of,
)
from router.wire.held_back import Seam
from router.wire.openai import APIS, read_body
from router.wire.progress import Progress
from router.wire.token_tap import TokenTap
from router.wire.usage import Usage
from tests.router.test_wire_token_tap import DONE, HEADS, role, said, usage

SPECS = {"chat": APIS["/v1/chat/completions"], "completions": APIS["/v1/completions"]}
OTHER_HEAD = '{"id":"cmpl-other","object":"text_completion","created":99,"model":"tiny",'


def request(api: str, *, media: bool = False, **fields: Any) -> Request:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]} if api == "chat" else {"prompt": "hi"}
    body = read_body(SPECS[api], json.dumps({"model": "alias", "stream": True, **asked, **fields}).encode())
    return Request(api, body, "tiny", "salt", media=media)


def begun(api: str, texts: list[tuple[str, list[int]]], *, keeps_text: bool = False) -> Progress:
    """A stream that has said this and broke."""
    progress = Progress(keeps_text=keeps_text)
    tap = TokenTap(progress, api)
    if api == "chat":
        tap.feed(role([1, 2, 3]))
    for number, (text, ids) in enumerate(texts):
        tap.feed(said(api, text, ids, prompt=[1, 2, 3] if api == "completions" and not number else None))
    return progress


def seam(progress: Progress) -> Seam:
    found = seam_of(progress)
    assert found is not None
    return found


def other(*events: bytes) -> list[bytes]:
    """The same events of another engine's answer."""
    return [event.replace(HEADS["completions"].encode(), OTHER_HEAD.encode()) for event in events]


# -- what is asked


def test_by_tokens_a_completion_of_all_ids_is_asked_with_what_is_left() -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "seed": 7, "logit_bias": {"5": 1}, "stop_token_ids": [9]}
    asked = request("chat", max_tokens=10, min_tokens=4, metadata={"a": "b"}, user="u", **sampling)
    progress = begun("chat", [("a", [4]), ("b", [5, 6])])
    assert json.loads(asked.by_tokens(progress, Seam(3), 7)) == {
        **sampling,
        "prompt": [1, 2, 3, 4, 5, 6],
        "model": "tiny",
        "cache_salt": "salt",
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "max_tokens": 7,
        "min_tokens": 1,
    }


def test_ids_whose_text_nobody_has_are_asked_again() -> None:
    progress = begun("chat", [("a", [4]), ("", [5]), ("", [6])])
    body = json.loads(request("chat", max_tokens=10).by_tokens(progress, seam(progress), 9))
    assert body["prompt"] == [1, 2, 3, 4]


def test_by_text_the_chat_is_asked_with_the_message_so_far() -> None:
    picture = [{"type": "image_url", "image_url": {"url": "http://x/y.png"}}]
    asked = request("chat", media=True, messages=[{"role": "user", "content": picture}], max_completion_tokens=9)
    progress = begun("chat", [('a"', [4]), (" é", [5])], keeps_text=True)
    body = json.loads(asked.by_text(progress, seam(progress), 7))
    assert body["messages"] == [{"role": "user", "content": picture}, {"role": "assistant", "content": 'a" é'}]
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (body["max_tokens"], body["cache_salt"], body["model"]) == (7, "salt", "tiny")
    assert "max_completion_tokens" not in body


@pytest.mark.parametrize(
    ("api", "fields", "bound"),
    [
        ("chat", {}, None),
        ("chat", {"max_tokens": 5}, 5),
        ("chat", {"max_tokens": 5, "max_completion_tokens": 8}, 8),
        ("completions", {}, 16),
        ("completions", {"max_tokens": 5}, 5),
    ],
)
def test_the_bound_is_the_one_that_the_engine_had(api: str, fields: dict[str, Any], bound: int | None) -> None:
    assert request(api, **fields).bound == bound


def test_a_client_that_asked_for_usage_in_every_chunk_gets_it_from_both_engines() -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    body = json.loads(request("chat", stream_options=options).by_tokens(begun("chat", [("a", [4])]), Seam(1), 5))
    assert body["stream_options"] == options


def test_fields_are_judged_without_null_and_without_the_gateways_own() -> None:
    fields = {"n": None, "tools": None, "priority": 5, "cache_salt": "x", "temperature": 0.5, "logprobs": True}
    body = read_body(SPECS["chat"], json.dumps({"model": "m", **fields}).encode())
    assert judged_fields(body.fields) == {"model": None, "temperature": None, "logprobs": True}
    assert hindrance(judged_fields(body.fields)) == "logprobs"


def test_text_that_ends_in_half_a_character_cannot_be_followed() -> None:
    assert seam_of(begun("chat", [("a", [4]), ("b\ufffd", [5])])) is None
    assert seam_of(begun("chat", [("\ufffdb", [4])])) == Seam(1)
    assert seam_of(begun("chat", [])) == Seam(0)


def test_only_a_last_chunk_of_several_tokens_may_hide_one() -> None:
    assert seam_of(begun("chat", [("ab", [4, 5])])) == Seam(2, several=True)
    assert seam_of(begun("chat", [("ab", [4, 5]), ("c", [6])])) == Seam(3)


# -- what comes back


def rest(
    api: str, progress: Progress, events: list[bytes], *, reshapes: bool | None = None
) -> tuple[bytes, Continuation]:
    front = Continuation(progress, api, seam(progress), reshapes=api == "chat" if reshapes is None else reshapes)
    return b"".join(front.feed(event) for event in events) + front.end(), front


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_continuation_reads_as_the_rest_of_the_stream(api: str) -> None:
    progress = begun(api, [("a", [4]), ("", [5])])
    events = other(
        said("completions", "b", [5], prompt=[1, 2, 3, 4]),
        said("completions", "", [6]),
        said("completions", "cé", [7], "length"),
        usage("completions"),
        DONE,
    )
    out, front = rest(api, progress, events)
    counts = b'{"prompt_tokens":3,"total_tokens":7,"completion_tokens":4}'
    expected = [said(api, "b", None), said(api, "", None), said(api, "cé", None, "length")]
    assert (
        out
        == b"".join(expected)
        + usage(api).replace(b'{"prompt_tokens":3,"total_tokens":6,"completion_tokens":3}', counts)
        + DONE
    )
    assert front.reported == Usage(3, 3, None)
    assert (list(progress.ids), progress.said, progress.prompt) == ([4, 5, 6, 7], 4, b"1,2,3")
    assert (progress.finished, progress.usage_sent, progress.done) == (True, True, True)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=6), st.lists(st.integers(0, 5000), max_size=6))
def test_however_a_continuation_is_cut_it_says_the_same(texts: list[str], cuts: list[int]) -> None:
    events = [said("completions", text, [9], "stop" if text is texts[-1] and i == len(texts) - 1 else None)
              for i, text in enumerate(texts)]  # fmt: skip
    data = b"".join(other(*events, usage("completions"), DONE))
    places = sorted({cut % len(data) for cut in cuts} - {0})
    pieces = [data[start:end] for start, end in zip([0, *places], [*places, len(data)], strict=True)]
    whole, _ = rest("chat", begun("chat", [("a", [4])]), [data])
    cut, _ = rest("chat", begun("chat", [("a", [4])]), pieces)
    assert cut == whole
    said_text = [json.loads(line[6:])["choices"] for line in whole.decode().split("\n\n")[:-2]]
    assert "".join(choices[0]["delta"]["content"] for choices in said_text if choices) == "".join(texts)


def test_usage_in_every_chunk_counts_what_both_have_said() -> None:
    progress = begun("chat", [("a", [4])])
    tail = ',"usage":{"prompt_tokens":4,"total_tokens":5,"completion_tokens":1}'
    out, _ = rest("chat", progress, [*other(said("completions", "b", [5], "stop", tail=tail)), DONE])
    assert b'"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2}' in out


def test_a_chat_begun_again_has_no_second_role() -> None:
    progress = begun("chat", [])
    events = [role([1, 2, 3]), said("chat", "a", [4], "stop"), usage("chat"), DONE]
    again = [event.replace(b"chatcmpl-1", b"chatcmpl-2") for event in events]
    out, _ = rest("chat", progress, again, reshapes=False)
    assert out == said("chat", "a", None, "stop") + usage("chat") + DONE


def test_reasoning_of_a_chat_begun_again_is_kept() -> None:
    progress = begun("chat", [])
    thought = said("chat", "x", [4]).replace(b'{"content":"x"}', b'{"reasoning":"x"}')
    out, _ = rest("chat", progress, [thought, said("chat", "a", [5], "stop"), DONE], reshapes=False)
    assert out == thought.replace(b"[4]", b"null") + said("chat", "a", None, "stop") + DONE


@pytest.mark.parametrize(
    "event", [b'data: {"error":{"message":"dead","code":500}}\n\n', said("completions", "", [], "abort")]
)
def test_a_continuation_that_fails_too_can_be_continued(event: bytes) -> None:
    progress = begun("chat", [("a", [4])])
    front = Continuation(progress, "chat", seam(progress), reshapes=True)
    front.feed(other(said("completions", "b", [5]))[0])
    with pytest.raises(EngineAborted):
        front.feed(event)
    assert (progress.said, list(progress.ids)) == (2, [4, 5])


def test_an_answer_of_another_kind_is_not_passed_on() -> None:
    front = Continuation(begun("chat", [("a", [4])]), "chat", Seam(1), reshapes=True)
    with pytest.raises(BadEngineResponse):
        front.feed(b'data: {"hello":1}\n\n')


# -- ends that the gateway writes


def test_what_a_finished_stream_still_owes_is_usage_and_the_end() -> None:
    progress = begun("chat", [("a", [4])])
    TokenTap(progress, "chat").feed(said("chat", "b", [5], "stop"))
    counts = b'"usage":{"prompt_tokens":3,"total_tokens":5,"completion_tokens":2},"system_fingerprint":"f"}\n\n'
    head = b"data: " + HEADS["chat"].encode()
    assert ending(progress, "chat", b',"system_fingerprint":"f"') == head + b'"choices":[],' + counts + DONE
    progress.usage_sent = True
    assert ending(progress, "chat", b"") == DONE
    progress.done = True
    assert ending(progress, "chat", b"") == b""


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_stream_that_is_as_long_as_it_may_be_ends_with_that(api: str) -> None:
    events = ending(begun(api, [("a", [4])]), api, b"").split(b"\n\n")
    assert events[0] + b"\n\n" == said(api, "", None, "length")
    assert events[2:] == [b"data: [DONE]", b""]


def test_what_was_said_is_told_where_it_is_known() -> None:
    assert said_usage(begun("chat", [("a", [4]), ("", [5])])) == Usage(3, 1, None)
    assert said_usage(Progress()) is None
