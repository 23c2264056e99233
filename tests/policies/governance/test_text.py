"""Repetition, refusals and watched words: what they say of clear cases, and that they never fail."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.governance.text import _REFUSALS, occurrences, refuses, repetition

WORDS = [f"word{number}" for number in range(500)]


def test_a_text_that_is_stuck_repeats_itself_and_another_does_not() -> None:
    varied = " ".join(random.Random(1).sample(WORDS, 400))
    assert repetition(varied) == 0.0
    stuck = repetition("and so on " * 300)
    assert stuck is not None
    assert stuck > 0.98
    half = repetition(varied + " the end is near now" * 80)
    assert half is not None
    assert 0.4 < half < 0.6


def test_its_value_is_the_share_of_grams_that_were_there_before() -> None:
    assert repetition("a b c d e f g h a b c d") == pytest.approx(1 / 9)


def test_where_words_have_no_spaces_characters_count() -> None:
    varied = "".join(chr(0x4E00 + number) for number in range(500))
    assert repetition(varied) == 0.0
    stuck = repetition("我们可以继续吗" * 100)
    assert stuck is not None
    assert stuck > 0.98


@pytest.mark.parametrize("text", ["", "a", "only a few words here"])
def test_of_a_short_text_nothing_is_said(text: str) -> None:
    assert repetition(text) is None


@given(st.text(max_size=400))
def test_it_is_a_share_whatever_the_text(text: str) -> None:
    found = repetition(text)
    assert found is None or 0.0 <= found < 1.0


@given(st.lists(st.sampled_from(WORDS), min_size=20, max_size=200, unique=True))
def test_a_text_said_twice_repeats_all_but_what_lies_over_the_seam(words: list[str]) -> None:
    assert repetition(" ".join(words)) == 0.0
    assert repetition(" ".join(words * 2)) == pytest.approx((len(words) - 3) / (2 * len(words) - 3))


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, but I can\u2019t help with that.",
        "Unfortunately I cannot provide instructions.",
        "As an AI language model, I have no opinion.",
        "Es tut mir leid, das geht nicht.",
        "Ich kann dir dabei leider nicht helfen.",
        "Lo siento, no puedo ayudar con eso.",
        "Je suis désolé, mais je ne peux pas.",
        "抱歉。我无法回答。",
        "申し訳ありませんが、お答えできません。",
    ],
)
def test_the_words_of_a_refusal_are_known_at_the_beginning_alone(text: str) -> None:
    assert refuses(text)
    assert not refuses("Here is what you have asked for. " * 20 + text)


@pytest.mark.parametrize("text", ["", "Sure! Here is the code.", "Canberra is the capital of Australia.", "icannot"])
def test_an_answer_is_no_refusal(text: str) -> None:
    assert not refuses(text)


def test_watched_words_are_counted_whatever_their_case() -> None:
    assert occurrences("Gold, gold and GOLD; no silver.", ["gold", "silver", "bronze"]) == {"gold": 3, "silver": 1}


@given(st.from_regex(_REFUSALS) | st.text("im'\u2019 canotsryble", max_size=40))
def test_what_is_looked_for_first_misses_no_refusal(text: str) -> None:
    beginning = text[:300].casefold().replace("\u2019", "'")
    assert refuses(text) == (_REFUSALS.search(beginning) is not None)
