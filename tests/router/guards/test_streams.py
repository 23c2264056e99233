"""Streams of every API through the rules: what a client joins is what whole texts would have become."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.guards.answers import AnswerGuard
from router.guards.recognisers import PII
from router.guards.rules import Action, Rule, Search, searches
from router.guards.streams import EVENT_BYTES, Screen
from router.guards.words import deny_list
from router.wire.openai import APIS
from tests.router.guards import events
from tests.router.guards.events import DONE, read, texts
from tests.router.guards.samples import TEXTS, all_searches, cut, passed, rule

SPECS = {spec.name: spec for spec in APIS.values() if spec.output_fields}
REDACT = [rule("pii", Action.REDACT, *PII.values()), rule("deny", Action.REDACT, deny_list(["bomb", "secret plan"]))]
BLOCK = [rule("deny", Action.BLOCK, deny_list(["bomb", "secret plan"]))]
Make = Callable[[Sequence[str]], list[bytes]]
SHAPES: dict[str, tuple[str, Make]] = {
    "chat": ("chat", lambda pieces: [*events.chat(pieces), DONE]),
    "reasoning": ("chat", lambda pieces: [*events.chat(pieces, key="reasoning_content"), DONE]),
    "arguments": ("chat", lambda pieces: [*events.chat(pieces, key="arguments"), DONE]),
    "completions": ("completions", lambda pieces: [*events.completions(pieces), DONE]),
    "messages": ("messages", events.messages),
    "thinking": ("messages", lambda pieces: events.messages(pieces, key="thinking")),
    "input": ("messages", lambda pieces: events.messages(pieces, key="partial_json")),
    "responses": ("responses", events.responses),
    "calls": ("responses", lambda pieces: events.responses(pieces, kind="function_call_arguments")),
}
ALL = pytest.mark.parametrize("shape", SHAPES)


def screen(api: str, rules: Sequence[Rule], found: Sequence[Search] | None = None) -> Screen:
    return AnswerGuard(SPECS[api], rules, searches(rules) if found is None else found, lambda: 0.0).stream()


def through(watched: Screen, stream: bytes, places: Sequence[int] = ()) -> bytes:
    """What passes of a stream that comes in pieces cut at these places."""
    ends = sorted({place % (len(stream) + 1) for place in places})
    pieces = [stream[begin:end] for begin, end in zip([0, *ends], [*ends, len(stream)], strict=True)]
    out = b"".join(map(watched.feed, pieces))
    return out + (watched.end() if not watched.stopped else b"") + (watched.ending() if watched.stopped else b"")


@ALL
@given(text=TEXTS, places=st.lists(st.integers(0, 500), max_size=30), cuts=st.lists(st.integers(0, 9999), max_size=9))
@settings(max_examples=60, deadline=None)
def test_what_a_client_joins_is_the_whole_text_as_the_rules_leave_it(
    shape: str, text: str, places: list[int], cuts: list[int]
) -> None:
    api, make = SHAPES[shape]
    found = all_searches()
    out = read(through(screen(api, REDACT, found), b"".join(make(cut(text, places))), cuts))
    want = passed(found, text, quotes=shape in ("arguments", "input", "calls"))
    assert list(texts(out).values()) == ([want] if want else [])


@ALL
@given(text=TEXTS, places=st.lists(st.integers(0, 500), max_size=30))
@settings(max_examples=40, deadline=None)
def test_what_repeats_the_text_at_the_end_of_responses_has_no_more(shape: str, text: str, places: list[int]) -> None:
    api, make = SHAPES[shape]
    if shape != "responses":
        return
    found = all_searches()
    out = read(through(screen(api, REDACT, found), b"".join(make(cut(text, places)))))
    want = passed(found, text)
    done = {event["type"]: event for event in out}
    assert done["response.output_text.done"]["text"] == want
    assert done["response.content_part.done"]["part"]["text"] == want
    assert done["response.output_item.done"]["item"]["content"][0]["text"] == want
    assert done["response.completed"]["response"]["output"][0]["content"][0]["text"] == want
    assert [event["sequence_number"] for event in out] == list(range(len(out)))


@ALL
def test_a_stream_with_nothing_in_it_keeps_its_bytes(shape: str) -> None:
    api, make = SHAPES[shape]
    stream = b"".join([b": keep-alive\n\n", *make(["one ", "two. ", "thr", "ee. "])])
    out = through(screen(api, [rule("x", Action.REDACT, deny_list(["qqq"]))]), stream)
    if api != "responses":
        assert out == stream
    assert read(out.replace(b": keep-alive\n\n", b"")) == read(stream.replace(b": keep-alive\n\n", b""))


@ALL
def test_a_rule_that_logs_passes_every_byte(shape: str) -> None:
    api, make = SHAPES[shape]
    stream = b"".join(make(["a bo", "mb for jane@", "acme.com"]))
    watched = screen(api, [rule("x", Action.LOG, deny_list(["bomb"]), *PII.values())])
    assert b"".join(watched.feed(stream[at : at + 7]) for at in range(0, len(stream), 7)) + watched.end() == stream
    assert watched.held >= 0
    assert watched._findings.counts == {("x", Action.LOG): 2}


@ALL
def test_a_stream_that_is_blocked_ends_in_the_words_of_its_api(shape: str) -> None:
    api, make = SHAPES[shape]
    watched = screen(api, BLOCK)
    out = through(watched, b"".join(make(["this is a bo", "mb and ", "more"])))
    assert watched.stopped
    got = read(out)
    assert list(texts(got).values()) == ["this is a "]
    assert b"mb and" not in out
    if api in ("chat", "completions"):
        assert out.endswith(DONE)
        assert [choice["finish_reason"] for choice in got[-1]["choices"]] == ["content_filter"]
        assert [event["choices"][0]["finish_reason"] for event in got[:-1]] == [None] * (len(got) - 1)
        assert {event["id"] for event in got} == {"c1"}
    elif api == "messages":
        assert [event["type"] for event in got[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
        assert got[-2]["delta"]["stop_reason"] == "refusal"
    else:
        assert got[-1]["type"] == "response.incomplete"
        assert got[-1]["response"]["incomplete_details"] == {"reason": "content_filter"}
        assert got[-1]["response"]["id"] == "r"
    assert watched.feed(b"".join(make(["more"]))) == b""


@given(TEXTS, TEXTS, st.lists(st.integers(0, 500), max_size=20), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_choices_that_are_mixed_do_not_mix(first: str, second: str, places: list[int], random: Any) -> None:
    streams = [events.chat(cut(text, places), index=index) for index, text in enumerate((first, second))]
    mixed = []
    while any(streams):
        mixed.append(random.choice([one for one in streams if one]).pop(0))
    found = all_searches()
    out = texts(read(through(screen("chat", REDACT, found), b"".join([*mixed, DONE]))))
    for index, text in enumerate((first, second)):
        assert out.get((index, "delta", "content"), "") == passed(found, text)


def test_of_several_choices_those_under_way_end_when_one_is_blocked() -> None:
    first, second = events.chat(["all fine"], index=0), events.chat(["a ", "bomb."], index=1)
    third = events.chat(["still going"], index=2)[:-1]
    out = read(through(screen("chat", BLOCK), b"".join([*first, *third, *second])))
    endings = {
        choice["index"]: choice["finish_reason"]
        for event in out
        for choice in event["choices"]
        if choice["finish_reason"]
    }
    assert endings == {0: "stop", 1: "content_filter", 2: "content_filter"}


def test_a_tools_name_is_not_held_back() -> None:
    out = read(through(screen("chat", REDACT), b"".join([*events.chat(["{}"], key="arguments"), DONE])))
    call = next(
        event["choices"][0]["delta"]["tool_calls"][0] for event in out if event["choices"][0]["delta"].get("tool_calls")
    )
    assert call["function"]["name"] == "send"


@pytest.mark.parametrize("shape", ["arguments", "input", "calls"])
def test_arguments_of_a_tool_stay_json(shape: str) -> None:
    api, make = SHAPES[shape]
    said = '{"card": 4111111111111111, "say \\" it": ["to jane@acme.com", 4111111111111111 ]}'
    out = texts(read(through(screen(api, REDACT), b"".join(make([said[:14], said[14:40], said[40:]])))))
    (joined,) = out.values()
    assert json.loads(joined) == {"card": "[credit-card]", 'say " it': ["to [email]", "[credit-card]"]}


def test_a_role_and_a_tools_id_go_out_though_their_text_is_held() -> None:
    call = {"index": 0, "id": "t", "type": "function", "function": {"name": "send", "arguments": "bo"}}
    for delta in ({"role": "assistant", "content": "bo"}, {"tool_calls": [call]}):
        chunk = {**events.HEAD, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        (passed_on,) = read(screen("chat", BLOCK).feed(events.data(chunk)))
        assert "bo" not in json.dumps(passed_on)
        assert passed_on["choices"][0]["delta"].keys() == delta.keys()


@ALL
def test_what_is_held_goes_out_before_the_event_that_ends_the_text(shape: str) -> None:
    api, make = SHAPES[shape]
    out = read(through(screen(api, BLOCK), b"".join(make(["a ", "bo"]))))
    last = max(at for at, event in enumerate(out) if texts([event]))
    assert list(texts([out[last]]).values()) == ["bo"]
    ends = [
        at
        for at, event in enumerate(out)
        if event.get("type", "") in ("content_block_stop", "response.output_text.done")
        or event.get("type") == "response.function_call_arguments.done"
        or any(choice["finish_reason"] for choice in event.get("choices", []))
    ]
    assert ends == [last + 1]


def test_text_that_is_divided_by_other_texts_is_found() -> None:
    stream = [
        *events.chat(["a bo"])[:-1],
        *events.chat(["hm"], key="reasoning_content")[1:-1],
        *events.chat(["mb."])[1:],
    ]
    watched = screen("chat", BLOCK)
    assert b"mb" not in through(watched, b"".join(stream))
    assert watched.stopped


def test_a_text_that_begins_with_its_block_is_one_with_what_follows() -> None:
    def start(text: str) -> bytes:
        block = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": text}}
        return events.data(block, "content_block_start")

    message = events.messages(["mb."])
    watched = screen("messages", BLOCK)
    out = through(watched, b"".join([message[0], start("a bo"), *message[2:]]))
    assert watched.stopped
    assert b"mb." not in out
    out = through(screen("messages", BLOCK), b"".join([message[0], start("a bo"), *message[3:]]))
    assert texts(read(out)) == {(0, "text"): "bo"}  # the rest of "a bo", as a piece of its own


@pytest.mark.parametrize("content", [["a bomb"], [{"type": "text", "text": "a bomb."}], {"deep": {"text": "a bomb."}}])
def test_texts_in_shapes_that_no_engine_has_are_found_too(content: Any) -> None:
    chunk = {**events.HEAD, "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}
    watched = screen("chat", BLOCK)
    assert b"bomb" not in through(watched, events.data(chunk) + DONE)
    assert watched.stopped


def test_what_is_held_goes_out_when_a_stream_breaks() -> None:
    watched = screen("chat", REDACT)
    events_so_far = events.chat(["write to jane@acme.com", " or bo"])[:-1]
    out = watched.feed(b"".join(events_so_far))
    assert texts(read(out)) == {(0, "delta", "content"): "write to [email] or "}
    assert texts(read(watched.end())) == {(0, "delta", "content"): "bo"}


def test_an_event_that_is_no_json_passes_only_without_what_is_forbidden() -> None:
    watched = screen("chat", BLOCK)
    assert watched.feed(b"data: something else\n\n") == b"data: something else\n\n"
    assert watched.feed(b"data: a bomb in\ndata: two lines\n\n") == b""
    assert watched.stopped


def test_an_event_without_end_is_not_kept_without_end() -> None:
    watched = screen("chat", BLOCK)
    piece = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 1_000_000
    for _ in range(EVENT_BYTES // len(piece) + 1):
        assert watched.feed(piece) == b""
    assert watched.stopped
    assert len(watched._events.part) == 0


@ALL
def test_a_stream_that_is_left_alone_needs_no_garbage_collector(shape: str) -> None:
    api, make = SHAPES[shape]
    watched = screen(api, REDACT)
    watched.feed(b"".join(make(["a bo"])[:-3]))
    gone = weakref.ref(watched)
    gc.disable()
    try:
        del watched
        assert gone() is None
    finally:
        gc.enable()


def test_an_error_of_the_engine_passes() -> None:
    watched = screen("chat", REDACT)
    event = events.data({"error": {"message": "it broke", "code": 500}})
    assert watched.feed(b"".join(events.chat(["and bo"])[:-1]) + event).endswith(event)
    assert json.loads(json.dumps({"held": watched.held})) == {"held": 0}
