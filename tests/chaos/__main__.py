"""`python -m tests.chaos`: seeded schedules of faults, one after the other, on one installation.

Floor: arguments and the exit status. 0: every promise was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping

import httpx2

from tests.chaos.bystanders import SPARE_IN_ALL, Waits, table, who_was_late
from tests.chaos.faults import Schedule, draw_schedule
from tests.chaos.play import Play, Report
from tests.chaos.world import HOSTS, World, running_world

DESCRIPTION = """\
Real processes: a gateway, seven simulated engines of three tenants, clients. Each seed is a schedule of faults; what
is promised while and after them is in tests/chaos/rules.py. One seed alone: SEED=7 make chaos
"""
CALM_SECONDS = 8.0
"""Without a fault, before the first: what the tenants' p99 are compared with."""


async def play(seeds: list[int]) -> tuple[list[Report], list[str]]:
    """The schedules with problems, and the problems that show only in all of them together."""
    failed, during = [], dict[str, Waits]()
    async with running_world() as world:
        calm = await Play(world, Schedule(0, (), lasts=CALM_SECONDS)).run()
        for seed in seeds:
            try:
                report = await play_one(world, seed, calm.waits)
            except* httpx2.HTTPError:
                print(f"seed {seed}: the gateway does not answer its operator.\n{world.gateway.log_tail()}")
                raise
            for tenant, waits in report.waits.items():
                during[tenant] = during.get(tenant, Waits()) + waits
            if report.problems:
                failed.append(report)
        late = who_was_late(during, calm.waits, SPARE_IN_ALL)
        print("\n".join([table(calm.waits, during), *(f"  PROBLEM {one}" for one in late)]))
        if failed:
            print(f"\nthe gateway's last words:\n{world.gateway.log_tail()}")
    return failed, late


async def play_one(world: World, seed: int, calm: Mapping[str, Waits]) -> Report:
    """Where a tenant that no fault touched was late, the same faults are played once more: chance does not come twice
    at the same place, what keeps the gateway's loop does. In the figures of all schedules both count."""
    report = await Play(world, draw_schedule(seed, HOSTS)).run()
    if late := who_was_late(report.waits, calm):
        print("\n".join([str(report), *(f"  again, as {one}" for one in late)]), flush=True)
        first, report = report, await Play(world, draw_schedule(seed, HOSTS)).run()
        report.problems += first.problems + who_was_late(report.waits, calm)
        report.waits = {tenant: first.waits[tenant] + waits for tenant, waits in report.waits.items()}
    print(report, flush=True)
    return report


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
    failed, late = asyncio.run(play(seeds))
    print(f"\n{len(seeds)} schedules in {time.monotonic() - began:.0f} s, {len(failed)} with problems")
    for report in failed:
        print(f"  again: SEED={report.schedule.seed} make chaos")
    return 1 if failed or late else 0


if __name__ == "__main__":
    sys.exit(main())
