"""The server's secret: made once, kept private, the same for every process that shares the file."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.secret import SecretUnavailable, cache_salt, load_secret

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)


def test_a_configured_secret_needs_no_file(tmp_path: Path) -> None:
    assert load_secret("x" * 32, tmp_path / "none") == b"x" * 32
    assert not (tmp_path / "none").exists()


def test_a_missing_file_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    first = load_secret(None, path)
    assert load_secret(None, path) == first
    assert len(first) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_secret(None, tmp_path / "another") != first


@pytest.mark.parametrize("content", [b"", b"short", b"  \n", b"x" * 31 + b"\n"])
def test_a_file_with_too_short_a_secret_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    with pytest.raises(SecretUnavailable, match="fewer than 32"):
        load_secret(None, path)
    assert path.read_bytes() == content


@pytest.mark.parametrize("place", ["missing/secret", "."])
def test_a_place_that_cannot_be_used_is_told_with_what_to_do(tmp_path: Path, place: str) -> None:
    with pytest.raises(SecretUnavailable, match="PROMPTLANE_SECRET"):
        load_secret(None, tmp_path / place)


def test_a_process_that_starts_while_another_makes_the_file_gets_the_same_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, found = tmp_path / "secret", []
    really_open = os.open

    def open_and_be_overtaken(*arguments: Any, **named: Any) -> int:
        descriptor = really_open(*arguments, **named)
        monkeypatch.setattr(os, "open", really_open)
        found.append(load_secret(None, path))  # the other process, between our making the file and our writing to it
        return descriptor

    monkeypatch.setattr(os, "open", open_and_be_overtaken)
    found.append(load_secret(None, path))
    assert found[0] == found[1] == load_secret(None, path)


@given(names, names, st.binary(min_size=32, max_size=40), st.binary(min_size=32, max_size=40))
def test_salts_are_hex_stable_and_differ_by_tenant_and_secret(one: str, other: str, secret: bytes, more: bytes) -> None:
    salt = cache_salt(secret, one)
    assert len(salt) == 64
    assert set(salt) <= set("0123456789abcdef")
    assert salt == cache_salt(secret, one)
    assert (salt == cache_salt(secret, other)) == (one == other)
    assert (salt == cache_salt(more, one)) == (secret == more)
