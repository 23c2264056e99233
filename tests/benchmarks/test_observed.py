"""What `make bench-observed` and `bench-features` make of what they saw; what they run is measured by nobody here."""

from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import features
from benchmarks.observed import ALL, CONTROL, GOAL, NONE, Watched
from benchmarks.overhead_parts.bursts import BURST, Process, Spent, table
from router.config import loads


def process(watched: Watched, *us: float, side: float = 0.0, idle: float = 0.0) -> Process:
    """One whose bursts took so much of a request. `idle`: microseconds a second without requests."""
    bursts = [Spent(one * BURST + idle * 8.0, side * BURST, 8.0) for one in us]
    return Process(watched.name, cast("Any", None), bursts, Spent(idle * 10.0, 0.0, 10.0))


def row(processes: list[Process], watched: Watched) -> list[str]:
    told = table(processes, (NONE.name, CONTROL.name), 0.0, {ALL.name: GOAL}).splitlines()
    line = next(line for line in told if line.startswith(f"{watched.name}  "))
    return line.removeprefix(watched.name).split()


def test_what_a_process_takes_without_requests_is_no_part_of_a_burst() -> None:
    assert process(NONE, 50.0, 60.0, idle=900.0).us() == pytest.approx([50.0, 60.0])


def test_a_line_is_the_mean_of_its_processes_quartiles_beside_both_without_anything() -> None:
    usual = [40.0, 50.0, 60.0, 400.0]  # the first quartile is 42.5, whatever disturbed the last
    processes = [process(NONE, *usual), process(CONTROL, *usual)]
    processes += [process(ALL, *(one + more for one in usual), side=7.0) for more in (10.0, 20.0)]
    assert row(processes, NONE) == ["42.5", "0.0", "0.0", "0.0"]
    assert row(processes, ALL) == ["57.5", "15.0", "7.0", "10.0", "20.0", "goal", "25"]


@pytest.mark.parametrize(("more", "said"), [(25.0, False), (26.0, True)])
def test_the_goal_is_missed_by_more_than_it_and_only_then(more: float, said: bool) -> None:
    processes = [process(NONE, 100.0), process(CONTROL, 100.0), process(ALL, 100.0 + more)]
    assert (row(processes, ALL)[-1] == "MISSED") is said


def test_every_feature_is_left_out_of_a_configuration_that_is_one(tmp_path: Path) -> None:
    lines = dict(features.gateways())
    changed = [one for one in lines.values() if isinstance(one, features.ChangedGateway)]
    assert len(changed) == len(features.ALL) + len(features.WITHOUT) + 1
    configs = []
    for number, gateway in enumerate(changed):
        gateway.port = 1000
        folder = tmp_path / str(number)
        folder.mkdir()
        text = Path(gateway.command(["http://127.0.0.1:1", "http://127.0.0.1:2"], folder)[-1]).read_bytes()
        configs.append(loads(text, {"PROMPTLANE_SECRET": "s" * 32}))
    everything, _, no_records, no_limits, no_headers, round_robin, nothing = configs
    assert [one.ledger.enabled is False for one in (everything, no_records, nothing)] == [False, True, True]
    assert [one.server.routing_headers for one in (everything, no_headers, nothing)] == [True, False, False]
    limited = [one.tenants["bench"].limits.concurrency is not None for one in (everything, no_limits, nothing)]
    assert limited == [True, False, False]
    assert [one.routing.profile for one in (everything, round_robin, nothing)] == ["prompt-aware", *["round-robin"] * 2]
