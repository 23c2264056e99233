"""Usage taken out of captured streams of a real vLLM: however they are cut, what is left is what a client gets that did
not ask. `*_asked` and `*_not_asked` are answers to the same request with and without `include_usage`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.stream_usage import BEHIND_BYTES, EVENT_BYTES, UsageRemover
from router.wire.usage import Usage, find_usage

HERE = Path(__file__).resolve().parent / "samples"
ENGINE = Path(__file__).resolve().parents[1] / "engine" / "samples"
PAIRS = ["chat_n3", "chat_ids", "completion", "completion_echo_only"]  # the same tokens in the same order in both
ASKED = {name: (HERE / f"{name}_asked.txt").read_bytes() for name in [*PAIRS, "completion_prompts"]}
# Captured with curl -i: the head is not the stream's.
ASKED["chat"] = (ENGINE / "chat_stream_usage.txt").read_bytes().partition(b"\r\n\r\n")[2]
ASKED["completion_short"] = (ENGINE / "completion_stream.txt").read_bytes()
UNTOUCHED = {
    "forced": (HERE / "chat_forced.txt").read_bytes(),
    "not asked": (HERE / "chat_n3_not_asked.txt").read_bytes(),
    "continuous": (ENGINE / "chat_stream_continuous_usage.txt").read_bytes(),
    "engine dead": (ENGINE / "engine_dead_event.txt").read_bytes(),
    "aborted": (ENGINE / "abort_end.txt").read_bytes(),
    "messages": (HERE / "messages_cached.txt").read_bytes(),
    "responses": (HERE / "responses_cached.txt").read_bytes(),
    "no events": b"\n\n\n\r\n\r\n\n",
    "half an event": b'data: {"id":"1","choices":[],"usa',
    "no blank line at the end": b'data: {"id":"1","choices":[],"usage":{"prompt_tokens":1}}\n',
    "a finished choice and no more": b'data: {"choices":[{"index":0,"finish_reason":"stop"}]}\n\n',
    "an error behind it": b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: {"error":{"code":500}}\n\n',
    "usage that is null": b'data: {"choices":[],"usage":null}\n\ndata: {"choices":[],"usage": 1}\n\n',
}
WORD = json.dumps('data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n', separators=(",", ":"))
CHUNK = b'data: {"choices":[{"index":%d,"delta":{"content":%b},"finish_reason":%b}]%b}\n\n'
TEXT = CHUNK % (0, WORD.encode(), b"null", b"")
FINGERPRINT = b',"system_fingerprint":"f-1"'
LAST = b'data: {"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2}%b}\n\n'
DONE = b"data: [DONE]\n\n"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, some of them empty."""
    ends = sorted(min(place, len(data)) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


def passed(pieces: list[bytes], remover: UsageRemover | None = None) -> bytes:
    remover = remover or UsageRemover()
    return b"".join(map(remover.feed, pieces)) + remover.flush()


def expected(data: bytes) -> bytes:
    """The same in one look at the whole stream, by a JSON parser's account of what each event is."""
    events = [event + b"\n\n" for event in data.split(b"\n\n")[:-1]]
    chunks = [json.loads(event[6:]) if event.startswith(b"data: {") else {} for event in events]
    usage = next(chunk for chunk in chunks if chunk.get("choices") == [] and chunk.get("usage"))
    stamp = b',"system_fingerprint":"%b"' % usage["system_fingerprint"].encode()
    kept = [(event, chunk) for event, chunk in zip(events, chunks, strict=True) if chunk is not usage]
    return b"".join(event[:-3] + stamp + event[-3:] if finishes(chunk) else event for event, chunk in kept)


def finishes(chunk: dict[str, list[dict[str, object]]]) -> bool:
    return any(choice["finish_reason"] is not None for choice in chunk.get("choices", []))


def named_alike(stream: bytes) -> bytes:
    """Without what differs between any two answers."""
    return re.sub(rb'"id":"[^"]*"|"created":\d+', b"", stream)


places = st.lists(st.integers(0, 2500), max_size=20)


@pytest.mark.parametrize("name", PAIRS)
def test_what_is_left_is_what_the_engine_sends_to_a_client_that_did_not_ask(name: str) -> None:
    without = (HERE / f"{name}_not_asked.txt").read_bytes()
    assert named_alike(passed([ASKED[name]])) == named_alike(without)


@pytest.mark.parametrize("name", ASKED)
@given(places=places)
def test_any_cut_of_a_captured_stream_gives_the_stream_without_usage(name: str, places: list[int]) -> None:
    remover = UsageRemover()
    assert passed(cut(ASKED[name], places), remover) == expected(ASKED[name])
    assert find_usage(remover.removed) == find_usage(ASKED[name])


@pytest.mark.parametrize("name", ASKED)
def test_byte_by_byte_it_is_the_same(name: str) -> None:
    data = ASKED[name]
    assert passed([data[at : at + 1] for at in range(len(data))]) == expected(data)


@pytest.mark.parametrize("name", ASKED)
@given(places=places)
def test_a_fingerprint_that_is_known_already_changes_nothing_but_the_wait(name: str, places: list[int]) -> None:
    first = UsageRemover()
    passed([ASKED[name]], first)
    assert first.fingerprint is not None
    assert passed(cut(ASKED[name], places), UsageRemover(first.fingerprint)) == expected(ASKED[name])


@pytest.mark.parametrize("name", UNTOUCHED)
@given(places=places)
def test_a_stream_without_such_a_chunk_is_not_changed(name: str, places: list[int]) -> None:
    assert passed(cut(UNTOUCHED[name], places)) == UNTOUCHED[name]


EVENTS = [
    TEXT, DONE, LAST % b"", LAST % FINGERPRINT, b": alive\n\n", b'data: {"error":{"code":500}}\n\n', b"\n", b"\r\n",
    CHUNK % (0, b'"a"', b'"stop"', b""), CHUNK % (1, b'"a"', b'"length"', FINGERPRINT), b'data: {"half', b"\xff\n\n",
    b'data: {"choices":[{}],"usage":{}}\n\n',
]  # fmt: skip


@given(st.lists(st.sampled_from(EVENTS), max_size=12).map(b"".join), places)
def test_any_stream_gives_the_same_however_it_is_cut_and_loses_nothing_else(data: bytes, places: list[int]) -> None:
    remover = UsageRemover()
    out = passed(cut(data, places), remover)
    assert out == passed([data])
    kept = data
    for last in (LAST % b"", LAST % FINGERPRINT):
        kept, out = kept.replace(last, b""), out.replace(last, b"")
    if b'"choices":[]' not in kept:
        assert out.replace(FINGERPRINT, b"") == kept.replace(FINGERPRINT, b"")


def test_a_chunk_passes_at_once_and_text_that_looks_like_usage_is_text() -> None:
    remover = UsageRemover()
    assert remover.feed(TEXT) is TEXT
    assert remover.feed(TEXT + b": keep-alive\n\n" + TEXT) == TEXT + b": keep-alive\n\n" + TEXT
    assert remover.removed == b""


def test_lines_that_end_in_cr_lf_are_understood() -> None:
    data = (TEXT + CHUNK % (0, b'"a"', b'"stop"', b"") + LAST % FINGERPRINT + DONE).replace(b"\n\n", b"\r\n\r\n")
    wanted = (TEXT + CHUNK % (0, b'"a"', b'"stop"', FINGERPRINT) + DONE).replace(b"\n\n", b"\r\n\r\n")
    assert passed([data]) == passed([data[at : at + 1] for at in range(len(data))]) == wanted


def test_while_other_choices_go_on_a_finished_one_waits_for_its_fingerprint_only_where_it_is_not_known() -> None:
    finished, other = CHUNK % (0, b'"a"', b'"stop"', b""), CHUNK % (1, b'"b"', b"null", b"")
    unknown, known = UsageRemover(), UsageRemover(FINGERPRINT)
    assert unknown.feed(finished) == unknown.feed(other) == b""
    assert unknown.feed(LAST % FINGERPRINT) == CHUNK % (0, b'"a"', b'"stop"', FINGERPRINT) + other
    assert known.feed(finished) == b""
    assert known.feed(other) == CHUNK % (0, b'"a"', b'"stop"', FINGERPRINT) + other
    assert known.feed(other) == other


def test_of_a_known_fingerprint_and_the_engines_own_its_own_counts() -> None:
    remover = UsageRemover(b',"system_fingerprint":"old"')
    assert remover.feed(CHUNK % (0, b'"a"', b'"stop"', b"")) == b""
    assert remover.feed(LAST % FINGERPRINT) == CHUNK % (0, b'"a"', b'"stop"', FINGERPRINT)
    assert remover.fingerprint == FINGERPRINT


def test_an_engine_without_a_fingerprint_or_without_usage_is_known_to_have_none() -> None:
    without, ignorant = UsageRemover(), UsageRemover()
    data = CHUNK % (0, b'"a"', b'"stop"', b"")
    assert passed([data, LAST % b"", DONE], without) == data + DONE
    assert passed([data, DONE], ignorant) == data + DONE
    assert without.fingerprint == ignorant.fingerprint == b""


def test_what_waits_behind_a_finished_choice_is_bounded() -> None:
    remover, other = UsageRemover(), CHUNK % (1, b'"b"', b"null", b"")
    fed = CHUNK % (0, b'"a"', b'"stop"', b"")
    out = remover.feed(fed)
    while not out:
        out, fed = remover.feed(other), fed + other
    assert out == fed
    assert BEHIND_BYTES < len(out) < BEHIND_BYTES + 2 * len(TEXT)
    assert remover.feed(other) == other


@pytest.mark.parametrize("size", [1000, 65536])
def test_an_event_too_long_to_hold_passes_and_the_next_is_seen_again(size: int) -> None:
    long = CHUNK % (0, b'"%b"' % (b"x" * 2 * EVENT_BYTES), b'"length"', b"")
    data = long + CHUNK % (0, b'"a"', b'"stop"', b"") + LAST % FINGERPRINT + DONE
    remover, most = UsageRemover(), 0
    out = b""
    for at in range(0, len(data), size):
        out += remover.feed(data[at : at + size])
        most = max(most, at + size - len(out))
    assert out + remover.flush() == long + CHUNK % (0, b'"a"', b'"stop"', FINGERPRINT) + DONE
    assert most <= EVENT_BYTES + size


def test_when_a_stream_breaks_whole_events_are_given_back_and_a_half_one_is_not() -> None:
    remover, finished = UsageRemover(), CHUNK % (0, b'"a"', b'"stop"', b"")
    assert remover.feed(TEXT + finished + b'data: {"choi') == TEXT
    assert not remover.inside_event
    assert remover.give_up() == finished
    assert remover.flush() == b""


def test_an_event_of_which_a_part_is_out_is_told() -> None:
    remover = UsageRemover()
    remover.feed(b'data: {"choices":[{"text":"' + b"x" * EVENT_BYTES)
    assert remover.inside_event
    remover.feed(b'"}]}\n\n')
    assert not remover.inside_event


def test_an_engine_that_sends_usage_to_everybody_is_left_alone() -> None:
    remover = UsageRemover()
    assert passed([UNTOUCHED["forced"]], remover) == UNTOUCHED["forced"]
    assert remover.forced
    assert remover.removed == b""


@pytest.mark.parametrize(
    ("name", "usage"),
    [("chat_n3", Usage(18, 3, 0)), ("completion", Usage(6, 6, 0)), ("completion_prompts", Usage(15, 6, 0))],
)
def test_the_usage_that_was_taken_out_can_be_read(name: str, usage: Usage) -> None:
    remover = UsageRemover()
    passed([ASKED[name]], remover)
    assert find_usage(remover.removed) == usage
