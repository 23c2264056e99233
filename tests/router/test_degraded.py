"""What another pool's engine gets of a request, and which requests it does not get."""

from __future__ import annotations

import json
from typing import Any

import pytest

from policies.types import Lane, ModelRoute
from router.calls import Call, ServedModel
from router.degraded import degraded_body, degraded_header
from router.errors import NoEndpoint
from router.keeper import Detour, Terms
from router.measure import Measured
from router.wire.openai import APIS
from tests.policies.builders import make_request, make_state
from tests.router.builders import make_pool

POOL = make_pool([make_state("small")])


def call(path: str = "/v1/chat/completions", lane: Lane = Lane.SHORT) -> Call:
    one = Call(None, APIS[path], "r", 0.0)  # type: ignore[arg-type]  # nothing is written to its client
    one.measured = Measured(make_request(lane=lane), 0, 0, counted=False)
    one.model = ServedModel(ModelRoute("gpt", "main", "big"), POOL, 0, None)  # type: ignore[arg-type]
    return one


def detour(**terms: Any) -> Detour:
    given = {"engine_model": None, "max_tokens": 100, "refuse_batch": True, "shared": False, **terms}
    return Detour(POOL, None, Terms(**given))  # type: ignore[arg-type]


def degraded(one: Call, fields: dict[str, Any], **terms: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(degraded_body(one, detour(**terms), json.dumps(fields).encode()))
    return found


@pytest.mark.interpreted("its call has no client")
@pytest.mark.parametrize(
    ("given", "got"),
    [
        ({"max_tokens": 500}, {"max_tokens": 100}),
        ({"max_tokens": 50}, {"max_tokens": 50}),
        ({"max_completion_tokens": 500}, {"max_completion_tokens": 100}),
        ({"max_completion_tokens": 5, "max_tokens": 500}, {"max_completion_tokens": 5, "max_tokens": 100}),
        ({}, {"max_tokens": 100}),
        ({"max_tokens": None}, {"max_tokens": 100}),
    ],
)
def test_answers_are_no_longer_than_the_terms_allow(given: dict[str, Any], got: dict[str, Any]) -> None:
    assert degraded(call(), {"model": "big", "cache_salt": "s", **given}) == {"model": "big", "cache_salt": "s", **got}


@pytest.mark.interpreted("its call has no client")
def test_what_has_no_answer_of_tokens_is_not_capped() -> None:
    assert degraded(call("/v1/embeddings"), {"model": "big", "input": "x"}) == {"model": "big", "input": "x"}


@pytest.mark.interpreted("its call has no client")
def test_another_name_of_the_model_is_told_to_the_engine_and_not_to_the_client() -> None:
    one = call()
    assert degraded(one, {"model": "big"}, engine_model="small")["model"] == "small"
    assert one.model is not None
    rewriter = one.model.alias_rewriter()
    assert rewriter is not None
    assert rewriter.feed(b'{"model":"small"}') + rewriter.flush() == b'{"model":"gpt"}'


@pytest.mark.interpreted("its call has no client")
def test_batch_work_is_refused_where_the_terms_say_so() -> None:
    with pytest.raises(NoEndpoint, match="batch") as refused:
        degraded(call(lane=Lane.BATCH), {"model": "big"})
    assert refused.value.retry_after == 60.0
    assert degraded(call(lane=Lane.BATCH), {"model": "big"}, refuse_batch=False)["model"] == "big"


@pytest.mark.interpreted("its call has no client")
def test_a_stored_response_of_ones_own_pool_is_not_looked_for_among_other_tenants() -> None:
    with pytest.raises(NoEndpoint, match="stored"):
        degraded(call("/v1/responses"), {"model": "big", "previous_response_id": "x"}, shared=True)
    assert degraded(call("/v1/responses"), {"model": "big", "previous_response_id": "x"})["max_output_tokens"] == 100


def test_the_answer_says_so() -> None:
    assert degraded_header(detour(max_tokens=7)) == (b"x-promptlane-degraded", b"max_tokens=7")
