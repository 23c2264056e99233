"""The command `promptlane`.

Floor: the top. Parses arguments, calls one function, turns its failures into an exit status and a clear line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from policies.drill import DrillFault
from router import __version__
from router.cli_deployment import Audit, add_deployment, run_render
from router.cli_keys import add_keys, run_keys
from router.cli_ledger import Listing, add_ledger
from router.cli_usage import add_usage, run_cost, run_usage
from router.config import Config, ConfigError, load, loads, read, warnings
from router.deployment.plan import make_plan
from router.errors import GatewayError
from router.operators import NoAnswer, ask_operators
from router.running import is_compiled

_DESCRIPTION = """\
Promptlane: an OpenAI-compatible, prompt-aware gateway for people who run their own vLLM servers for several tenants.

A tenant points any OpenAI client at https://<tenant>.<base domain>/v1, or sends its API key to any host of the gateway.
Every request is answered by an engine of that tenant's own pool: the one that is predicted to answer first, knowing
which engine holds the prompt's prefix in its KV cache.
"""

_EPILOG = """\
a first start:
  promptlane keys create --tenant acme      # put the printed line under tenants.acme.api_keys
  promptlane check --config promptlane.yaml # says every mistake at once
  promptlane serve --config promptlane.yaml # tenants on server.port, operators on server.admin_port

keys while it runs (state.ledger_url, or keys.at_run_time: true):
  promptlane keys create --config promptlane.yaml --tenant acme   # kept in the database; on every gateway in 2 s
  promptlane keys rotate --config promptlane.yaml ID              # a new key; the old one for 24 hours more
  promptlane keys revoke --config promptlane.yaml ID              # refused everywhere in 2 s

records (state.ledger_url, or ledger.enabled: true):
  promptlane ledger list --config promptlane.yaml --kind failover --tenant acme
  promptlane ledger verify --config promptlane.yaml               # 0 where no record was changed or is missing
  promptlane usage --config promptlane.yaml --from 2027-01-01 --to 2027-02-01 --format csv
  promptlane cost --config promptlane.yaml --demand 50M           # what tokens cost, and how many endpoints those need

Kubernetes (pools with `deploy`):
  promptlane render kubernetes --config promptlane.yaml --out tenants   # then: kubectl kustomize
  promptlane audit --config promptlane.yaml --cluster             # 0 where tenants are kept apart

environment:
  PROMPTLANE_CONFIG              the configuration file, where --config is not given
  PROMPTLANE_SECRET              what cache salts derive from, 32 characters or more, the same on every replica
  PROMPTLANE_SERVER__PORT=8081   any key of the file: sections joined by two underscores; wins over the file
  PROMPT_TOKEN_THRESHOLD         classify.long_prompt_tokens
  ENABLE_KV_AWARE_ROUTING=false  a profile that ignores caches

signals (serve):
  SIGHUP   reload the configuration: all of it is built and validated, then swapped; requests under way finish
  SIGTERM  not ready any more; requests under way get server.shutdown_grace seconds to finish
           with server.workers both go to the process that was started, which tells all workers

exit status: 0 well, 1 a mistake in the configuration or in what was asked, a drill that failed, a broken ledger or
  tenants that are not kept apart, 2 wrong arguments
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; its exit status."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    command: str = options.command
    try:
        return _COMMANDS[command](options)
    except ConfigError as error:
        _print_problems(error)
    except GatewayError as error:
        _complain(error.message)
    except NoAnswer as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'input'}: {error.strerror or error}")
    return 1


def _version() -> str:
    return f"promptlane {__version__}{' (compiled)' if is_compiled() else ''}"


