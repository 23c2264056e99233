"""`python -m tests.chaos`: seeded schedules of faults, one after the other, on one installation.

Floor: arguments and the exit status. 0: every promise was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

from tests.chaos.faults import draw_schedule
from tests.chaos.play import Play, Report
from tests.chaos.world import HOSTS, running_world

DESCRIPTION = """\
Real processes: a gateway, seven simulated engines of three tenants, clients. Each seed is a schedule of faults; what
is promised while and after them is in tests/chaos/rules.py. One seed alone: SEED=7 make chaos
"""


async def play(seeds: list[int]) -> list[Report]:
    failed = []
    async with running_world() as world:
        for seed in seeds:
            report = await Play(world, draw_schedule(seed, HOSTS)).run()
            print(report, flush=True)
            if report.problems:
                failed.append(report)
        if failed:
            print(f"\nthe gateway's last words:\n{world.gateway.log_tail()}")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=20, metavar="N", help="seeds 1 to N (default: 20)")
    seed = os.environ.get("SEED")
    parser.add_argument("--seed", type=int, default=seed, metavar="S", help="this seed alone (default: $SEED)")
    options = parser.parse_args()
    seeds = [options.seed] if options.seed is not None else list(range(1, options.schedules + 1))
    began = time.monotonic()
    failed = asyncio.run(play(seeds))
    print(f"\n{len(seeds)} schedules in {time.monotonic() - began:.0f} s, {len(failed)} with problems")
    for report in failed:
        print(f"  again: SEED={report.schedule.seed} make chaos")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
