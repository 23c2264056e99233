"""Streams with stop strings that break anywhere, any number of times: the client sees the unbroken one."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from policies.stop_strings import StopRule
from router.errors import EngineAborted, EngineDiverged
from router.wire.continuation import Continuation, Request, ending, seam_of
from router.wire.held_back import HeldBack, Seam
from router.wire.openai import APIS, read_body
from router.wire.progress import Progress
from router.wire.token_tap import TokenTap, tap
from tests.router.stopping_engine import Asked, Output, grown, merged, outputs
from tests.router.test_wire_token_tap import DONE, dumps, event, role

SAMPLE = Path(__file__).parents[1] / "engine" / "samples" / "stop_strings.json"
CASES: list[dict[str, Any]] = json.loads(SAMPLE.read_text())["cases"]
PROMPT = [1, 2, 3]
FIRST_ID = 100
SPECS = {"chat": APIS["/v1/chat/completions"], "completions": APIS["/v1/completions"]}


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['stop']} {case['include']} {case['min_tokens']}")
def test_the_engine_of_these_tests_does_as_the_captured_one(case: dict[str, Any]) -> None:
    asked = Asked(tuple(case["stop"]), case["include"], case["min_tokens"], len(case["texts"]))
    captured = [Output(*one) for one in case["events"]]
    assert merged(outputs(case["texts"], asked), [one.tokens for one in captured]) == captured


def chunk(api: str, one: Output, ids: list[int] | None, prompt: list[int] | None = None) -> bytes:
    finish = f'"logprobs":null,"finish_reason":{dumps(one.finish)}'
    if api == "completions":
        ends = f'{finish},"stop_reason":{dumps(one.stop)},"prompt_token_ids":{dumps(prompt)},"token_ids":{dumps(ids)}'
        return event(api, f'"choices":[{{"index":0,"text":{dumps(one.text)},{ends}}}]')
    stop = f',"stop_reason":{dumps(one.stop)}' if one.finish else ""
    return event(
        api,
        f'"choices":[{{"index":0,"delta":{{"content":{dumps(one.text)}}},{finish}{stop},"token_ids":{dumps(ids)}}}]',
    )


def stream(api: str, events: list[Output], prompt: int, start: int) -> list[bytes]:
    """The events of an engine whose prompt has so many tokens, and whose first token is number `start`."""
    out = [role(PROMPT)] if api == "chat" else []
    at = start
    for number, one in enumerate(events):
        ids = [FIRST_ID + place for place in range(at, at + one.tokens)]
        out.append(chunk(api, one, ids, PROMPT if api == "completions" and not number else None))
        at += one.tokens
    said = at - start
    counts = f'{{"prompt_tokens":{prompt},"total_tokens":{prompt + said},"completion_tokens":{said}}}'
    return [*out, event(api, f'"choices":[],"usage":{counts}'), DONE]


class Seen(NamedTuple):
    """One chunk as a client reads it."""

    id: str
    text: str | None = None
    finish: str | None = None
    stop: str | None = None
    counts: tuple[int, ...] = ()


def seen(data: bytes) -> list[Seen]:
    *events, done, nothing = data.decode().split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [_chunk(json.loads(one.removeprefix("data: "))) for one in events]


def _chunk(part: dict[str, Any]) -> Seen:
    counts = tuple((part.get("usage") or {}).values())
    if not part["choices"]:
        return Seen(part["id"], counts=counts)
    (one,) = part["choices"]
    text = one["text"] if "text" in one else one["delta"]["content"]
    return Seen(part["id"], text, one["finish_reason"], one.get("stop_reason"), counts)


class Gateway:
    """What `router.resume` does, without waiting: the tokens of the one true answer are known to every engine."""

    def __init__(self, api: str, tokens: list[bytes], asked: Asked) -> None:
        self.api, self.tokens, self.asked = api, tokens, asked
        fields: dict[str, Any] = {"stop": list(asked.stop), "include_stop_str_in_output": asked.include}
        fields |= {"max_tokens": asked.max_tokens, "min_tokens": asked.min_tokens, "model": "m", "stream": True}
        fields |= {"prompt": "p"} if api == "completions" else {"messages": []}
        self.request = Request(api, read_body(SPECS[api], json.dumps(fields).encode()), "m", "salt", media=False)
        self.progress = Progress(stops=self.request.stops)

    def unbroken(self, sizes: list[int]) -> bytes:
        events = merged(outputs(grown(self.tokens), self.asked), sizes)
        front = TokenTap(Progress(), self.api)
        return b"".join(front.feed(one) for one in stream(self.api, events, len(PROMPT), 0))

    def broken(self, sizes: list[int], cuts: list[int]) -> bytes:
        """The stream breaks behind so many events, then behind so many more, and so on, and then no more."""
        first = merged(outputs(grown(self.tokens), self.asked), sizes)
        out = self._fed(tap(self.progress, self.api), stream(self.api, first, len(PROMPT), 0)[: cuts[0]])
        for cut in [*cuts[1:], None]:
            if self.progress.finished:
                return out + ending(self.progress, self.api, b"")
            front, events = self._continued(sizes)
            out += self._fed(front, events[:cut])
        return out

    def _continued(self, sizes: list[int]) -> tuple[TokenTap, list[bytes]]:
        progress = self.progress
        if not progress.head:
            return tap(progress, self.api), stream(self.api, self._said(0, self.asked, sizes), len(PROMPT), 0)
        seam = seam_of(progress)
        assert seam is not None
        if seam.several:
            seam = seam._replace(ids=seam.ids - self._unfinished(seam.ids))
        if not seam.ids:
            events = stream(self.api, self._said(0, self.asked, sizes), len(PROMPT), 0)
            return Continuation(progress, self.api, seam, reshapes=False), events
        body = json.loads(self.request.by_tokens(progress, seam, self.asked.max_tokens - seam.ids))
        start = len(body["prompt"]) - len(PROMPT)
        assert body["prompt"] == [*PROMPT, *range(FIRST_ID, FIRST_ID + start)]
        include, least = body["include_stop_str_in_output"], body.get("min_tokens", 0)
        asked = Asked(tuple(body["stop"]), include, least, body["max_tokens"])
        events = stream("completions", self._said(start, asked, sizes), len(PROMPT) + start, start)
        return Continuation(progress, self.api, seam, reshapes=self.api == "chat"), events

    def _said(self, start: int, asked: Asked, sizes: list[int]) -> list[Output]:
        return merged(outputs(grown(self.tokens[start:]), asked), sizes)

    def _unfinished(self, ids: int) -> int:
        """What the tokenizer would tell: tokens at the end of so many that show nothing yet."""
        texts = grown(self.tokens[:ids])
        return next((count for count, text in enumerate(reversed(texts)) if text), ids)

    @staticmethod
    def _fed(front: TokenTap, events: list[bytes]) -> bytes:
        return b"".join(front.feed(one) for one in events)


LETTERS = st.sampled_from("abé漢😀 ")


@st.composite
def answers(draw: st.DrawFn) -> tuple[list[bytes], Asked]:
    """A text cut into tokens at any byte, and stop strings of which some are in it."""
    text = draw(st.text(LETTERS, min_size=1, max_size=24))
    data = text.encode()
    places = sorted({0, len(data), *draw(st.lists(st.integers(1, len(data)), max_size=30))})
    tokens = [data[start:end] for start, end in pairwise(places)]
    there = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 6)).map(lambda at: text[at[0] : at[0] + at[1]])
    stop = draw(st.lists(there | st.text(LETTERS, min_size=1, max_size=9), min_size=1, max_size=4))
    least = draw(st.integers(0, len(tokens)))
    return tokens, Asked(tuple(stop), draw(st.booleans()), least, draw(st.integers(1, len(tokens))))


CUTS = st.lists(st.integers(0, 26), min_size=1, max_size=4)


@settings(max_examples=200)
@given(st.sampled_from(["chat", "completions"]), answers(), CUTS)
@example("chat", ([b"ab", b"\xc3", b"\xa9b", b"ba"], Asked(("bb",), False, 0, 4)), [4])
@example("completions", ([b"a", b"b", b"a", b"b", b"c"], Asked(("bc", "zzz"), True, 3, 5)), [3, 1, 1])
def test_a_stream_cut_anywhere_is_chunk_for_chunk_the_unbroken_one(
    api: str, answer: tuple[list[bytes], Asked], cuts: list[int]
) -> None:
    gateway = Gateway(api, *answer)
    got, whole = (seen(one) for one in (gateway.broken([], cuts), gateway.unbroken([])))
    if max(map(len, answer[1].stop)) == 1:  # then nothing is held back, and a chunk without text may come twice
        got, whole = ([one for one in parts if one[1:] != ("", None, None, ())] for parts in (got, whole))
    assert got == whole


@settings(max_examples=200)
@given(st.sampled_from(["chat", "completions"]), answers(), CUTS, st.lists(st.integers(1, 5), max_size=6))
def test_so_are_its_text_and_end_where_engines_tell_of_several_tokens_at_once(
    api: str, answer: tuple[list[bytes], Asked], cuts: list[int], sizes: list[int]
) -> None:
    gateway = Gateway(api, *answer)
    got, whole = (seen(one) for one in (gateway.broken(sizes, cuts), gateway.unbroken(sizes)))
    assert "".join(one.text or "" for one in got) == "".join(one.text or "" for one in whole)
    ends = [[one[2:] for one in parts if one.finish or one.counts] for parts in (got, whole)]
    assert ends[0] == ends[1]


@settings(max_examples=50)
@given(st.integers(2, 40), st.booleans(), st.integers(1, 200), st.floats(0, 1), st.floats(0, 1))
def test_of_a_long_stream_no_more_is_kept_than_a_stop_string_may_reach_over(
    longest: int, shown: bool, length: int, first: float, second: float
) -> None:
    tokens = [b"%d " % number for number in range(length)]
    gateway = Gateway("completions", tokens, Asked(("z" * longest,), shown, 0, length))
    got = gateway.broken([], [int(first * length), int(second * length)])
    assert seen(got) == seen(gateway.unbroken([]))
    held = gateway.progress.held
    assert held is not None
    assert len(held._pieces) <= longest + 15


# -- one by one


def begun(texts: list[str], rule: StopRule) -> Progress:
    progress = Progress(stops=rule)
    front = tap(progress, "completions")
    for number, text in enumerate(texts):
        front.feed(chunk("completions", Output(1, text), [FIRST_ID + number], None if number else PROMPT))
    return progress


def test_streams_without_long_stop_strings_pay_for_nothing() -> None:
    for rule in (None, StopRule(0), StopRule(0, shown=True)):
        progress = Progress(stops=rule)
        assert progress.held is None
        assert type(tap(progress, "chat")) is TokenTap


def test_where_nothing_was_shown_the_answer_is_begun_again() -> None:
    assert seam_of(begun(["", ""], StopRule(3))) == Seam(0)


def test_a_stream_is_taken_up_at_the_last_end_of_a_token_that_is_wholly_shown() -> None:
    assert seam_of(begun(["", "ab", "cd", "ef"], StopRule(3))) == Seam(2, "f")


def test_where_stop_strings_are_shown_one_may_have_begun_before_the_cut() -> None:
    assert seam_of(begun(["ab", "cd", "ef"], StopRule(3, shown=True))) == Seam(1, "cdef")


def test_what_is_shown_behind_half_a_character_is_no_place_to_go_on() -> None:
    assert seam_of(begun(["ab", "c\ufffd", "ef"], StopRule(2, shown=True))) == Seam(1, "c\ufffdef")


def front(again: str, api: str = "completions") -> Continuation:
    progress = begun(["ab", "cd"], StopRule(3, shown=True))
    return Continuation(progress, api, Seam(1, again), reshapes=False)


@pytest.mark.parametrize(
    "one",
    [Output(1, "cx"), Output(1, "x"), Output(1, "c", "stop"), Output(1, "", "length"), Output(2, "dc")],
    ids=["other text", "another beginning", "too short", "nothing", "another order"],
)
def test_other_words_than_the_client_has_are_not_passed_on(one: Output) -> None:
    with pytest.raises(EngineDiverged):
        front("cd").feed(chunk("completions", one, [7]))


def test_an_answer_that_is_given_up_at_the_seam_is_a_failure_of_its_engine_and_changes_nothing() -> None:
    one = front("cd")
    with pytest.raises(EngineAborted):
        one.feed(chunk("completions", Output(1, "c", "abort"), [7]))
    assert seam_of(one.progress) == Seam(1, "cd")


def test_a_chunk_that_is_partly_there_goes_out_with_the_rest_of_its_text_and_is_else_the_same() -> None:
    text = 'cd"\\é\n "text":"x"'
    sent = chunk("completions", Output(1, text, "stop", "x"), [7])
    expected = chunk("completions", Output(1, text[2:], "stop", "x"), [7]).replace(b"[7]", b"null")
    assert front("cd").feed(sent) == expected


def test_an_engine_that_tells_no_ids_says_nothing_twice_either() -> None:
    one = front("cd")
    out = [one.feed(chunk("completions", Output(1, text), ids)) for text, ids in (("c", []), ("d", None), ("ef", None))]
    assert [seen(part + DONE)[0].text if part else "" for part in out] == ["", "", "ef"]
    assert one.progress.lost == "ids"


def test_an_engine_that_dies_within_what_it_says_again_leaves_the_client_where_it_was() -> None:
    """Nothing is taken on trust: only text that was said again is a place to go on from."""
    held = HeldBack(StopRule(2))
    held.begin(Seam(5, "abcdef"), 9)
    held.note_text(6, "ab", several=False)  # the engine is at `abcd`, of which `cd` is not to be seen yet
    assert held.seam() == Seam(5, "abcdef")
    held.note_text(7, "cd", several=False)
    assert held.seam() == Seam(6, "ef")
