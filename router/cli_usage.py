"""`promptlane usage` and `promptlane cost`: from the database itself: no gateway need run.

Floor: a part of `router.cli`, which prints what is returned here.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from policies.economics import Fleet
from router.cli_amounts import amount, money, prices, share
from router.config import load
from router.errors import BadRequest, DatabaseUnavailable
from router.ledger_builder import open_ledger
from router.usage_report import (
    BadSpan,
    Line,
    Span,
    cost_lines,
    cost_row,
    observed,
    served,
    span,
    total,
    usage_lines,
    usage_row,
)

if TYPE_CHECKING:
    from router.ledger.usage import UsageTables

_USAGE_COLUMNS = ("requests", "failed", "refused", "prompt_tokens", "cached_tokens", "completion_tokens")


def add_usage(commands: argparse._SubParsersAction[argparse.ArgumentParser], config_default: str | None) -> None:
    """The parsers. `config_default`: the file where `--config` is not given."""
    usage = commands.add_parser("usage", help="requests, tokens and what records say they cost, by tenant and model")
    _add_common(usage, config_default)
    usage.add_argument(
        "--from-records", action="store_true", help="read the records themselves: the same where none was deleted; slow"
    )
    cost = commands.add_parser(
        "cost", help="what endpoints cost, idle ones too, by tenant and model, and what a million tokens comes to"
    )
    _add_common(cost, config_default)
    cost.add_argument("--model", metavar="M", help="of this model alone")
    cost.add_argument(
        "--api-price", type=prices, metavar="IN:OUT[:CACHED]", help="what an API asks for a million tokens: break-even"
    )
    cost.add_argument("--demand", type=amount, metavar="TOKENS", help="how many endpoints so many tokens a day need")
    cost.add_argument("--budget", type=money, metavar="MONEY", help="how many endpoints so much money a day pays for")
    cost.add_argument(
        "--utilisation", type=share, default=0.7, metavar="SHARE", help="how busy they may then be (default: 0.7)"
    )


def run_usage(options: argparse.Namespace) -> Iterator[str]:
    """The lines to print. Raises ConfigError or GatewayError."""
    wanted = _span(options)
    with _tables(options) as tables:
        found = (tables.recounted if options.from_records else tables.usage)(*wanted.days)
    lines = usage_lines(found, by_day=options.by == "day").only(options.tenant)
    rows = [usage_row(line) for line in lines]
    if options.format != "table":
        yield from _machine(options, wanted, rows, usage_row(total(lines)))
        return
    columns = [*_keys(options), *_USAGE_COLUMNS, "cost"]
    cells = [[*_cells(row, columns[:-1]), _money(row["cost_micro_usd"])] for row in [*rows, usage_row(total(lines))]]
    yield from _table(columns, cells, wanted)


def run_cost(options: argparse.Namespace) -> Iterator[str]:
    """As `run_usage`."""
    wanted = _span(options)
    if options.format == "csv" and (options.demand is not None or options.budget is not None):
        raise BadRequest("--format csv has rows alone: ask for --demand or --budget as a table or JSON")
    with _tables(options) as tables:
        usage, endpoints = tables.usage(*wanted.days), tables.endpoints(*wanted.days)
    lines = cost_lines(usage, endpoints, served(load(options.config)), by_day=options.by == "day")
    chosen = lines.only(options.tenant, options.model)
    whole = total(chosen)
    fleets = _fleets(options, whole)
    rows, sums = [cost_row(line, options.api_price) for line in chosen], cost_row(whole, options.api_price)
    if options.format != "table":
        plan = {"plan": {name: _fleet(fleet) for name, fleet in fleets.items()}} if fleets else {}
        yield from _machine(options, wanted, rows, sums, **plan)
        return
    yield from _cost_table(options, wanted, [*rows, sums])
    if not whole.cost:
        yield "Endpoints have cost nothing: " + ("they have no hourly_cost." if whole.time else "no record is of them.")
    yield from _said(options, fleets)


def _add_common(parser: argparse.ArgumentParser, default: str | None) -> None:
    text = "the configuration, YAML (default: PROMPTLANE_CONFIG)"
    parser.add_argument("--config", metavar="FILE", default=default, required=default is None, help=text)
    parser.add_argument("--tenant", metavar="T", help="of this tenant alone")
    parser.add_argument("--from", dest="since", metavar="DAY", help="the first day, in UTC (default: this month's)")
    parser.add_argument("--to", dest="until", metavar="DAY", help="the day behind the last one (default: tomorrow)")
    parser.add_argument("--by", choices=("total", "day"), default="total", help="a row for all days, or for each")
    parser.add_argument(
        "--format", choices=("table", "json", "csv"), default="table", help="how to print (default: table)"
    )


def _span(options: argparse.Namespace) -> Span:
    try:
        return span(options.since, options.until, datetime.now(UTC).date())
    except BadSpan as error:
        raise BadRequest(f"--{error.field}: {error}") from None


@contextmanager
def _tables(options: argparse.Namespace) -> Iterator[UsageTables]:
    """Raises DatabaseUnavailable, also for what is done with them."""
    from router.database.errors import DatabaseAway
    from router.ledger.usage import UsageTables

    store = open_ledger(load(options.config), b"")
    try:
        yield UsageTables(store.database)
    except DatabaseAway as error:
        raise DatabaseUnavailable(f"The database of the ledger cannot be used: {error}") from None
    finally:
        store.database.close()


# -- backwards


def _fleets(options: argparse.Namespace, whole: Line) -> dict[str, Fleet]:
    """By what was asked: for the demand, for the budget. Raises BadRequest where nothing can be said."""
    if options.demand is None and options.budget is None:
        return {}
    try:
        seen, found = observed(whole), {}
        if options.demand is not None:
            found["demand"] = seen.for_demand(options.demand, options.utilisation)
        if options.budget is not None:
            found["budget"] = seen.for_budget(options.budget, options.utilisation)
    except ValueError as error:
        raise BadRequest(f"This cannot be solved from these days: {error}.") from None
    return found


def _fleet(fleet: Fleet) -> dict[str, Any]:
    return {
        "endpoints": fleet.endpoints,
        "tokens_per_day": fleet.tokens,
        "micro_usd_per_day": fleet.cost,
        "micro_usd_per_million_tokens": fleet.per_million,
    }


def _said(options: argparse.Namespace, fleets: dict[str, Fleet]) -> Iterator[str]:
    for name, fleet in fleets.items():
        asked = (
            f"{options.demand} tokens a day need" if name == "demand" else f"{_money(options.budget)} a day pays for"
        )
        several = "endpoint" if fleet.endpoints == 1 else "endpoints"
        yield (
            f"{asked} {fleet.endpoints} {several}, busy {options.utilisation:.0%} of the time: {fleet.tokens} tokens "
            f"and {_money(fleet.cost)} a day, {_money(fleet.per_million)} a million"
        )
    if len(fleets) == 2:
        enough = fleets["demand"].cost <= options.budget
        yield "The budget is enough for the demand." if enough else "The budget is not enough for the demand."


# -- printing


def _machine(
    options: argparse.Namespace, wanted: Span, rows: list[dict[str, Any]], sums: dict[str, Any], **more: Any
) -> Iterator[str]:
    if options.format == "json":
        names = ("day", "tenant", "model")
        sums = {name: value for name, value in sums.items() if name not in names}
        days = {"from": wanted.since.isoformat(), "to": wanted.until.isoformat()}
        yield json.dumps({**days, "rows": rows, "total": sums, **more}, indent=2)
        return
    text = io.StringIO()
    columns = [*_keys(options), *(name for name in sums if name not in ("tenant", "model"))]
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    yield text.getvalue().rstrip("\n")


def _cost_table(options: argparse.Namespace, wanted: Span, rows: list[dict[str, Any]]) -> Iterator[str]:
    columns = [*_keys(options), "prompt_tokens", "cached_tokens", "completion_tokens", "endpoint_hours"]
    cells = []
    for row in rows:
        line = [*_cells(row, columns), _share(row["utilisation"]), _money(row["cost_micro_usd"])]
        line += [_money(row["micro_usd_per_million_tokens"]), _money(row["floor_micro_usd_per_million_tokens"])]
        if options.api_price is not None:
            tokens = row["break_even_tokens"]
            line += [_money(row["api_micro_usd"]), "-" if tokens is None else str(tokens)]
            line.append(_share(row["break_even_utilisation"]))
        cells.append(line)
    more = ["api_cost", "break_even_tokens", "at_utilisation"] if options.api_price is not None else []
    yield from _table([*columns, "utilisation", "cost", "per_million", "floor", *more], cells, wanted)


def _keys(options: argparse.Namespace) -> list[str]:
    return [*(["day"] if options.by == "day" else []), "tenant", "model"]


def _cells(row: dict[str, Any], columns: Sequence[str]) -> list[str]:
    """The last row has no day, as it is of all."""
    cells = []
    for column in columns:
        value = row.get(column, "")
        cells.append(f"{value:.3f}" if isinstance(value, float) else str(value) or "-")
    return cells


def _table(columns: Sequence[str], rows: list[list[str]], wanted: Span) -> Iterator[str]:
    """The last of the rows is their sum."""
    yield f"From {wanted.since} up to {wanted.until} (UTC), that day not included."
    rows[-1][0] = "all"
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    names = columns.index("model") + 1
    for row in [columns, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row[:names], widths[:names], strict=True)]
        cells += [cell.rjust(width) for cell, width in zip(row[names:], widths[names:], strict=True)]
        yield "  ".join(cells)


def _money(micro: int | None) -> str:
    return "-" if micro is None else f"{micro // 1_000_000}.{micro % 1_000_000:06d}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
