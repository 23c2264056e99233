"""`promptlane ledger`: records verified and listed, in the database itself: no gateway need run.

Floor: a part of `router.cli`, which prints what is returned here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from router.config import Config, load
from router.config.types import moment
from router.errors import BadRequest, DatabaseUnavailable
from router.ledger_builder import open_ledger
from router.secret import SecretUnavailable, ledger_key, load_secret
from router.wire.record import Kind, Record

if TYPE_CHECKING:
    from router.ledger.audit import Finding

_COLUMNS = (
    "time", "kind", "tenant", "model", "pool", "endpoint", "outcome", "status", "prompt_tokens", "completion_tokens",
    "total_seconds", "detail",
)  # fmt: skip
_MOST = 10_000  # records of one list: more is for a database client


class Listing:
    """What to print, and the exit status once that is done."""

    def __init__(self) -> None:
        self.status = 0

    def run(self, options: argparse.Namespace) -> Iterator[str]:
        """The lines to print. Raises ConfigError, GatewayError or OSError."""
        yield from (self._verify if options.ledger_command == "verify" else _list)(options)

    def _verify(self, options: argparse.Namespace) -> Iterator[str]:
        findings = list(_findings(options))
        self.status = int(any(finding.problem is not None for finding in findings))
        if options.replica is not None and not findings:
            raise BadRequest(f"--replica: there is no chain '{options.replica}'")
        if options.format == "json":
            yield json.dumps({"chains": [_finding(one, options.tenant) for one in findings]}, indent=2)
            return
        for finding in findings:
            yield _said(finding, options.tenant)
        whole = sum(finding.problem is None for finding in findings)
        yield f"{whole} of {len(findings)} chains are whole."


def add_ledger(commands: argparse._SubParsersAction[argparse.ArgumentParser], config_default: str | None) -> None:
    """The parsers. `config_default`: the file where `--config` is not given."""
    ledger = commands.add_parser("ledger", help="verify and list the records of requests and events")
    kinds = ledger.add_subparsers(dest="ledger_command", required=True, metavar="COMMAND")

    verify = kinds.add_parser("verify", help="say whether every chain of records is whole, or where it is not")
    add_config(verify, config_default)
    verify.add_argument("--replica", metavar="NAME", help="this chain alone")
    verify.add_argument("--tenant", metavar="T", help="say too how many of the records are this tenant's")
    verify.add_argument("--spool", action="store_true", help="the files of ledger.spool_dir instead of the database")
    verify.add_argument("--format", choices=("table", "json"), default="table", help="how to print (default: table)")

    show = kinds.add_parser("list", help="list the last records, the oldest first")
    add_config(show, config_default)
    show.add_argument("--kind", choices=[kind.value for kind in Kind], help="of this kind alone")
    show.add_argument("--tenant", metavar="T", help="of this tenant alone")
    show.add_argument("--from", dest="since", metavar="WHEN", help="not before this date, or time with its zone")
    show.add_argument("--to", dest="until", metavar="WHEN", help="before this one")
    show.add_argument("--limit", type=int, default=100, metavar="N", help="so many at most (default: 100)")
    show.add_argument("--format", choices=("table", "json"), default="table", help="how to print (default: table)")


def add_config(parser: argparse.ArgumentParser, default: str | None) -> None:
    """The option that names the file. `default`: the one where it is not given."""
    text = "the configuration, YAML (default: PROMPTLANE_CONFIG)"
    parser.add_argument("--config", metavar="FILE", default=default, required=default is None, help=text)


# -- verify


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    from router.database.errors import DatabaseAway
    from router.ledger.audit import audit_database, audit_spool

    config = load(options.config)
    key = _key(config)
    if options.spool:
        yield from audit_spool(Path(config.ledger.spool_dir), key, options.replica, options.tenant)
        return
    store = open_ledger(config, key)
    try:
        yield from audit_database(store, key, options.replica, options.tenant)
    except DatabaseAway as error:
        raise DatabaseUnavailable(f"The database of the ledger cannot be used: {error}") from None
    finally:
        store.database.close()


def _key(config: Config) -> bytes:
    """By the secret that the gateways have; a new one would verify nothing."""
    file = Path(config.server.secret_file)
    if config.server.secret is None and not file.exists():
        raise BadRequest(
            f"The gateways' secret is needed: set PROMPTLANE_SECRET, or give '{file}' (server.secret_file)."
        )
    secret = config.server.secret.get_secret_value() if config.server.secret is not None else None
    try:
        return ledger_key(load_secret(secret, file))
    except SecretUnavailable as error:
        raise BadRequest(str(error)) from None


def _said(finding: Finding, tenant: str | None) -> str:
    text = f"{finding.chain}: "
    if finding.records:
        since, until = _time(finding.since), _time(finding.until)
        text += f"records {finding.first} to {finding.last}, {since} to {until}"
        text += f", {finding.of_tenant} of {tenant}" if tenant is not None else ""
    else:
        text += "no records"
    return f"{text}: {f'BROKEN: {finding.problem}' if finding.problem is not None else 'whole'}"


def _finding(finding: Finding, tenant: str | None) -> dict[str, Any]:
    broken = finding.broken
    return {
        "chain": finding.chain,
        "whole": finding.problem is None,
        "problem": finding.problem,
        "sequence": broken.sequence if broken is not None else None,
        "why": broken.why.value if broken is not None else None,
        "records": finding.records,
        "first": finding.first or None,
        "last": finding.last or None,
        "since": finding.since,
        "until": finding.until,
        **({"of_tenant": finding.of_tenant} if tenant is not None else {}),
    }


# -- list


def _list(options: argparse.Namespace) -> Iterator[str]:
    from router.database.errors import DatabaseAway
    from router.ledger.store import Wanted

    if not 1 <= options.limit <= _MOST:
        raise BadRequest(f"--limit: expected a number from 1 to {_MOST}")
    wanted = Wanted(options.kind, options.tenant, _moment("--from", options.since), _moment("--to", options.until))
    store = open_ledger(load(options.config), b"")
    try:
        records = store.find(wanted, options.limit)
    except DatabaseAway as error:
        raise DatabaseUnavailable(f"The database of the ledger cannot be used: {error}") from None
    finally:
        store.database.close()
    if options.format == "json":
        yield json.dumps({"records": [_builtins(record) for record in records]}, indent=2)
    else:
        yield from _table([_cells(record) for record in records])


def _moment(option: str, text: str | None) -> float | None:
    try:
        found = moment(text)
    except ValueError:
        raise BadRequest(f"{option}: expected a date, or a time with its zone (2027-01-31T12:00:00Z)") from None
    return found.timestamp() if found is not None else None


def _builtins(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(record)
    return {"time": _time(record.at), **found}


def _cells(record: Record) -> list[str]:
    cells = []
    for column in _COLUMNS:
        value: Any = _time(record.at) if column == "time" else getattr(record, column)
        if isinstance(value, dict):
            value = " ".join(f"{name}={_short(one)}" for name, one in value.items())
        cells.append("-" if value is None or (column == "status" and not value) else _short(value))
    return cells


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return value if isinstance(value, str) else json.dumps(value)


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    rows = [_COLUMNS, *rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _time(at: float | None) -> str:
    return datetime.fromtimestamp(at or 0.0, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
