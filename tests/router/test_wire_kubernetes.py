"""A watch in any pieces is the same lines; what no API says is told as such."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Role
from router.wire.kubernetes import (
    LONGEST_LINE_BYTES,
    Ended,
    Lines,
    Malformed,
    PodRules,
    endpoint_name,
    endpoint_of,
    read_event,
    read_list,
    read_refusal,
)

RULES = PodRules("p", "8000", "http", Role.HOT, 1.0, "promptlane/role", "promptlane/weight")
KEYS = ("type", "object", "metadata", "status", "spec", "items", "podIP", "labels", "containers", "ports", "name")
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(st.lists(st.binary(max_size=20).filter(lambda one: b"\n" not in one), max_size=6), st.data())
def test_lines_are_whole_whatever_the_pieces(lines: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader, got = Lines(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += list(reader.feed(stream[start:end]))
    assert got == [line for line in lines if line.strip()]


def test_a_line_without_an_end_is_given_up() -> None:
    with pytest.raises(Malformed):
        list(Lines().feed(b"x" * (LONGEST_LINE_BYTES + 1)))


@given(ANY)
def test_whatever_comes_is_read_or_refused(value: Any) -> None:
    data = json.dumps(value).encode()
    for read in (read_event, read_list):
        with contextlib.suppress(Malformed, Ended):
            read(data)
    read_refusal(data)


def test_an_event_of_type_error_ends_the_watch_with_its_code() -> None:
    with pytest.raises(Ended) as ended:
        read_event(b'{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old"}}')
    assert ended.value.code == 410


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_has_ended_is_no_endpoint(phase: str) -> None:
    pod = read_event(
        json.dumps({"type": "ADDED", "object": {"status": {"phase": phase, "podIP": "10.0.0.1"}}}).encode()
    ).pod
    assert endpoint_of(pod, RULES) is None


def test_names_stay_within_the_bound_and_apart() -> None:
    long = [endpoint_name("pool", "x" * 200 + end) for end in "ab"]
    assert {len(one) for one in long} == {128}
    assert long[0] != long[1]
    assert endpoint_name("pool", "pod") == "pool.pod"
