"""Keys in a database, SQLite and PostgreSQL: what is kept of them, and how they end."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete, select, update

from router.database.engine import Database
from router.database.tables import api_keys, changes
from router.errors import Conflict, NotFound
from router.key_store import KeyStore
from router.stored_keys import StoredKey

NOW = 1_000_000.0


@pytest.fixture
def store(database_url: str) -> Iterator[KeyStore]:
    made = KeyStore(Database(database_url, 20.0))
    made.prepare()
    yield made
    made.database.close()


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def key(name: str = "ci", tenant: str = "acme", **fields: object) -> StoredKey:
    return StoredKey(name, tenant, digest(name), NOW, **fields)  # type: ignore[arg-type]


def live(store: KeyStore, now: float = NOW) -> list[str]:
    seen = store.look(None, now)
    assert seen is not None
    return sorted(one.id for one in seen[1])


def test_what_is_added_comes_back_as_it_was(store: KeyStore) -> None:
    whole = key(label="für Ärzte 🩺", models=("a b", "c"), apis=("chat",), expires_at=NOW + 1.5)
    nothing = key("nothing", models=(), apis=())
    store.add(whole)
    store.add(nothing)
    store.add(key("plain"))
    assert [store.find(name) for name in ("ci", "nothing", "plain")] == [whole, nothing, key("plain")]
    assert {one.id: one for one in store.every()} == {"ci": whole, "nothing": nothing, "plain": key("plain")}
    assert [one.id for one in store.every("globex")] == []


def test_an_id_is_given_once_even_after_its_key_was_revoked(store: KeyStore) -> None:
    store.add(key())
    store.revoke("ci", NOW)
    with pytest.raises(Conflict, match="'ci' already") as refused:
        store.add(StoredKey("ci", "globex", digest("other"), NOW))
    assert refused.value.param == "id"
    assert store.find("ci").tenant == "acme"


def test_a_look_sees_nothing_until_something_changes(store: KeyStore) -> None:
    seen = store.look(None, NOW)
    assert seen is not None
    stamps = [seen[0]]
    for change in (
        lambda: store.add(key()),
        lambda: store.rotate("ci", digest("new"), NOW, 60.0),
        lambda: store.revoke("ci", NOW),
    ):
        assert store.look(stamps[-1], NOW) is None
        change()
        seen = store.look(stamps[-1], NOW)
        assert seen is not None
        stamps.append(seen[0])
    assert [after.number - before.number for before, after in pairwise(stamps)] == [1, 1, 1]


def test_a_database_put_back_from_a_copy_is_seen_though_its_number_is_the_same(store: KeyStore) -> None:
    store.add(key("one"))
    seen = store.look(None, NOW)
    assert seen is not None
    assert store.look(seen[0]._replace(mark="of another history"), NOW) is not None


def test_a_change_is_read_without_the_keys_that_have_not_changed(store: KeyStore) -> None:
    for number in range(20):
        store.add(key(f"k{number}"))
    first = store.look(None, NOW)
    assert first is not None
    assert (first.whole, len(first.keys)) == (True, 20)
    store.revoke("k3", NOW)
    store.rotate("k4", digest("new"), NOW, 60.0)
    store.add(key("k20"))
    seen = store.look(first.stamp, NOW)
    assert seen is not None
    assert not seen.whole
    assert {one.id: one.status(NOW) for one in seen.keys} == {
        "k3": "revoked", "k4": "grace", "k4-r2": "active", "k20": "active",
    }  # fmt: skip
    store.revoke("k3", NOW)  # changes nothing, and is a change
    again = store.look(seen.stamp, NOW)
    assert again is not None
    assert (again.whole, [one.id for one in again.keys]) == (False, ["k3"])


def test_all_keys_are_read_where_it_cannot_be_told_what_has_changed(
    store: KeyStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("router.key_store._KEPT_CHANGES", 3)
    store.add(key("one"))
    before = store.look(None, NOW)
    assert before is not None
    for name in ("two", "three", "four"):
        store.add(key(name))
    late = store.look(before.stamp, NOW)
    assert late is not None
    assert (late.whole, len(late.keys)) == (True, 4), "the change that it knows is no longer noted"
    with store.database.writing() as connection:  # as a program before this one does, or somebody by hand
        connection.execute(delete(api_keys).where(api_keys.c.id == "one"))
        connection.execute(update(changes).values(number=changes.c.number + 1, mark="x"))
    seen = store.look(late.stamp, NOW)
    assert seen is not None
    assert (seen.whole, len(seen.keys)) == (True, 3)
    store.add(key("five"))
    hidden = store.look(late.stamp, NOW)
    assert hidden is not None
    assert hidden.whole, "one change between is not noted"


def test_a_copy_that_was_put_back_and_went_on_is_read_whole(store: KeyStore) -> None:
    """Its numbers have been seen, but mean other changes."""
    store.add(key("one"))
    store.add(key("two"))
    seen = store.look(None, NOW)
    assert seen is not None
    other = seen.stamp._replace(mark="of another history")
    store.add(key("three"))
    after = store.look(other, NOW)
    assert after is not None
    assert (after.whole, len(after.keys)) == (True, 3)


def test_only_keys_that_open_something_are_looked_at(store: KeyStore) -> None:
    store.add(key("good"))
    store.add(key("expired", expires_at=NOW - 1))
    store.add(key("revoked"))
    store.revoke("revoked", NOW)
    assert live(store) == ["good"]


def test_a_rotated_key_lives_on_for_its_grace_and_no_longer(store: KeyStore) -> None:
    store.add(key(label="robot", models=("a",), expires_at=NOW + 1000))
    old, new = store.rotate("ci", digest("new"), NOW + 5, 60.0)
    assert (old.grace_until, old.status(NOW + 64.9), old.status(NOW + 65)) == (NOW + 65, "grace", "replaced")
    kept = {"label": "robot", "models": ("a",), "expires_at": NOW + 1000}
    assert new == StoredKey("ci-r2", "acme", digest("new"), NOW + 5, replaces="ci", **kept)  # type: ignore[arg-type]
    assert (live(store, NOW + 64), live(store, NOW + 66)) == (["ci", "ci-r2"], ["ci-r2"])
    assert (old.api_key().expires_at, new.api_key().expires_at) == (NOW + 65, NOW + 1000)


def test_a_key_that_expires_within_its_grace_still_expires(store: KeyStore) -> None:
    store.add(key(expires_at=NOW + 10))
    old, new = store.rotate("ci", digest("new"), NOW, 60.0, expires_at=NOW + 500)
    assert (old.api_key().expires_at, old.status(NOW + 10), new.expires_at) == (NOW + 10, "expired", NOW + 500)


def test_a_chain_of_rotations_has_names_in_order_and_avoids_taken_ones(store: KeyStore) -> None:
    store.add(key())
    names = ["ci"]
    for turn in range(3):
        names.append(store.rotate(names[-1], digest(f"{turn}"), NOW, 60.0, taken={"ci-r3"})[1].id)
    assert names == ["ci", "ci-r2", "ci-r4", "ci-r5"]
    longest = "x" * 128
    store.add(key(longest))
    assert store.rotate(longest, digest("long"), NOW, 60.0)[1].id == "x" * 125 + "-r2"


def test_only_an_active_key_can_be_rotated(store: KeyStore) -> None:
    store.add(key())
    store.add(key("over", expires_at=NOW))
    store.add(key("gone"))
    store.revoke("gone", NOW)
    store.rotate("ci", digest("new"), NOW, 60.0)
    for name, said in (("ci", "replaced by 'ci-r2' already"), ("over", "is expired"), ("gone", "is revoked")):
        with pytest.raises(Conflict, match=said):
            store.rotate(name, digest("again"), NOW, 60.0)
    assert {one.id for one in store.every()} == {"ci", "ci-r2", "over", "gone"}


def test_a_key_is_revoked_once_also_within_its_grace(store: KeyStore) -> None:
    store.add(key())
    store.rotate("ci", digest("new"), NOW, 60.0)
    assert store.revoke("ci", NOW + 1).revoked_at == NOW + 1
    assert store.revoke("ci", NOW + 2).revoked_at == NOW + 1
    assert live(store, NOW + 3) == ["ci-r2"]


def test_a_key_that_is_not_there_is_said_to_be_missing(store: KeyStore) -> None:
    for ask in (store.find, lambda name: store.revoke(name, NOW), lambda name: store.rotate(name, b"", NOW, 1.0)):
        with pytest.raises(NotFound) as missing:
            ask("nobody")
        assert missing.value.code == "key_not_found"
    seen = store.look(None, NOW)
    assert seen is not None
    assert seen[0].number == 0, "what failed changed nothing"


def test_a_key_rotated_by_two_at_once_is_replaced_once(store: KeyStore) -> None:
    store.add(key())
    together, ends = threading.Barrier(2), []

    def turn(name: str) -> None:
        together.wait()
        try:
            ends.append(store.rotate("ci", digest(name), NOW, 60.0)[1].id)
        except Conflict:
            ends.append("refused")

    threads = [threading.Thread(target=turn, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(ends) == ["ci-r2", "refused"]


def test_the_digest_is_all_that_is_kept_and_prints_nowhere(store: KeyStore) -> None:
    store.add(key())
    with store.database.reading() as connection:
        row = connection.execute(select(api_keys)).one()
    assert bytes(row.digest) == digest("ci")
    assert digest("ci").hex() not in repr(store.find("ci"))
    assert repr(digest("ci")) not in repr(store.find("ci"))


moments = st.none() | st.floats(0, 100)


@given(moments, moments, moments, st.floats(0, 100))
def test_a_key_is_live_exactly_when_requests_with_it_would_pass(
    expires: float | None, revoked: float | None, grace: float | None, now: float
) -> None:
    one = StoredKey("k", "t", b"", 0.0, expires_at=expires, revoked_at=revoked, grace_until=grace)
    ends = one.api_key().expires_at
    assert one.live(now) == (revoked is None and (ends is None or now < ends))
