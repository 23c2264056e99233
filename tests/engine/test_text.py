"""Tokens round-trip, and a reply that is continued is the same reply."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.engine.text import END, Reply, decode, encode, example_of, id_bytes, render_chat, spoken_tokens

TEXT = (
    st.text() | st.text(alphabet="ab AB<|>\n  12é中😀") | st.sampled_from(["<|start|>user\nhi<|end|>", "<|", "<|end"])
)


@given(st.lists(TEXT).map("".join))
def test_any_text_round_trips(text: str) -> None:
    assert decode(encode(text)) == text.encode("utf-8", "replace").decode()


@given(TEXT)
def test_ids_fit_into_31_bits_and_stand_for_one_piece_each(text: str) -> None:
    for token in encode(text):
        assert 0 <= token < 2**31
        assert id_bytes(token)


@given(st.integers(-(2**33), 2**33))
def test_an_id_has_exactly_one_text_or_none(token: int) -> None:
    try:
        piece = id_bytes(token)
    except ValueError:
        return
    assert id_bytes(token) == piece
    assert len(piece) <= 16


def test_english_has_about_four_bytes_a_token() -> None:
    text = "The engine holds the prefix in its cache, so the second answer starts sooner than the first one did. " * 5
    assert 3.3 < len(text) / len(encode(text)) < 5


@given(st.text(max_size=40), st.integers(0, 30))
def test_a_reply_continues_from_its_own_text_and_from_its_ids(prompt: str, cut: int) -> None:
    chat = [{"role": "user", "content": prompt}]
    ids = encode(render_chat(chat))
    whole = say(ids, 40)
    part = [*chat, {"role": "assistant", "content": decode(whole[:cut])}]
    resumed = encode(render_chat(part, header=False, open_end=True))
    assert resumed == ids + whole[:cut]
    assert say(resumed, 40 - cut) == whole[cut:]
    assert spoken_tokens(resumed) == cut


def say(ids: list[int], tokens: int) -> list[int]:
    reply = Reply("tiny", ids, ends_after=None)
    return [reply.next() for _ in range(tokens)]


def test_another_voice_or_prompt_says_something_else() -> None:
    ids = encode("hello")
    assert say(ids, 20) != say(encode("hullo"), 20)
    other = Reply("other", ids, ends_after=None)
    assert say(ids, 20) != [other.next() for _ in range(20)]


def test_a_reply_ends_where_it_should() -> None:
    reply = Reply("tiny", [7], ends_after=3)
    assert [reply.next() for _ in range(3)][-1] == END


def test_a_prompt_that_is_no_chat_has_no_turn_to_end() -> None:
    assert spoken_tokens(encode("once upon a time")) is None
    assert spoken_tokens(encode(render_chat([{"role": "user", "content": "x"}], header=False))) is None


def test_images_count_by_what_they_are_and_parts_by_their_text() -> None:
    def rendered(url: str) -> str:
        parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": url}}]
        return render_chat([{"role": "user", "content": parts}])

    assert rendered("a") != rendered("b")
    assert rendered("a").startswith("<|start|>user\nlook\n<|image|>")


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (
            {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
            {"city": "word", "days": 1},
        ),
        ({"enum": ["c", "f"]}, "c"),
        ({"type": "array", "items": {"type": "boolean"}}, [True]),
        ({"anyOf": [{"type": "null"}, {"type": "string"}]}, None),
        ({}, "word"),
    ],
)
def test_example_arguments_fit_their_schema(schema: dict[str, object], value: object) -> None:
    assert example_of(schema) == value
    assert json.loads(json.dumps(example_of(schema))) == value