def build_parser() -> argparse.ArgumentParser:
    """All commands and options; the docs are checked against it."""
    parser = argparse.ArgumentParser(
        prog="promptlane",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    serve = commands.add_parser("serve", help="run the gateway")
    _add_config(serve)

    check = commands.add_parser("check", help="validate a configuration; says every mistake with its path and line")
    _add_config(check)

    add_keys(commands, os.environ.get("PROMPTLANE_CONFIG"))

    explain = commands.add_parser(
        "explain", help="show lane, tokens, prefix blocks, scores and choice for a request body"
    )
    _add_config(explain)
    explain.add_argument("--tenant", required=True, metavar="T", help="the tenant that asks")
    explain.add_argument("--body", required=True, metavar="FILE", help="the request body, JSON; - for standard input")
    explain.add_argument("--path", metavar="PATH", help="the API's path (default: told from the body's fields)")
    explain.add_argument("--lane", metavar="LANE", help="the lane that the client asks for")
    explain.add_argument(
        "--live", action="store_true", help="ask the running gateway, by its operator plane: its pools as they are now"
    )
    _add_drill(commands)
    add_ledger(commands, os.environ.get("PROMPTLANE_CONFIG"))
    add_usage(commands, os.environ.get("PROMPTLANE_CONFIG"))
    add_deployment(commands, os.environ.get("PROMPTLANE_CONFIG"))
    return parser


def _add_drill(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    drill = commands.add_parser("drill", help="make endpoints fail on purpose, and measure how soon others take over")
    _add_config(drill)
    drill.add_argument("--tenant", required=True, metavar="T", help="the tenant whose pool is exercised")
    drill.add_argument("--model", metavar="M", help="its model, where it has several pools")
    drill.add_argument("--endpoint", metavar="NAME", help="this endpoint alone fails (default: all hot ones)")
    faults = [fault.value for fault in DrillFault]
    drill.add_argument("--fault", choices=faults, default="kill", help="how they fail (default: kill)")
    drill.add_argument("--seconds", type=float, metavar="N", help="for so long (default: the tier's target and 5 more)")
    drill.add_argument("--dry-run", action="store_true", help="say what would be done, and who would take over")
    drill.add_argument("--real", action="store_true", help="break real engines, by the pool's drill_hook")
    drill.add_argument("--force", action="store_true", help="though nobody can take over, or other tenants suffer it")
    drill.add_argument("--json", action="store_true", help="print the result as JSON")


def _add_config(parser: argparse.ArgumentParser) -> None:
    named = os.environ.get("PROMPTLANE_CONFIG")
    parser.add_argument(
        "--config",
        metavar="FILE",
        default=named,
        required=named is None,
        help="the configuration, YAML (default: PROMPTLANE_CONFIG)",
    )


def _serve(options: argparse.Namespace) -> int:
    from router.secret import SecretUnavailable
    from router.serve import serve
    from router.surroundings import CannotServe
    from router.workers.assignment import take

    handed = take(os.environ)
    if handed is not None:
        from router.workers.worker import work

        return work(*handed)
    data = read(options.config)
    config = loads(data, name=options.config)
    _print_warnings(config)
    try:
        if config.server.workers == 1:
            serve(Path(options.config), config)
        else:
            from router.workers.supervisor import supervise

            supervise(Path(options.config), data, config, [sys.executable, *sys.orig_argv[1:]])
    except (CannotServe, SecretUnavailable) as error:
        _complain(str(error))
        return 1
    return 0


def _check(options: argparse.Namespace) -> int:
    config = load(options.config)
    _print_warnings(config)
    make_plan(config)  # which says where what pools look for is not what would be made for them
    endpoints = sum(len(pool.endpoints) for pool in config.pools.values())
    found = sum(pool.discovery is not None for pool in config.pools.values())
    more = f", pools that find endpoints at run time: {found}" if found else ""
    counts = f"{len(config.tenants)} tenants, {len(config.pools)} pools, {endpoints} endpoints{more}"
    print(f"{options.config}: good ({counts})")
    return 0


def _printed(run: Callable[[argparse.Namespace], Iterable[str]]) -> Callable[[argparse.Namespace], int]:
    def command(options: argparse.Namespace) -> int:
        for line in run(options):
            print(line)
        return 0

    return command


def _judged(make: Callable[[], Listing | Audit]) -> Callable[[argparse.Namespace], int]:
    """A command whose exit status is known once it is done."""

    def command(options: argparse.Namespace) -> int:
        judge = make()
        for line in judge.run(options):
            print(line)
        return judge.status

    return command


def _explain(options: argparse.Namespace) -> int:
    from router.assembly import build
    from router.counting import TokenCounter
    from router.explain import assume_healthy, explain
    from router.metrics import Metrics
    from router.process import Process

    config = load(options.config)
    data = sys.stdin.buffer.read() if options.body == "-" else Path(options.body).read_bytes()
    if options.live:
        return _explain_live(options, config, data)
    # Prefix hashes are salted by the server's secret; here they only show which blocks there are.
    secret = config.server.secret.get_secret_value() if config.server.secret is not None else "explain"
    runtime = build(config, Process(secret.encode(), TokenCounter(), Metrics()))
    assume_healthy(runtime)
    for line in asyncio.run(explain(runtime, options.tenant, data, options.path, options.lane)):
        print(line)
    return 0


def _explain_live(options: argparse.Namespace, config: Config, data: bytes) -> int:
    asked = {"tenant": options.tenant, "path": options.path, "lane": options.lane}
    params = {name: value for name, value in asked.items() if value is not None}
    print(ask_operators(config, "/admin/explain", data, params=params).text, end="")
    return 0


def _drill(options: argparse.Namespace) -> int:
    from router.drill_report import report_lines

    keys = ("tenant", "model", "endpoint", "fault", "seconds", "dry_run", "real", "force")
    order = {key: getattr(options, key) for key in keys}
    # It answers when all is over: after the fault, and the way back of the endpoints.
    result = ask_operators(load(options.config), "/admin/drill", json.dumps(order).encode(), seconds=None).json()
    print(json.dumps(result, indent=2) if options.json else "\n".join(report_lines(result)))
    return 1 if result["status"] == "failed" else 0


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "check": _check,
    "keys": _printed(run_keys),
    "explain": _explain,
    "drill": _drill,
    "ledger": _judged(Listing),
    "render": _printed(run_render),
    "audit": _judged(Audit),
    "usage": _printed(run_usage),
    "cost": _printed(run_cost),
}


def _print_warnings(config: Config) -> None:
    for problem in warnings(config, datetime.now(UTC)):
        print(f"warning: {problem}", file=sys.stderr)


def _print_problems(error: ConfigError) -> None:
    count = len(error.problems)
    print(f"promptlane: the configuration has {count} mistake{'s' if count != 1 else ''}:", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)


def _complain(message: str) -> None:
    print(f"promptlane: {message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
