"""`python -m tests.chaos.ledger`: very many requests, kills of gateways and of their database, and the books after it.

Floor: arguments and the exit status. 0: every record is true, and none is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys

from tests.chaos.ledger.faults import OUTAGES
from tests.chaos.ledger.installation import installed
from tests.chaos.ledger.play import Play, Report

DESCRIPTION = """\
Real processes: two gateways (three that serve), their ledger on PostgreSQL and then on SQLite, four simulated engines,
clients that leave, are refused and meet engines that fail. Gateways are killed, and so is their database, or it stands
still, is locked, is away. What must hold then is in tests/chaos/ledger/judge.py. One seed: SEED=7 make chaos-ledger
"""


async def play(database: str, options: argparse.Namespace) -> Report:
    async with installed(database) as world:
        try:
            run = Play(world, database, options.seed, options.requests, options.kills, options.outages)
            report = await run.run()
        except BaseException:
            print("\n".join(f"{life.name}:\n{life.server.log_tail()}" for life in world.past[-4:]))
            raise
        if report.problems:
            print("\n".join(f"{life.name}:\n{life.server.log_tail()}" for life in world.past))
        print(report, flush=True)
        return report


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.ledger",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--requests", type=int, default=10_000, metavar="N", help="of each run (default: 10000)")
    parser.add_argument("--kills", type=int, default=5, metavar="N", help="of gateways, in each run (default: 5)")
    parser.add_argument("--outages", type=int, default=4, metavar="N", help="of the database, likewise (default: 4)")
    parser.add_argument(
        "--databases", nargs="+", choices=list(OUTAGES), default=list(OUTAGES), help="one run each (default: all)"
    )
    seed = int(os.environ.get("SEED", "1"))
    parser.add_argument("--seed", type=int, default=seed, metavar="S", help="of requests and faults (default: $SEED)")
    options = parser.parse_args()
    reports = [asyncio.run(play(database, options)) for database in options.databases]
    failed = [report for report in reports if report.problems]
    for report in failed:
        print(f"again: .venv/bin/python -m tests.chaos.ledger --databases {report.database} --seed {options.seed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
