"""The keyed hash is HMAC-SHA-256, whatever the lengths of key and text."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from policies.keyed_hash import KeyedHash


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), max_size=4))
def test_it_is_what_the_standard_library_makes(key: bytes, texts: list[bytes]) -> None:
    made = KeyedHash(key)
    assert [made.digest(text) for text in texts] == [hmac.digest(key, text, "sha256") for text in texts]


def test_a_block_of_the_hash_is_a_key_as_it_is_and_a_longer_one_is_not() -> None:
    for size in (63, 64, 65):
        assert KeyedHash(b"k" * size).digest(b"text") == hmac.digest(b"k" * size, b"text", "sha256")
