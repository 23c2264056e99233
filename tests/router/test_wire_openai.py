"""Bodies: what the gateway reads of them, and what an engine gets instead."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.errors import BadRequest
from router.wire.fields import read_fields
from router.wire.openai import APIS, CONTROL_FIELDS, Body, engine_body, read_body

CHAT, RESPONSES, EMBEDDINGS = APIS["/v1/chat/completions"], APIS["/v1/responses"], APIS["/v1/embeddings"]
texts = st.text(st.characters(codec="utf-8"), max_size=10)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    [*sorted(CONTROL_FIELDS), "model", "stream", "n", "user", "service_tier", "max_tokens", "vllm_xargs"]
)


def body_of(**fields: Any) -> Body:
    return read_body(CHAT, json.dumps({"model": "m", **fields}).encode())


def read_or_refused(path: str, data: bytes) -> Body | BadRequest:
    try:
        return read_body(APIS[path], data)
    except BadRequest as refused:
        return refused


@given(st.dictionaries(names | texts, values, max_size=6), st.sampled_from(sorted(APIS)))
def test_any_json_object_is_a_body_or_a_bad_request_that_names_the_field(fields: dict[str, Any], path: str) -> None:
    found = read_or_refused(path, json.dumps(fields).encode())
    if isinstance(found, Body):
        assert found.model == fields["model"]
        assert found.fields.keys() == fields.keys()
    else:
        assert found.param is not None
        assert found.param.split("[")[0].split(".")[0] in {*fields, "model"}


@given(st.dictionaries(names | texts, values, max_size=6))
def test_an_engine_gets_every_field_but_the_gateways_own(fields: dict[str, Any]) -> None:
    sent = json.loads(engine_body(read_fields(json.dumps(fields).encode()), "tiny", "salt"))
    kept = {name: value for name, value in fields.items() if name not in CONTROL_FIELDS}
    if isinstance(kept.get("vllm_xargs"), dict):
        kept["vllm_xargs"] = {name: v for name, v in kept["vllm_xargs"].items() if name not in CONTROL_FIELDS}
    assert sent == {**kept, "model": "tiny", "cache_salt": "salt"}


def test_an_unknown_fields_bytes_are_not_rewritten() -> None:
    data = b'{"model":"m","a": {"x" :1.0e5,  "x":2},"b":"\\u00e9\\/","c":100000000000000000000000000000001}'
    sent = engine_body(read_fields(data), "tiny", "s")
    for piece in (b'{"x" :1.0e5,  "x":2}', b'"\\u00e9\\/"', b"100000000000000000000000000000001"):
        assert piece in sent


@pytest.mark.parametrize("spelling", [b"cache_salt", b"\\u0063ache_salt", b"cache\\u005fsalt"])
def test_a_control_field_is_found_however_its_name_is_escaped(spelling: bytes) -> None:
    sent = engine_body(read_fields(b'{"model":"m","' + spelling + b'":"mine"}'), "tiny", "ours")
    assert json.loads(sent) == {"model": "tiny", "cache_salt": "ours"}
    assert b"mine" not in sent


def test_of_a_repeated_field_gateway_and_engine_read_the_same_value() -> None:
    data = b'{"model":"a","model":"b","stream":true,"stream":false}'
    body = read_body(CHAT, data)
    sent = engine_body(body.fields, "tiny", "s")
    assert (body.model, body.stream) == ("b", False)
    assert sent.count(b'"stream"') == 1
    assert json.loads(sent)["stream"] is False


@pytest.mark.parametrize("missing", [{}, {"model": ""}, {"model": None}, {"model": ["m"]}])
def test_a_body_without_a_model_is_refused_by_name(missing: dict[str, Any]) -> None:
    with pytest.raises(BadRequest) as refused:
        read_body(CHAT, json.dumps({"messages": [], **missing}).encode())
    assert refused.value.param == "model"


def test_defaults_are_those_of_the_api() -> None:
    body = body_of(stream=None, n=None, service_tier=None, max_tokens=None, user=None)
    assert (body.stream, body.n, body.flex, body.max_output_tokens, body.session) == (False, 1, False, None, None)
    assert body_of(n=0).n == 1


@pytest.mark.parametrize(("tier", "flex"), [("flex", True), ("auto", False), ("Flex", False), (None, False)])
def test_flex_is_asked_for_by_the_service_tier(tier: str | None, flex: bool) -> None:
    assert body_of(service_tier=tier).flex is flex


def test_the_newer_name_of_the_output_bound_counts_first_and_each_api_has_its_own() -> None:
    assert body_of(max_tokens=5, max_completion_tokens=7).max_output_tokens == 7
    assert body_of(max_tokens=5, max_completion_tokens=None).max_output_tokens == 5
    data = b'{"model":"m","max_output_tokens":9,"max_tokens":5}'
    assert read_body(RESPONSES, data).max_output_tokens == 9
    assert read_body(EMBEDDINGS, data).max_output_tokens is None


def test_the_session_is_the_first_hint_that_is_there() -> None:
    assert body_of(user="u", prompt_cache_key="k").session == "k"
    assert body_of(user="u", prompt_cache_key="").session == "u"
    assert body_of().session is None


@pytest.mark.parametrize("tail", [b" ", b"\n", b""])
def test_white_space_around_a_body_is_no_mistake(tail: bytes) -> None:
    assert read_body(CHAT, tail + b'{"model":"m"}' + tail).model == "m"


@pytest.mark.parametrize(
    "data", [b'{"model":"m"} {}', b'{"model":"m"}x', b"{'model':'m'}", b'{"model":"m",}', b'{"a":NaN}']
)
def test_what_is_not_quite_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        read_body(CHAT, data)


def test_xargs_that_are_no_object_are_left_to_the_engine() -> None:
    sent = json.loads(engine_body(read_fields(b'{"model":"m","vllm_xargs":[1]}'), "tiny", "s"))
    assert sent["vllm_xargs"] == [1]


# -- usage of streams

COMPLETIONS = APIS["/v1/completions"]


def options_sent(client_options: object) -> tuple[bool, object]:
    """Whether the gateway asks for usage, and the `stream_options` that the engine gets."""
    given = {} if client_options == "absent" else {"stream_options": client_options}
    body = body_of(stream=True, **given)
    sent = json.loads(engine_body(body.fields, "tiny", "s", ask_usage=body.hides_usage))
    return body.hides_usage, sent.get("stream_options", "absent")


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("absent", {"include_usage": True}),
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_usage": None, "x": [1]}, {"include_usage": True, "x": [1]}),
        ({"continuous_usage_stats": None}, {"continuous_usage_stats": False, "include_usage": True}),
        # Without include_usage an engine does not look at this; with ours it would send usage in every chunk.
        ({"continuous_usage_stats": True, "y": 1}, {"continuous_usage_stats": False, "y": 1, "include_usage": True}),
    ],
)
def test_usage_is_asked_for_where_the_client_did_not_and_its_other_options_stay(given: object, sent: object) -> None:
    assert options_sent(given) == (True, sent)


@pytest.mark.parametrize(
    "given",
    [
        {"include_usage": True},
        {"include_usage": True, "continuous_usage_stats": True},
        {"include_usage": "true"},
        {"include_usage": 1},
        {"include_usage": "banana"},
        {"continuous_usage_stats": "maybe"},
        [],
        "x",
        5,
        False,
        True,
    ],
)
def test_what_a_client_asked_for_and_what_an_engine_refuses_is_sent_as_it_came(given: object) -> None:
    assert options_sent(given) == (False, given)


def test_usage_is_asked_for_only_in_streams_of_apis_that_tell_it_on_request() -> None:
    streamed, whole = b'{"model":"m","stream":true}', b'{"model":"m","stream":false}'
    asking = {path for path, spec in APIS.items() if read_body(spec, streamed).hides_usage}
    assert asking == {CHAT.path, COMPLETIONS.path}
    assert not any(read_body(spec, data).hides_usage for spec in APIS.values() for data in (whole, b'{"model":"m"}'))


@given(st.dictionaries(st.sampled_from(["include_usage", "continuous_usage_stats"]) | texts, values, max_size=4))
def test_any_options_are_merged_or_left_alone(given: dict[str, Any]) -> None:
    asks, sent = options_sent(given)
    assert sent == ({**given, **_asked(given)} if asks else given)


def _asked(given: dict[str, Any]) -> dict[str, bool]:
    return {"include_usage": True} | {name: False for name in given if name == "continuous_usage_stats"}
