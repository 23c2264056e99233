"""Selectors are read as Kubernetes reads them."""

from __future__ import annotations

import pytest

from router.wire.selectors import Term, read_selector, takes

LABELS = {"app": "vllm", "a/b.c": "d", "empty": ""}


@pytest.mark.parametrize(
    ("text", "taken"),
    [
        ("app=vllm", True),
        ("app == vllm , a/b.c=d", True),
        ("app=other", False),
        ("app!=other", True),
        ("app!=vllm", False),
        ("none!=x", True),  # what has no such label is not of this value
        ("app in (x, vllm)", True),
        ("app in (x,y),a/b.c=d", False),
        ("app notin (x,y)", True),
        ("none notin (x)", True),
        ("app notin (vllm)", False),
        ("app", True),
        ("none", False),
        ("!none", True),
        ("!app", False),
        ("empty=", True),
        ("app=", False),
    ],
)
def test_what_a_selector_takes(text: str, taken: bool) -> None:
    assert takes(read_selector(text), LABELS) is taken


@pytest.mark.parametrize(
    "text", ["", " ", ",", "a=b=c", "a in b", "a in (b", "!a=b", "a b", "-a=b", "a=b,,c=d", "x" * 3000]
)
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no label selector"):
        read_selector(text)


def test_terms_are_those_of_match_expressions() -> None:
    assert read_selector("a=b,c notin (d, e),!f,g") == (
        Term("a", "In", ("b",)),
        Term("c", "NotIn", ("d", "e")),
        Term("f", "DoesNotExist"),
        Term("g", "Exists"),
    )
