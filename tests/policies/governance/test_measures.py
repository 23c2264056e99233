"""Buckets of measures: few, in order, and what each answer adds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.governance.answers import Said, examine
from policies.governance.measures import MEASURES, MOST_BUCKETS, values

ORDERED = [name for name, one in MEASURES.items() if one.ordered]
_values = st.floats(0, 1e12)


@pytest.mark.parametrize("name", ORDERED)
@given(one=_values, other=_values)
def test_buckets_are_few_and_in_the_order_of_the_values(name: str, one: float, other: float) -> None:
    low, high = sorted((one, other))
    bucket = MEASURES[name].bucket
    assert 0 <= bucket(low) <= bucket(high) < MOST_BUCKETS


def test_amounts_within_a_quarter_are_alike_and_nothing_is_alone() -> None:
    bucket = MEASURES["tokens"].bucket
    assert bucket(0) == 0 < bucket(1)
    assert bucket(1000) != bucket(1300)
    assert bucket(10**6) < bucket(10**9) == MOST_BUCKETS - 1
    share = MEASURES["repetition"].bucket
    assert (share(0.0), share(0.001), share(1.0)) == (0, 1, 50)


@pytest.mark.parametrize(
    ("finish", "kind", "level"),
    [("stop", 0, 0), ("end_turn", 0, 0), ("length", 1, 1), ("max_tokens", 1, 1), ("tool_use", 2, 0), ("odd", 3, 0)],
)
def test_ends_have_the_words_of_each_api(finish: str, kind: int, level: int) -> None:
    assert list(values(None, finish, None)) == [("finish", kind)]
    assert MEASURES["finish"].level(kind) == level


def test_an_answer_adds_what_is_known_of_it() -> None:
    assert list(values(None, None, None)) == []
    assert dict(values(7, "stop", None)) == {"tokens": 7, "finish": 0}
    seen = examine(Said("I cannot do that.", (("x", "{}"),)), "do it", frozenset(), ("cannot",))
    found = dict(values(7, None, seen))
    assert found == {"tokens": 7, "shift": 0.0, "refusal": 1, "tool_calls": 2, "watched": pytest.approx(1000 / 17)}
    assert found.keys() <= MEASURES.keys()
    part = examine(Said("word " * 50, whole=False), "do it", frozenset(), ())
    assert set(dict(values(None, None, part))) == {"repetition", "shift", "refusal"}
