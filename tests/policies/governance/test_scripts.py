"""Scripts of texts, and the distance between two."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.governance.scripts import shares, shift


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("hello", "latin"), ("café", "latin"), ("привет", "cyrillic"), ("γειά", "greek"), ("שלום", "hebrew"),
        ("مرحبا", "arabic"), ("नमसत", "devanagari"), ("สวสด", "thai"), ("你好", "han"), ("こんにちは", "kana"),
        ("안녕", "hangul"), ("ბარევ", "other"), ("𠀀", "han"),
    ],
)  # fmt: skip
def test_a_text_in_one_script_has_all_of_it(text: str, script: str) -> None:
    assert shares(text) == {script: 1.0}


def test_digits_marks_and_signs_belong_to_none() -> None:
    assert shares("12:30 - {}[]!?\u2014\U0001f600") == shares("12:30") == shares("") == {}
    assert shares("3 кота") == {"cyrillic": 1.0}


def test_shares_are_of_letters() -> None:
    assert shares("abc 你") == {"latin": 0.75, "han": 0.25}


_texts = st.text(st.sampled_from("abzéяλ你한あ 1."), max_size=50)


@given(_texts)
def test_shares_add_up_to_one(text: str) -> None:
    found = shares(text)
    assert not found or sum(found.values()) == pytest.approx(1.0)


@given(_texts, _texts)
def test_a_shift_is_a_distance(one: str, other: str) -> None:
    there, back = shift(shares(one), shares(other)), shift(shares(other), shares(one))
    assert there == pytest.approx(back)
    assert there is None or -1e-9 <= there <= 1 + 1e-9
    assert shift(shares(one), shares(one)) in (None, 0.0)


def test_no_script_in_common_is_the_farthest() -> None:
    assert shift(shares("hello"), shares("你好")) == 1.0
    assert shift(shares("hello"), shares("42")) is None
