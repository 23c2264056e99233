"""Where a stream with stop strings is taken up again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.stop_strings import MAX_CHARS, Mark, StopRule, stop_rule, turning_point


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({}, StopRule(0)),
        ({"stop": ""}, StopRule(0)),
        ({"stop": []}, StopRule(0)),
        ({"stop": "\n"}, StopRule(0)),
        ({"stop": "END"}, StopRule(2)),
        ({"stop": ["\n\n", "😀END"], "include_stop_str_in_output": False}, StopRule(3)),
        ({"stop": ["END"], "include_stop_str_in_output": True}, StopRule(2, shown=True)),
        ({"include_stop_str_in_output": "yes"}, StopRule(0)),
        ({"stop": "x" * MAX_CHARS}, StopRule(MAX_CHARS - 1)),
    ],
)
def test_the_longest_stop_string_says_how_much_is_held_back(fields: dict[str, Any], rule: StopRule) -> None:
    assert stop_rule(fields) == rule
    assert rule.held == (0 if rule.shown else rule.reach)


@pytest.mark.parametrize(
    "fields",
    [
        {"stop": "x" * (MAX_CHARS + 1)},
        {"stop": ["END", 5]},
        {"stop": {"END": 1}},
        {"stop": 5},
        {"stop": "END", "include_stop_str_in_output": "yes"},
        {"stop": "END", "include_stop_str_in_output": 1},
    ],
)
def test_what_an_engine_may_read_in_another_way_is_no_rule(fields: dict[str, Any]) -> None:
    assert stop_rule(fields) is None


def test_it_is_taken_up_where_the_last_token_ends_that_is_wholly_shown() -> None:
    marks = [Mark(0, 0), Mark(1, 4), Mark(2, 6), Mark(3, 9)]
    assert turning_point(marks, "abcdef", StopRule(3)) == Mark(2, 6)
    assert turning_point(marks, "abcde", StopRule(3)) == Mark(1, 4)
    assert turning_point(marks, "abc", StopRule(3)) == Mark(0, 0)
    assert turning_point(marks[1:], "abc", StopRule(3)) is None


def test_where_stop_strings_are_shown_it_is_taken_up_before_any_that_may_have_begun() -> None:
    marks = [Mark(0, 0), Mark(1, 2), Mark(2, 4)]
    assert turning_point(marks, "abcd", StopRule(2, shown=True)) == Mark(1, 2)
    assert turning_point(marks, "abcd", StopRule(3, shown=True)) == Mark(0, 0)


def test_text_that_ends_in_no_character_is_no_place() -> None:
    marks = [Mark(1, 1), Mark(2, 2)]
    assert turning_point(marks, "a\ufffdb", StopRule(1, shown=True)) == Mark(1, 1)


WORDS = st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=12)


@given(WORDS, st.integers(0, 9), st.booleans(), st.integers(0, 50))
def test_every_stop_string_that_is_still_to_come_lies_behind_the_turning_point(
    words: list[str], reach: int, shown: bool, cut: int
) -> None:
    """Of any text, told token by token and cut anywhere."""
    rule = StopRule(reach, shown)
    told = words[: cut % len(words) + 1]
    known = len("".join(told))
    visible = "".join(words)[: max(0, known - rule.held)]
    ends = [sum(map(len, told[: count + 1])) for count in range(len(told))]
    marks = [Mark(0, 0), *(Mark(count + 1, end) for count, end in enumerate(ends) if end > rule.held)]
    found = turning_point(marks, visible, rule)
    assert found is not None
    assert found.chars <= len(visible)
    earliest = known + 1 - (reach + 1)  # where the longest one begins that ends just behind what is known
    assert found.chars <= max(0, earliest)
