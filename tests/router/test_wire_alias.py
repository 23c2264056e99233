"""The alias in answers: however an answer is cut, the pair changes and nothing else does."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from router.wire.alias import AliasRewriter, rename_in_error

ENGINE, ALIAS = "tiny", "qwen2-7b"
PAIRS = [b'"model":"tiny"', b'"model": "tiny"']
FRAGMENTS = [
    *PAIRS,
    b'"model":',
    b'"model"',
    b'"tiny"',
    b'"',
    b"model",
    b" ",
    b'"mode',
    b'l":"tin',
    b'y"',
    b"\\",
    b"{},",
]
anything = st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=6), max_size=12).map(b"".join)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=12)


def replaced(data: bytes, engine: str = ENGINE, alias: str = ALIAS) -> bytes:
    """What the rewriter should do, in one look at the whole answer."""
    old, new = (json.dumps(name, ensure_ascii=False).encode() for name in (engine, alias))
    return re.sub(b'"model":( ?)' + re.escape(old), lambda found: b'"model":' + found[1] + new, data)


def rewritten(pieces: list[bytes], engine: str = ENGINE, alias: str = ALIAS) -> bytes:
    rewriter = AliasRewriter(engine, alias)
    return b"".join(map(rewriter.feed, pieces)) + rewriter.flush()


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """`data` in pieces, some of them empty."""
    ends = sorted(min(place, len(data)) for place in places)
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


cuts = st.lists(st.integers(0, 80), max_size=12)


@given(anything, cuts)
def test_any_cut_of_any_answer_gives_what_replacing_in_the_whole_gives(data: bytes, places: list[int]) -> None:
    assume(not re.search(rb'"model": ?"tiny"(?=model":)', data))  # pairs that share a quote: the test below
    # Two in one line: which of them is the answer's own is a matter of where it stands, and has its own test.
    assume(not re.search(rb'"model": ?"tiny"[^\n]*"model": ?"tiny"', data))
    assert rewritten(cut(data, places)) == replaced(data)


@pytest.mark.parametrize("second", [b'model":"tiny"', b'model": "tiny"'])
@pytest.mark.parametrize("size", [1, 100])
def test_of_two_pairs_that_share_a_quote_only_the_first_changes_however_they_are_cut(second: bytes, size: int) -> None:
    data = PAIRS[0] + second  # no JSON; but the same bytes must come out however they were cut
    assert rewritten([data[at : at + size] for at in range(0, len(data), size)]) == replaced(data)


@given(anything, cuts)
def test_bytes_without_the_pair_are_passed_as_they_are(data: bytes, places: list[int]) -> None:
    assume(not any(pair in data for pair in PAIRS))
    assert rewritten(cut(data, places)) == data


@given(names, names, st.booleans(), cuts)
def test_names_that_json_escapes_are_found_and_written_escaped(
    engine: str, alias: str, spaced: bool, places: list[int]
) -> None:
    assume(not any(ord(letter) < 0x20 or letter == "\x7f" for letter in engine + alias))
    answer = {"id": "1", "model": engine, "choices": [{"text": f'"model":"{engine}"'}], "usage": None}
    separators = (", ", ": ") if spaced else (",", ":")
    data = json.dumps(answer, separators=separators, ensure_ascii=False).encode()
    assert json.loads(rewritten(cut(data, places), engine, alias)) == answer | {"model": alias}


def test_only_what_may_be_the_beginning_of_the_pair_is_held_back() -> None:
    rewriter = AliasRewriter(ENGINE, ALIAS)
    assert rewriter.feed(b'data: {"id":"1","model":"ti') == b'data: {"id":"1",'
    assert rewriter.feed(b"ny") == b""
    assert rewriter.feed(b'-2"}') == b'"model":"tiny-2"}'
    assert rewriter.feed(b'{"mo') == b"{"
    assert rewriter.flush() == b'"mo'
    assert rewriter.flush() == b""


@given(anything)
def test_every_byte_is_out_once_an_event_is_complete(data: bytes) -> None:
    rewriter = AliasRewriter(ENGINE, ALIAS)
    rewriter.feed(data + b"}\n\n")
    assert rewriter.flush() == b""


def test_a_pair_inside_a_string_of_the_model_is_left_alone() -> None:
    data = json.dumps(
        {"model": ENGINE, "text": 'say "model":"tiny" and "model": "tiny"'}, separators=(",", ":")
    ).encode()
    assert json.loads(rewritten([data]))["text"] == 'say "model":"tiny" and "model": "tiny"'


@pytest.mark.parametrize(
    "inside",
    [
        {"content": [{"type": "tool_use", "id": "t", "name": "deploy", "input": {"model": "tiny"}}]},
        {"metadata": {"model": "tiny"}},
    ],
    ids=["the input of a tool call in Anthropic's words", "metadata that the Responses API echoes"],
)
def test_a_field_called_model_inside_an_answers_objects_is_left_alone(inside: dict[str, object]) -> None:
    answer = {"id": "1", "model": ENGINE, **inside}
    assert json.loads(rewritten([json.dumps(answer).encode()])) == answer | {"model": ALIAS}


def test_an_errors_quoted_name_is_replaced_and_longer_names_are_not() -> None:
    body = b'{"error":{"message":"The model `tiny` is not `tiny-2`; tiny."}}'
    assert (
        rename_in_error(body, ENGINE, ALIAS) == b'{"error":{"message":"The model `qwen2-7b` is not `tiny-2`; tiny."}}'
    )
