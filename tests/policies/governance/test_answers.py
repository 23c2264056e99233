"""An answer's figures together."""

from __future__ import annotations

import pytest

from policies.governance.answers import Said, examine, is_valid

TOOLS = frozenset({"weather"})


@pytest.mark.parametrize(
    ("name", "arguments", "good"),
    [
        ("weather", '{"city":"Bern"}', True),
        ("weather", "", True),
        ("weather", "[]", False),
        ("weather", '{"city":', False),
        ("weather", "[" * 100_000, False),
        ("other", "{}", False),
    ],
)
def test_a_call_is_good_of_a_tool_that_there_is_with_an_object(name: str, arguments: str, good: bool) -> None:
    assert is_valid(name, arguments, TOOLS) is good


def test_of_a_part_of_an_answer_nothing_is_said_of_its_calls() -> None:
    calls = (("weather", "{}"), ("weather", '{"ci'))
    assert examine(Said("", calls), "", TOOLS, ()).odd_calls == 1
    assert examine(Said("", calls, whole=False), "", TOOLS, ()).odd_calls is None


def test_the_shift_is_from_the_prompts_script_and_words_are_per_thousand_characters() -> None:
    found = examine(Said("gold " * 20), "сколько?", TOOLS, ("gold",))
    assert (found.characters, found.shift, found.watched, found.watch_rate) == (100, 1.0, {"gold": 20}, 200.0)
    assert examine(Said(), "", TOOLS, ("gold",)).watch_rate == 0.0
    assert examine(Said("gold"), "", TOOLS, ()).watch_rate is None
    assert "gold" not in repr(found)
