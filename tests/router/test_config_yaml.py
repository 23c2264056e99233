"""Files as they come: broken, hostile, huge; and that nothing but `ConfigError` ever comes out of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config import ConfigError, load, loads, yaml_file


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _both_readers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without libyaml has only the reader in Python; both must refuse the same."""
    monkeypatch.setattr(yaml_file, "_Loader", getattr(yaml, request.param))


def told(data: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        loads(data if isinstance(data, bytes) else data.encode(), {}, name="file.yaml")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("", "file.yaml: the file is empty"),
        ("# only a comment\n", "file.yaml: the file is empty"),
        ("- a\n", "file.yaml (line 1): expected a mapping of server, tenants, pools, …; got a list"),
        ("\nhello\n", "file.yaml (line 2): expected a mapping of server, tenants, pools, …; got a single value"),
        (b"server: {}\n# \xff\n", "file.yaml (line 2): the file is not UTF-8 text"),
        ("server: {}\nhost: \x07\n", "file.yaml (line 2): not valid YAML: a control character"),
        ("server: &a {cors: *a}\n", "file.yaml (line 1): an alias contains itself"),
        ("server:\n  port: 1\n  port: 2\n", "server.port (line 3): the key stands twice; first on line 2"),
        ("server: {}\nserver: {}\n", "server (line 2): the key stands twice; first on line 1"),
        ("server: {<<: &m {port: 1, port: 2}}\n", "server.<<.port (line 1): the key stands twice; first on line 1"),
        ("tenants:\n  123: {}\n", "tenants.123 (line 2): expected text as a key: put it in quotes"),
        ("tenants:\n  no: {}\n", "tenants.no (line 2): expected text as a key: put it in quotes"),
        ("server:\n  ? [a]\n  : 1\n", "server (line 2): expected text as a key; got a list"),
        ("? {a: 1}\n: 1\n", "file.yaml (line 1): expected text as a key; got a mapping"),
        ("server: !!python/object/apply:os.getpid []\n", "server (line 1): a YAML tag that has no meaning here"),
        ("server: !!set {port}\n", "server (line 1): a YAML tag that has no meaning here"),
        ("server: {<<: 3}\n", "server (line 1): expected a mapping, or a list of mappings, to merge with <<"),
    ],
)
def test_a_mistake_of_the_text_itself_is_told_with_its_line(data: str | bytes, message: str) -> None:
    assert told(data) == [message]


@pytest.mark.parametrize(
    "data",
    [
        "a: b: c",
        "server: [1",
        "\tserver: 1",
        "server: *nowhere",
        "--- {}\n--- {}",
        "%YAML 9.9\n--- {}",
        "a: 'open",
        "!",
    ],
)
def test_what_is_no_yaml_is_one_problem_of_the_file(data: str) -> None:
    (message,) = told(data)
    assert message.startswith("file.yaml")


@pytest.mark.parametrize(
    "value",
    [
        "2027-13-40",
        "!!int x",
        "!!bool x",
        "!!float x",
        "!!binary aGk=",
        "!!timestamp x",
        "=",
        "9" * 5000,
        "0x" + "f" * 99,
    ],
)
def test_a_scalar_that_cannot_be_read_is_a_problem_and_the_rest_is_still_checked(value: str) -> None:
    assert told(f"server:\n  host: {value}\n  port: x\n") == [
        "server.host (line 2): cannot be read as YAML text, number or date: put it in quotes",
        "server.port (line 3): expected a whole number from 0 to 65535; got 'x'",
    ]


def test_deep_nesting_is_refused_before_anything_recurses() -> None:
    assert told("[" * 100_000) == ["file.yaml (line 1): nested deeper than 64 levels"]


def test_aliases_cannot_write_out_to_billions() -> None:
    names = "abcdefghijklmnop"
    lists = [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise(names)]
    merges = [f"{new}: &{new} {{<<: [*{old}, *{old}]}}" for old, new in pairwise(names)]
    message = ["file.yaml: aliases write out to more than 500000 values or 64 levels"]
    assert told("a: &a [x, x, x, x, x, x, x, x, x]\n" + "\n".join(lists)) == message
    assert told("a: &a {" + ", ".join(f"k{i}: 1" for i in range(99)) + "}\n" + "\n".join(merges)) == message


