"""`promptlane keys`: keys made, listed, revoked and rotated, in the database itself: no gateway need run.

Floor: a part of `router.cli`, which prints what is returned here.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from router.config import Config, load
from router.errors import BadRequest, DatabaseUnavailable
from router.key_builder import open_store
from router.key_orders import (
    KeyOrder,
    RotateOrder,
    check_expiry,
    check_order,
    create,
    default_id,
    known_tenant,
    listed,
    read_order,
    revoke,
    rotate,
    shown,
)
from router.tenants import new_key

if TYPE_CHECKING:
    from router.key_store import KeyStore

_COLUMNS = ("id", "tenant", "source", "status", "expires_at", "models", "apis", "label")


def add_keys(commands: argparse._SubParsersAction[argparse.ArgumentParser], config_default: str | None) -> None:
    """The parsers. `config_default`: the file where `--config` is not given."""
    keys = commands.add_parser("keys", help="make, list, revoke and rotate API keys")
    kinds = keys.add_subparsers(dest="key_command", required=True, metavar="COMMAND")

    create = kinds.add_parser(
        "create", help="print a new key once; keep its SHA-256 in the database, or print the line that holds it"
    )
    _add_config(create, config_default, required=False)
    create.add_argument("--tenant", required=True, metavar="T", help="the tenant that the key is for")
    create.add_argument("--id", metavar="NAME", help="the key's name in records and metrics (default: key-<date>-…)")
    create.add_argument("--label", metavar="TEXT", default="", help="what it is for, for people")
    create.add_argument("--model", metavar="M", action="append", help="a model it may ask for; may be repeated")
    create.add_argument("--api", metavar="A", action="append", help="an API it may call; may be repeated")
    create.add_argument("--expires", metavar="WHEN", help="a date or a time with zone after which the key is refused")
    create.add_argument(
        "--line", action="store_true", help="print the line for the configuration instead; so it is without a database"
    )

    show = kinds.add_parser("list", help="list the keys of the configuration and of the database")
    _add_config(show, config_default, required=config_default is None)
    show.add_argument("--tenant", metavar="T", help="of this tenant alone")
    show.add_argument("--json", action="store_true", help="print them as JSON")

    end = kinds.add_parser("revoke", help="end a key of the database: every gateway refuses it within 2 seconds")
    _add_config(end, config_default, required=config_default is None)
    end.add_argument("id", metavar="ID", help="the key's name")

    turn = kinds.add_parser("rotate", help="print a new key in the place of one that stays valid for a while")
    _add_config(turn, config_default, required=config_default is None)
    turn.add_argument("id", metavar="ID", help="the name of the key to be replaced")
    turn.add_argument("--grace", metavar="SECONDS", help="for so long (default: keys.rotation_grace, 86400)")
    turn.add_argument("--expires", metavar="WHEN", help="when the new key ends (default: as the old one)")


def run_keys(options: argparse.Namespace) -> Iterator[str]:
    """Carries the command out; the lines to print. Raises ConfigError or GatewayError."""
    return _COMMANDS[options.key_command](options, time.time())


def _add_config(parser: argparse.ArgumentParser, default: str | None, *, required: bool) -> None:
    text = "the configuration, YAML (default: PROMPTLANE_CONFIG)"
    parser.add_argument("--config", metavar="FILE", default=default, required=required, help=text)


def _create(options: argparse.Namespace, now: float) -> Iterator[str]:
    said = {name: getattr(options, name) for name in ("tenant", "id", "label", "expires")}
    said |= {"models": options.model, "apis": options.api}
    order = _named(lambda: read_order(KeyOrder, said))
    config = load(options.config) if options.config is not None else None
    if config is None or options.line or not config.keeps_keys:
        yield from _line(config, order, now)
        return
    _named(lambda: check_order(config, order, now))  # before there is a database for it
    made = _named(lambda: _with(config, lambda store: create(store, config, order, now), make=True))
    yield from _handed_over(order.tenant, made.key)
    yield f"Kept as '{made.stored.id}' in {_where(config)}; {_soon(config)}."


def _line(config: Config | None, order: KeyOrder, now: float) -> Iterator[str]:
    if order.label:
        raise BadRequest("--label: only keys in a database have one; the line of a file may have a comment")
    _named(lambda: check_order(config, order, now) if config is not None else check_expiry(order.expires, now))
    key, digest = new_key()
    fields = {"id": f"'{order.id or default_id(now)}'", "sha256": f"'{digest}'"}
    if order.expires is not None:
        fields["expires"] = order.expires.isoformat()
    # JSON is YAML, and quotes what would be read as something else than a name.
    fields |= {
        name: json.dumps(scope) for name, scope in (("models", order.models), ("apis", order.apis)) if scope is not None
    }
    yield from _handed_over(order.tenant, key)
    yield f"The line for the configuration, under tenants.{order.tenant}.api_keys:\n"
    yield "  - {" + ", ".join(f"{name}: {value}" for name, value in fields.items()) + "}"


def _list(options: argparse.Namespace, now: float) -> Iterator[str]:
    config = load(options.config)
    tenant = _named(lambda: known_tenant(config, options.tenant)) if options.tenant is not None else None
    stored = _with(config, lambda store: store.every(tenant)) if config.keeps_keys else []
    keys = listed(config, stored, now, tenant)
    if options.json:
        yield json.dumps({"keys": keys}, indent=2)
    else:
        yield from _table(keys)


def _revoke(options: argparse.Namespace, now: float) -> Iterator[str]:
    config = load(options.config)
    key = _with(config, lambda store: shown(config, revoke(store, config, options.id, now), now))
    yield f"Revoked: '{key['id']}' of {key['tenant']}, as of {key['revoked_at']}; {_soon(config)}."


def _rotate(options: argparse.Namespace, now: float) -> Iterator[str]:
    config = load(options.config)
    order = _named(lambda: read_order(RotateOrder, {"grace_seconds": options.grace, "expires": options.expires}))
    made = _named(lambda: _with(config, lambda store: rotate(store, config, options.id, order, now)))
    yield from _handed_over(made.stored.tenant, made.key)
    until = datetime.fromtimestamp((made.old.grace_until if made.old is not None else None) or now, UTC)
    yield (
        f"Kept as '{made.stored.id}' in {_where(config)}; '{options.id}' stays valid until "
        f"{until.isoformat(timespec='seconds')}. {_soon(config).capitalize()}."
    )


_COMMANDS: dict[str, Callable[[argparse.Namespace, float], Iterator[str]]] = {
    "create": _create,
    "list": _list,
    "revoke": _revoke,
    "rotate": _rotate,
}


def _with(config: Config, work: Callable[[KeyStore], Any], *, make: bool = False) -> Any:
    from router.database.errors import DatabaseAway

    store = open_store(config, make=make)
    try:
        return work(store)
    except DatabaseAway as error:
        raise DatabaseUnavailable(f"The database of keys cannot be used: {error}") from None
    finally:
        store.database.close()


def _named(work: Callable[[], Any]) -> Any:
    """A refusal that names a field of an order names the option that said it."""
    options = {"grace_seconds": "grace", "models": "model", "apis": "api"}
    try:
        return work()
    except BadRequest as error:
        field = (error.param or "").split("[")[0]
        message = (
            error.message.replace(error.param or "", f"--{options.get(field, field)}", 1) if field else error.message
        )
        raise BadRequest(message) from None


def _handed_over(tenant: str, key: str) -> Iterator[str]:
    yield f"The key, shown this once; give it to {tenant}:\n"
    yield f"  {key}\n"


def _where(config: Config) -> str:
    from router.database.engine import Database

    return str(Database(config.database_url, config.state.ledger_timeout))


def _soon(config: Config) -> str:
    return f"every gateway on this database goes by it within {config.keys.look_seconds + 1:g} seconds"


def _table(keys: list[dict[str, Any]]) -> Iterator[str]:
    rows = [_COLUMNS, *(tuple(_cell(column, key.get(column)) for column in _COLUMNS) for key in keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _cell(column: str, value: Any) -> str:
    if value is None:
        return {"models": "all", "apis": "all"}.get(column, "-")
    return ",".join(value) or "none" if isinstance(value, list) else str(value)
