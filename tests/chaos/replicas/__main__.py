"""`python -m tests.chaos.replicas`: seeded schedules of faults on replicas and their Redis, on one installation.

Floor: arguments and the exit status. 0: every promise was kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time

from tests.chaos.replicas.evidence import Evidence
from tests.chaos.replicas.faults import Schedule, draw_schedule
from tests.chaos.replicas.installation import Installation, installed
from tests.chaos.replicas.network import Loopback, Net, Network, enter
from tests.chaos.replicas.play import Play, Report

DESCRIPTION = """\
Real processes: three gateways, one Redis, four simulated engines, clients behind a balancer. Each seed is a schedule of
faults: a replica (the owner of a pool, or a follower) is killed, stopped or told to end; Redis is killed, stopped,
started anew with its memory or without; replicas are cut off from Redis, from each other, from everybody. What must
hold is in tests/chaos/replicas/judge.py. One seed alone: SEED=7 make chaos-replicas
"""
CALM_SECONDS = 8.0
"""Without a fault, before the first: what the hit ratio is compared with."""
WARM_SECONDS = 8.0
MODULE = "tests.chaos.replicas"


async def play(seeds: list[int], net: Net) -> list[Report]:
    """The schedules with problems."""
    reports = []
    async with installed(net) as world:
        evidence = Evidence(world)
        await Play(world, evidence, Schedule(0, ()), None, WARM_SECONDS).run()  # caches are filled, rates are learned
        calm = Play(world, evidence, Schedule(-1, ()), None, CALM_SECONDS)
        reports.append(await calm.run())
        before = calm.hit_ratio(0.0)
        assert before is not None
        print(f"calm: {reports[0]}\n  hit ratio {before:.3f}", flush=True)
        for seed in seeds:
            reports.append(await _one(world, evidence, seed, before))
            print(reports[-1], flush=True)
    print("\n".join(_figures(reports)))
    return reports


async def _one(world: Installation, evidence: Evidence, seed: int, before: float) -> Report:
    schedule = draw_schedule(seed)
    if world.net.impossible:
        schedule = schedule.without_cuts()
    try:
        return await Play(world, evidence, schedule, before).run()
    except BaseException:
        tails = [f"{life.name}:\n{life.server.log_tail()}" for life in world.lives.values()]
        print(f"seed {seed}: {schedule}\nthe replicas' last words:\n" + "\n".join(tails))
        raise


def _figures(reports: list[Report]) -> list[str]:
    """Everything that was measured, seconds but for shares."""
    measured: dict[str, list[float]] = {}
    for report in reports:
        for what, value in report.figures:
            measured.setdefault(what, []).append(value)
    lines = [
        f"  {what:<44}{len(values):>4} times: median {sorted(values)[len(values) // 2]:.2f}, "
        f"least {min(values):.2f}, most {max(values):.2f}"
        for what, values in sorted(measured.items())
    ]
    counts = sum((report.counts for report in reports), reports[0].counts.copy() - reports[0].counts)
    return ["measured:", *lines, "  " + ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog=f"python -m {MODULE}", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--schedules", type=int, default=14, metavar="N", help="seeds 1 to N (default: 14)")
    parser.add_argument("--from", type=int, default=1, metavar="S", dest="first", help="the first of them (default: 1)")
    seed = os.environ.get("SEED")
    parser.add_argument("--seed", type=int, default=seed, metavar="S", help="this seed alone (default: $SEED)")
    options = parser.parse_args()
    first, many = (options.seed, 1) if options.seed is not None else (options.first, options.schedules)
    refused = enter(MODULE, sys.argv[1:])
    began = time.monotonic()
    reports = asyncio.run(play(list(range(first, first + many)), Loopback(refused) if refused else Network()))
    failed = [report for report in reports if report.problems]
    print(f"\n{many} schedules in {time.monotonic() - began:.0f} s, {len(failed)} with problems")
    left_out = sum(len(report.schedule.left_out) for report in reports)
    if refused:
        print(f"NO PARTITIONS: a network of its own is not possible here ({refused}); {left_out} faults were left out")
    for report in failed:
        print(f"  again: SEED={report.schedule.seed} make chaos-replicas")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