def test_aliases_cannot_nest_deeper_than_text_may() -> None:
    levels = [f"k{i}: &k{i} {'[' * 40}{f'*k{i - 1}' if i else ''}{']' * 40}" for i in range(3)]
    assert told("\n".join(levels)) == ["file.yaml: aliases write out to more than 500000 values or 64 levels"]


def test_too_many_values_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_file, "MAX_NODES", 100)
    assert told("a: [" + "x, " * 300 + "]") == ["file.yaml (line 1): more than 100 values"]


def test_a_missing_file_a_folder_and_a_huge_file_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huge = tmp_path / "huge.yaml"
    huge.write_bytes(b"#" * 2000)
    monkeypatch.setattr(yaml_file, "MAX_FILE_BYTES", 1999)
    for path, words in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "directory"), (huge, "larger than")):
        with pytest.raises(ConfigError, match=words) as caught:
            load(path, {})
        assert caught.value.problems[0].path == str(path)
    with pytest.raises(ConfigError, match="not a file name"):
        load("a\0b", {})


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert loads(b"\xef\xbb\xbfserver: {port: 1}\n", {}).server.port == 1


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**300, max_value=10**320)
    | st.floats()
    | st.text(max_size=12)
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=4)
    | st.sampled_from(["http://h", "silver", "p", "a.b", "ab" * 32, "*", "10.0.0.0/8", "[key]", "0", "9090", "null"])
)
WORDS = """
server state classify routing tiers tenants pools host port admin_port base_domain cors allow_origins secret tls
allow_credentials trusted_proxies hosts api_keys id sha256 expires models apis limits concurrency pool endpoints
engine_model url name role weight timeouts engine_api_key engine_api_key_env health shared anonymous tier acme p
priority rto_seconds redis_url profile max_wait lanes short batch min_share max_share when_full [key] << =
ledger_url keys at_run_time keep_seconds
"""
KEYS = st.sampled_from(WORDS.split())
TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.dictionaries(st.text(max_size=4) | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=20,
)
RELAXED = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


def _accepted_or_config_error(data: bytes, environ: dict[str, str]) -> None:
    problems = None
    try:
        loads(data, environ)
    except ConfigError as error:
        problems = error.problems
    if problems is not None:
        assert problems
        assert all(problem.path and problem.message and str(problem).encode() for problem in problems)


@RELAXED
@given(tree=st.dictionaries(KEYS, TREES, max_size=5))
def test_no_tree_raises_anything_but_a_config_error(tree: dict[str, Any]) -> None:
    _accepted_or_config_error(yaml.safe_dump(tree).encode(), {})


@RELAXED
@given(entry=TREES, key=KEYS, section=st.sampled_from(["tenants", "pools", "server", "tiers"]))
def test_no_section_raises_anything_but_a_config_error(entry: Any, key: str, section: str) -> None:
    inside = {key: entry} if section in ("server", "tiers") else {"acme": {key: entry, "models": {"m": entry}}}
    _accepted_or_config_error(yaml.safe_dump({section: inside}).encode(), {})


@RELAXED
@given(data=st.binary(max_size=60) | st.text("a:-[]{}*&!<>|?%'\"#,\n 1=", max_size=60).map(str.encode))
def test_no_bytes_raise_anything_but_a_config_error(data: bytes) -> None:
    _accepted_or_config_error(data, {})


@RELAXED
@given(
    environ=st.dictionaries(
        st.lists(KEYS, min_size=1, max_size=5).map(lambda parts: "PROMPTLANE_" + "__".join(parts).upper()),
        st.text(max_size=8) | st.sampled_from(["null", "[]", "{}", '{"a": {"b": 1e999}}', "[[[", "9" * 5000, "\udc80"]),
        max_size=4,
    )
)
def test_no_environment_raises_anything_but_a_config_error(environ: dict[str, str]) -> None:
    _accepted_or_config_error(b"tenants: {acme: {anonymous: true, hosts: [a.b]}}\n", environ)
