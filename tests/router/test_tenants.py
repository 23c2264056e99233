"""Who is asking: host and key to tenant, as a table and as a property."""

from __future__ import annotations

import hashlib
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Tenant, Tier
from router.errors import Forbidden, InvalidKey
from router.tenants import KEY_PREFIX, ApiKey, Identity, KeyRing, TenantDirectory, new_key

NOW = 1_000_000.0
KEYS = {"acme": b"acme-key", "globex": b"globex-key", "open": b"open-key"}


def tenant(name: str) -> Tenant:
    return Tenant(name, Tier("gold", 10, 15.0), "salt", {}, anonymous=name == "open")


def digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def directory(**scope: object) -> TenantDirectory:
    keys = [ApiKey(f"{name}-1", name, digest(key), **scope) for name, key in KEYS.items()]  # type: ignore[arg-type]
    return TenantDirectory(map(tenant, KEYS), {f"{name}.test": name for name in KEYS}, keys)


def asked(host: str | None, key: bytes | None, **scope: object) -> str:
    """The tenant, or what was refused."""
    try:
        return directory(**scope).identify(host, key, NOW).tenant.id
    except InvalidKey:
        return "401"
    except Forbidden:
        return "403"


@pytest.mark.parametrize(
    ("host", "key", "answer"),
    [
        ("acme.test", b"acme-key", "acme"),
        (None, b"acme-key", "acme"),
        ("elsewhere", b"acme-key", "acme"),
        ("globex.test", b"acme-key", "403"),
        ("open.test", b"acme-key", "403"),
        ("acme.test", None, "401"),
        ("open.test", None, "open"),
        ("open.test", b"open-key", "open"),
        ("open.test", b"unknown", "401"),
        ("elsewhere", None, "401"),
        (None, None, "401"),
        ("acme.test", b"", "401"),
        ("acme.test", b"acme-key ", "401"),
        ("acme.test", b"ACME-KEY", "401"),
    ],
)
def test_host_and_key_name_one_tenant(host: str | None, key: bytes | None, answer: str) -> None:
    assert asked(host, key) == answer


hosts = st.none() | st.sampled_from([f"{name}.test" for name in KEYS]) | st.text(max_size=8)
keys = st.none() | st.sampled_from(sorted(KEYS.values())) | st.binary(max_size=8)


@given(hosts, keys)
def test_nobody_becomes_a_tenant_without_its_key_or_its_open_host(host: str | None, key: bytes | None) -> None:
    answer = asked(host, key)
    if answer in KEYS:
        assert key == KEYS[answer] or (key is None and host == "open.test" and answer == "open")
        assert host is None or host not in {f"{name}.test" for name in KEYS} or host == f"{answer}.test"


@pytest.mark.parametrize(("expires", "answer"), [(NOW - 1, "401"), (NOW, "401"), (NOW + 1, "acme"), (None, "acme")])
def test_a_key_works_until_the_moment_it_expires(expires: float | None, answer: str) -> None:
    assert asked(None, b"acme-key", expires_at=expires) == answer


def test_an_expired_keys_refusal_says_no_more_than_an_unknown_ones() -> None:
    with pytest.raises(InvalidKey) as expired:
        directory(expires_at=NOW).identify("acme.test", b"acme-key", NOW)
    with pytest.raises(InvalidKey) as unknown:
        directory().identify("acme.test", b"nobody", NOW)
    assert expired.value.message == unknown.value.message


def test_a_scope_bounds_apis_and_models() -> None:
    key = ApiKey("k", "acme", b"", models=frozenset({"tiny"}), apis=frozenset({"chat"}))
    key.require("chat")
    with pytest.raises(Forbidden) as refused:
        key.require("embeddings")
    assert refused.value.code == "scope_denied"
    assert (key.allows_model("tiny"), key.allows_model("other")) == (True, False)
    ApiKey("k", "acme", b"").require("anything")
    assert not ApiKey("k", "acme", b"", models=frozenset()).allows_model("tiny")


