"""Keys made at run time, in the database: made, found, revoked, rotated; only ever as the SHA-256 of each.

Floor: an adapter over `router.database`; blocks. Moments are Unix seconds. Whoever changes keys also moves their
counter in the same transaction, which makes changes follow one another and tells every process to look again; and notes
which keys they are, so that nobody has to read a million of them because one was made.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from router.database.engine import Database
from router.database.migrate import prepare
from router.database.tables import api_keys, changes, key_changes
from router.errors import Conflict, NotFound
from router.stored_keys import Seen, Stamp, StoredKey

_SUBJECT = "keys"
_ID_LENGTH = 128  # characters that a key's name may have
_KEPT_CHANGES = 10_000  # whoever has not looked for longer reads all keys


class KeyStore:
    """All keys of one database. Every method raises DatabaseAway."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def prepare(self) -> None:
        """Makes the database fit the program. Raises DatabaseTooNew too."""
        prepare(self.database)

    def look(self, known: Stamp | None, now: float) -> Seen | None:
        """What has changed since `known`, or, where that cannot be told, all keys that are live; None where nothing
        has."""
        with self.database.reading() as connection:
            # First the stamp: what is committed in between makes the keys newer than it, and is seen again next time.
            found = connection.execute(select(changes.c.number, changes.c.mark).where(changes.c.subject == _SUBJECT))
            stamp = Stamp(*found.one())
            if stamp == known:
                return None
            if known is not None and _goes_on(connection, known, stamp):
                since = select(key_changes.c.id).where(key_changes.c.number > known.number)
                rows = connection.execute(select(api_keys).where(api_keys.c.id.in_(since)))
                return Seen(stamp, [_key(row) for row in rows], whole=False)
            rows = connection.execute(select(api_keys).where(api_keys.c.revoked_at.is_(None)))
            return Seen(stamp, [key for key in map(_key, rows) if key.live(now)])

    def every(self, tenant: str | None = None) -> list[StoredKey]:
        """All keys that there ever were, of one tenant or of all, the oldest first."""
        wanted = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
        with self.database.reading() as connection:
            return [
                _key(row) for row in connection.execute(wanted if tenant is None else wanted.filter_by(tenant=tenant))
            ]

    def find(self, key_id: str) -> StoredKey:
        """Raises NotFound."""
        with self.database.reading() as connection:
            return _found(connection, key_id)

    def add(self, key: StoredKey) -> None:
        """Raises Conflict where another has its id."""
        with self.database.writing() as connection:
            _move(connection, key.id)
            _insert(connection, key)

    def revoke(self, key_id: str, now: float) -> StoredKey:
        """Ends a key, and says how it is now; one that was revoked stays so from then. Raises NotFound."""
        with self.database.writing() as connection:
            _move(connection, key_id)
            key = _found(connection, key_id)
            return key if key.revoked_at is not None else _change(connection, replace(key, revoked_at=now))

    def rotate(
        self,
        key_id: str,
        digest: bytes,
        now: float,
        grace: float,
        *,
        expires_at: float | None = None,
        taken: Collection[str] = (),
    ) -> tuple[StoredKey, StoredKey]:
        """Puts a new key in the place of an active one; both are live for `grace` seconds. Returns the old and the new.

        `expires_at`: of the new key, if not the old one's; `taken`: names that it must not get. Raises NotFound, or
        Conflict where the key is not active.
        """
        with self.database.writing() as connection:
            stamp = _move(connection, key_id)
            old = _found(connection, key_id)
            if old.status(now) != "active":
                raise Conflict(_not_active(connection, old, now), param="id")
            ends = expires_at if expires_at is not None else old.expires_at
            name = _next_id(connection, old.id, taken)
            new = replace(old, id=name, digest=digest, created_at=now, expires_at=ends, replaces=old.id)
            _insert(connection, new)
            _note(connection, stamp, new.id)
            return _change(connection, replace(old, grace_until=now + grace)), new


def _move(connection: Connection, key_id: str) -> Stamp:
    """Takes the counter's row until the end of the transaction: changes of keys never overlap. `key_id`: whose change
    it is."""
    ours = changes.c.subject == _SUBJECT
    moved = {"number": changes.c.number + 1, "mark": secrets.token_hex(16)}
    connection.execute(update(changes).where(ours).values(moved))
    stamp = Stamp(*connection.execute(select(changes.c.number, changes.c.mark).where(ours)).one())
    connection.execute(delete(key_changes).where(key_changes.c.number <= stamp.number - _KEPT_CHANGES))
    _note(connection, stamp, key_id)
    return stamp


def _note(connection: Connection, stamp: Stamp, key_id: str) -> None:
    noted = {"number": stamp.number, "id": key_id[:_ID_LENGTH], "mark": stamp.mark}
    connection.execute(insert(key_changes).values(noted))


def _goes_on(connection: Connection, known: Stamp, now: Stamp) -> bool:
    """Whether `known` is of this database's own past, and every change since then says of which keys it was. It is not
    in one that was put back from a copy; nor do changes that an older program made, or that are too old, say so."""
    if now.number <= known.number:
        return False
    of = key_changes.c
    marks = select(of.number, of.mark).where(of.number.in_((known.number, now.number))).distinct()
    if {Stamp(*row) for row in connection.execute(marks)} != {known, now}:
        return False
    between = select(func.count(of.number.distinct())).where(of.number > known.number, of.number <= now.number)
    return connection.execute(between).scalar() == now.number - known.number


def _key(row: Row[tuple[object, ...]]) -> StoredKey:
    fields = dict(row._mapping)
    for scope in ("models", "apis"):
        fields[scope] = tuple(fields[scope]) if fields[scope] is not None else None
    return StoredKey(**fields)


def _found(connection: Connection, key_id: str) -> StoredKey:
    row = connection.execute(select(api_keys).where(api_keys.c.id == key_id)).one_or_none()
    if row is None:
        raise NotFound(f"The database has no key '{key_id[:_ID_LENGTH]}'.", param="id", code="key_not_found")
    return _key(row)


def _insert(connection: Connection, key: StoredKey) -> None:
    fields = {column.name: getattr(key, column.name) for column in api_keys.columns}
    try:
        connection.execute(insert(api_keys).values(fields))
    except IntegrityError:
        raise Conflict(
            f"There is a key '{key.id}' already, perhaps a revoked one: choose another id.", param="id"
        ) from None


def _change(connection: Connection, key: StoredKey) -> StoredKey:
    moments = {"revoked_at": key.revoked_at, "grace_until": key.grace_until}
    connection.execute(update(api_keys).where(api_keys.c.id == key.id).values(moments))
    return key


def _next_id(connection: Connection, old: str, taken: Collection[str]) -> str:
    """`ci`, `ci-r2`, `ci-r3`: the name says what it has come from, and is nobody else's."""
    base, _, number = old.rpartition("-r")
    base, count = (base, int(number)) if base and number.isdecimal() and len(number) < 9 else (old, 1)
    while True:
        count += 1
        suffix = f"-r{count}"
        name = base[: _ID_LENGTH - len(suffix)] + suffix
        if name not in taken and not connection.execute(select(api_keys.c.id).where(api_keys.c.id == name)).first():
            return name


def _not_active(connection: Connection, key: StoredKey, now: float) -> str:
    if key.grace_until is None or key.revoked_at is not None:
        return f"The key '{key.id}' is {key.status(now)}: only an active key can be rotated."
    successor = connection.execute(select(api_keys.c.id).where(api_keys.c.replaces == key.id)).scalar()
    return f"The key '{key.id}' has been replaced by '{successor}' already: rotate that one."
