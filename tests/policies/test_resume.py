"""Which streams may be continued, and how."""

from __future__ import annotations

from typing import Any

import pytest

from policies.resume import (
    CARRIED,
    IDLE,
    MAX_FAILURES,
    MAX_RESUMES,
    OTHER,
    PROMPT,
    Way,
    hindrance,
    may_go_on,
    tokens_left,
    way,
)
from policies.types import FailureCause


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"messages": None, "temperature": None, "seed": None, "stop_token_ids": None},
        {"n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False, "tools": [], "echo": False},
        {"response_format": {"type": "text"}, "tool_choice": "none", "stop": []},
        {"stop": "END"},
        {"stop": ["END", "\n\n"], "include_stop_str_in_output": True, "min_tokens": None},
    ],
)
def test_plain_requests_may_be_continued(fields: dict[str, Any]) -> None:
    assert hindrance(fields) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("best_of", 3),
        ("stop", "x" * 257),
        ("stop", ["END", 5]),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "auto"),
        ("response_format", {"type": "json_object"}),
        ("structured_outputs", {"json": {}}),
        ("guided_json", {}),
        ("logprobs", True),
        ("logprobs", 0),  # of completions: those of the chosen tokens
        ("top_logprobs", 2),
        ("prompt_logprobs", 1),
        ("echo", True),
        ("presence_penalty", 0.5),
        ("frequency_penalty", -0.5),
        ("bad_words", ["no"]),
        ("use_beam_search", True),
        ("prompt_embeds", "abc"),
        ("return_token_ids", True),
        ("include_reasoning", False),
        ("repetition_detection", {}),
        ("thinking_token_budget", 5),
        ("vllm_xargs", {"a": 1}),
        ("something_new", 1),
    ],
)
def test_what_an_engine_remembers_of_its_own_output_or_nobody_knows_hinders(name: str, value: object) -> None:
    assert hindrance({"messages": None, "temperature": None, name: value}) == name


def test_a_field_has_one_meaning() -> None:
    groups = [CARRIED, PROMPT, OTHER, frozenset(IDLE)]
    assert sum(map(len, groups)) == len(frozenset().union(*groups))


def test_the_way_is_by_tokens_but_for_pictures_and_for_answers_that_have_not_begun() -> None:
    assert way(said=5, media=False) is Way.TOKENS
    assert way(said=5, media=True) is Way.TEXT
    assert {way(said=0, media=media) for media in (True, False)} == {Way.AGAIN}


def test_a_bound_is_what_is_left_of_the_clients_or_else_of_the_context() -> None:
    assert tokens_left(10, 4, 100, None) == 6
    assert tokens_left(10, 12, 100, None) == 0
    assert tokens_left(None, 4, 100, 128) == 24
    assert tokens_left(None, 30, 100, 128) == 0
    assert tokens_left(None, 4, 100, None) is None


def test_failures_in_a_row_and_continuations_are_bounded() -> None:
    closed = FailureCause.CLOSED
    assert may_go_on(closed, 0, 1, 0)
    assert may_go_on(closed, 0, MAX_FAILURES - 1, MAX_RESUMES - 1)
    assert not may_go_on(closed, 0, MAX_FAILURES, 0)
    assert not may_go_on(closed, 0, 1, MAX_RESUMES)


def test_an_engine_that_refuses_a_continuation_is_believed_and_one_that_is_broken_is_not() -> None:
    assert not may_go_on(FailureCause.STATUS, 400, 1, 0)
    assert may_go_on(FailureCause.STATUS, 503, 1, 0)
    assert all(may_go_on(cause, 0, 1, 0) for cause in FailureCause if cause is not FailureCause.STATUS)
