"""Which requests have one answer, which answers are kept, and what a hit counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.admission.limit import Prices, Use
from policies.response_cache import Answered, Asked, Billing, billed, has_one_answer, worth_keeping

WELL = Answered(200, finish_reason="stop")
USED = Use(prompt=100, output=20, cached=30, engine_cost=7)


@pytest.mark.parametrize(
    ("asked", "one"),
    [
        (Asked("chat", temperature=0.0), True),
        (Asked("completions", temperature=-0.0), True),
        (Asked("messages", temperature=0), True),
        (Asked("responses", temperature=0), True),
        (Asked("chat", seeded=True), True),
        (Asked("completions", temperature=1.0, seeded=True), True),
        (Asked("embeddings"), True),
        (Asked("rerank"), True),
        (Asked("score"), True),
        (Asked("chat"), False),
        (Asked("chat", temperature=0.01), False),
        (Asked("messages", seeded=True), False),
        (Asked("responses", seeded=True), False),
        (Asked("chat", temperature=0, choices=2), False),
        (Asked("chat", seeded=True, choices=2), False),
        (Asked("chat", temperature=0, outside=True), False),
        (Asked("embeddings", outside=True), False),
        (Asked("tokenize", temperature=0), False),
        (Asked("models", temperature=0), False),
    ],
)
def test_a_request_has_one_answer_where_nothing_is_left_to_chance(asked: Asked, one: bool) -> None:
    assert has_one_answer(asked) is one


def test_a_whole_answer_of_one_engine_is_kept() -> None:
    assert worth_keeping(WELL)
    assert worth_keeping(replace(WELL, finish_reason="length"))
    assert worth_keeping(replace(WELL, finish_reason=None)), "embeddings say none"


@pytest.mark.parametrize(
    "change",
    [
        {"status": 400},
        {"status": 499},
        {"status": 0},
        {"error": True},
        {"refused": 400},
        {"resumes": 1},
        {"degraded": True},
        {"finish_reason": "abort"},
        {"finish_reason": "error"},
        {"finish_reason": "content_filter"},
    ],
)
def test_anything_less_is_not(change: dict[str, object]) -> None:
    assert not worth_keeping(replace(WELL, **change))  # type: ignore[arg-type]  # fields of it, each with its type


def test_a_hit_counts_as_it_is_billed_and_never_an_engines_time() -> None:
    assert billed(Billing.FULL, USED) == Use(100, 20, 30)
    assert billed(Billing.CACHED, USED) == Use(100, 20, 100)
    assert billed(Billing.NONE, USED) == Use(0, 0, 0)
    assert all(billed(one, USED).requests == 1 for one in Billing), "it was a request in any case"
    prices = Prices(input=2, output=10, cached=0.5)
    assert [prices.of(billed(one, USED)) for one in Billing] == [0, 250, 355]
