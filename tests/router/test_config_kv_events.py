"""Exact mode in the file: an address for every engine, none of them twice, and a word where pyzmq is missing."""

from __future__ import annotations

import pytest

from router.config import ConfigError, loads
from router.config.types import socket_url

BASE = """tenants:
  acme: {anonymous: true, hosts: [acme.example], models: {qwen: {pool: p}}}
pools:
  p:
    kv_events: on
    endpoints:
      - {name: a0, url: "http://a:1", kv_events_url: "tcp://A:5557", kv_replay_url: "tcp://a:5558"}
      - {name: a1, url: "http://a:2", kv_events_url: "tcp://a:5567"}
"""


def told(text: str) -> list[str]:
    try:
        loads(text.encode(), {})
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def test_a_pool_may_go_by_its_engines_kv_events() -> None:
    config = loads(BASE.encode(), {})
    pool = config.pools["p"]
    assert pool.kv_events
    assert [end.kv_events_url for end in pool.endpoints] == ["tcp://a:5557", "tcp://a:5567"]
    assert [end.kv_replay_url for end in pool.endpoints] == ["tcp://a:5558", None]


def test_by_default_no_engine_is_listened_to() -> None:
    assert told(BASE.replace("    kv_events: on\n", "")) == []
    assert not loads(BASE.replace("    kv_events: on\n", "").encode(), {}).pools["p"].kv_events


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (', kv_events_url: "tcp://a:5567"', "", "missing; expected one, as pools.p.kv_events is on"),
        ("tcp://a:5567", "tcp://A:5557", "pools.p.endpoints[0].kv_events_url is the same"),
        ("tcp://a:5558", "tcp://a:5557", "pools.p.endpoints[0].kv_events_url is the same"),
        ("tcp://a:5567", "http://a:5567", "an address tcp://host:port; got"),
        ("tcp://a:5567", "tcp://*:5567", "an address tcp://host:port; got"),
        ("tcp://a:5567", "tcp://a", "an address tcp://host:port; got"),
        ("kv_events: on", "kv_events: exact", "expected true or false; got 'exact'"),
    ],
)
def test_a_mistake_is_told_once_with_its_path(old: str, new: str, message: str) -> None:
    (problem,) = told(BASE.replace(old, new))
    assert message in problem


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("tcp://H:80", "tcp://h:80"),
        ("tcp://[::1]:5557/", "tcp://[::1]:5557"),
        ("tcp://10.0.0.1:443", "tcp://10.0.0.1:443"),
    ],
)
def test_a_socket_url_has_one_spelling(url: str, normal: str) -> None:
    assert socket_url(url) == normal


@pytest.mark.parametrize(
    "url",
    ["", "tcp://", "tcp://h", "tcp://h:0", "tcp://h:70000", "tcp://u:p@h:1", "tcp://h:1/x", "tcp://h:1?x", "ipc:///x"],
)
def test_what_is_no_socket_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # nobody sees the text: messages print the type's words
        socket_url(url)
