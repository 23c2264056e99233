"""What a tenant may ask for at most, by API."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.errors import BadRequest
from router.wire.bounds import RequestBounds
from router.wire.openai import APIS, read_body

SPECS = {spec.name: spec for spec in APIS.values() if spec.output_fields}


def bounded(api: str, bounds: RequestBounds, **fields: Any) -> tuple[dict[str, Any], int | None]:
    body = bounds.apply(SPECS[api], read_body(SPECS[api], json.dumps({"model": "m", **fields}).encode()))
    kept = {name: json.loads(bytes(raw)) for name, raw in body.fields.items() if name != "model"}
    return kept, body.max_output_tokens


@pytest.mark.parametrize(
    ("api", "asked", "kept"),
    [
        ("chat", {}, {"max_tokens": 100}),
        ("chat", {"max_tokens": None}, {"max_tokens": 100}),
        ("chat", {"max_tokens": 500}, {"max_tokens": 100}),
        ("chat", {"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
        ("chat", {"max_completion_tokens": 50, "max_tokens": 500}, {"max_completion_tokens": 50, "max_tokens": 100}),
        ("chat", {"max_completion_tokens": 500, "max_tokens": 50}, {"max_completion_tokens": 100, "max_tokens": 50}),
        ("chat", {"max_tokens": 50}, {"max_tokens": 50}),
        ("completions", {}, {}),
        ("completions", {"max_tokens": 500}, {"max_tokens": 100}),
        ("responses", {}, {"max_output_tokens": 100}),
        ("messages", {"max_tokens": 500}, {"max_tokens": 100}),
    ],
)
def test_an_answer_is_as_long_as_the_tenant_may_have(api: str, asked: dict[str, Any], kept: dict[str, Any]) -> None:
    found, bound = bounded(api, RequestBounds(max_tokens=100), **asked)
    assert found == kept
    assert bound is None or bound <= 100


def test_a_completion_without_a_bound_is_shorter_than_most_bounds_anyway() -> None:
    assert bounded("completions", RequestBounds(max_tokens=9)) == ({"max_tokens": 9}, 9)


def test_a_refused_field_is_named_and_null_is_none() -> None:
    bounds = RequestBounds(refused=frozenset({"logit_bias"}))
    with pytest.raises(BadRequest, match="logit_bias") as refused:
        bounded("chat", bounds, logit_bias={"1": 2})
    assert (refused.value.param, refused.value.code) == ("logit_bias", "field_refused")
    assert bounded("chat", bounds, logit_bias=None)[0] == {"logit_bias": None}