def test_an_identity_prints_neither_digest_nor_salt() -> None:
    identity = directory().identify(None, b"acme-key", NOW)
    assert isinstance(identity, Identity)
    for secret in ("acme-key", "'salt'", digest(b"acme-key").hex(), repr(digest(b"acme-key"))):
        assert secret not in repr(identity)


def test_new_keys_are_long_different_and_match_their_digest() -> None:
    made = [new_key() for _ in range(20)]
    assert len({key for key, _ in made}) == 20
    for key, sha256 in made:
        assert key.startswith(KEY_PREFIX)
        assert len(key) >= 40
        assert hashlib.sha256(key.encode()).hexdigest() == sha256


# -- keys made at run time


def ringed(*keys: ApiKey, known_until: float = math.inf) -> TenantDirectory:
    """The directory with these keys of the database beside its own."""
    ring = KeyRing()
    ring.by_digest = {key.digest: key for key in keys}
    ring.known_until = known_until
    own = [ApiKey(f"{name}-1", name, digest(key)) for name, key in KEYS.items()]
    return TenantDirectory(map(tenant, KEYS), {f"{name}.test": name for name in KEYS}, own, ring)


def made(key_id: str, owner: str, key: bytes, expires_at: float | None = None) -> ApiKey:
    return ApiKey(key_id, owner, digest(key), expires_at)


def opens(one: TenantDirectory, key: bytes, host: str | None = None) -> str:
    try:
        return str(one.identify(host, key, NOW).tenant.id)
    except InvalidKey:
        return "401"
    except Forbidden:
        return "403"


def test_a_key_of_the_database_opens_what_a_key_of_the_file_would() -> None:
    one = ringed(made("new", "acme", b"new"), made("over", "acme", b"over", NOW), made("x", "gone", b"gone"))
    assert [opens(one, key) for key in (b"new", b"over", b"gone", b"acme-key")] == ["acme", "401", "401", "acme"]
    assert (opens(one, b"new", "acme.test"), opens(one, b"new", "globex.test")) == ("acme", "403")


def test_a_key_of_the_file_wins_over_one_of_the_database_with_its_digest_or_its_name() -> None:
    stolen, named = made("mine", "globex", b"acme-key"), made("acme-1", "acme", b"other")
    elsewhere = made("acme-1", "globex", b"elsewhere")  # the same name of another tenant stands in nobody's place
    one = ringed(stolen, named, elsewhere)
    assert [opens(one, key) for key in (b"acme-key", b"other", b"elsewhere")] == ["acme", "401", "globex"]
    assert one.live_keys(NOW)["globex", "database"] == 1


def test_keys_that_nobody_has_seen_for_too_long_open_nothing() -> None:
    new = made("new", "acme", b"new")
    assert (opens(ringed(new, known_until=NOW + 1), b"new"), opens(ringed(new, known_until=NOW), b"new")) == (
        "acme",
        "401",
    )
    assert opens(ringed(new, known_until=NOW), b"acme-key") == "acme"


def test_a_change_of_the_ring_needs_no_new_directory() -> None:
    ring = KeyRing()
    one = TenantDirectory([tenant("acme")], {}, [], ring)
    assert opens(one, b"new") == "401"
    ring.by_digest = {digest(b"new"): made("new", "acme", b"new")}
    assert opens(one, b"new") == "acme"
    ring.by_digest = {}
    assert opens(one, b"new") == "401"


@given(st.dictionaries(st.sampled_from([b"a", b"b", b"acme-key"]), st.sampled_from([*KEYS, "gone"])), keys)
def test_no_key_of_the_database_opens_another_tenant_than_its_own(owners: dict[bytes, str], key: bytes | None) -> None:
    one = ringed(*(made(f"k-{number}", owner, found) for number, (found, owner) in enumerate(owners.items())))
    if key is not None and (answer := opens(one, key)) in KEYS:
        assert answer == next((name for name, own in KEYS.items() if own == key), None) or answer == owners.get(key)
