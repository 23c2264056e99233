"""Several replicas beside one: the replays on a virtual clock, the tables, and a small run of everything."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from benchmarks import replicas as command
from benchmarks.fleet_parts.client import Exchange
from benchmarks.fleet_parts.plan import Slice
from benchmarks.overhead_parts.processes import ROOT
from benchmarks.replay_parts import runs
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Job, Row, make_jobs, write_trace
from benchmarks.replay_parts.workloads import agents
from benchmarks.replicas_parts.processes import in_time
from benchmarks.replicas_parts.replays import Sharing, play, replay
from benchmarks.replicas_parts.report import Line, replays_json, replays_table, rounds_table, verdict
from benchmarks.replicas_parts.rounds import Cost
from tests.benchmarks.test_fleet import exchange

SETUP = Setup(endpoints=2, kv_tokens=65_536)
ROWS = [row for row in agents(Random(1), 400, 60_000) if row.prompt < 14_000][:60]


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    return make_jobs(ROWS, 512)


def test_one_replica_on_an_event_loop_does_what_the_replay_without_one_does(jobs: list[Job]) -> None:
    rate = 0.8 * runs.saturation(SETUP, jobs)
    alone, plain = replay(Sharing(1), SETUP, jobs, rate, 0.8), runs.replay("prompt-aware", SETUP, jobs, rate, 0.8)
    assert alone.ttft_mean == pytest.approx(plain.ttft_mean, rel=0.15)  # what it sends waits for the step under way
    assert alone.hit_ratio == pytest.approx(plain.hit_ratio, rel=0.05)


@pytest.mark.parametrize("sharing", [Sharing(3, 0.001), Sharing(3, 0.5, late=True)], ids=str)
def test_every_request_is_answered_once_and_the_same_in_every_run(jobs: list[Job], sharing: Sharing) -> None:
    log = play(sharing, SETUP, jobs, 5.0)
    assert None not in (*log.first, *log.finished)
    assert log.rejected == 0
    assert play(sharing, SETUP, jobs, 5.0).finished == log.finished


def test_a_ticket_takes_its_time(jobs: list[Job]) -> None:
    """At a rate at which nobody meets anybody it is all that differs, for those that other replicas receive."""
    near, far = (play(Sharing(2, seconds), SETUP, jobs, 0.01) for seconds in (0.001, 0.101))
    later = [round(b - a, 6) for a, b in zip(near.first, far.first, strict=True) if a is not None and b is not None]
    assert set(later) == {0.0, 0.1}


def test_an_answer_is_in_time_within_two_seconds_and_its_own_cold_prefill() -> None:
    rows = [Row(0.0, 15_000, 5, ()), Row(1.0, 15_000, 5, ())]
    part = Slice(rows, make_jobs(rows, 512), 1.0)
    patience = 2.0 + part.jobs[0].cold_seconds
    one: list[Exchange] = [exchange(0, patience / 2 - 0.01), exchange(1, patience / 2 + 0.01)]
    assert in_time(one, part, 2.0) == 1


def test_the_tables_judge_by_one_replica_and_not_who_shares_late(jobs: list[Job]) -> None:
    result = replay(Sharing(1), SETUP, jobs, 2.0, 0.85)
    ways = [(Sharing(1), 0.8), (Sharing(2, 0.001), 0.77), (Sharing(4, 0.001), 0.7), (Sharing(4, 0.1, late=True), 0.0)]
    lines = [Line(sharing, goodput, (result,)) for sharing, goodput in ways]
    rows = replays_table("t", lines).splitlines()[1:]
    assert [[word for word in row.split() if word in ("met", "MISSED")] for row in rows] == [
        [],
        ["met"],
        ["MISSED"],
        [],
    ]
    assert "<0.08" in rows[3]
    ratios = [line["goodput_ratio"] for line in replays_json("t", 1.0, lines)["lines"]]
    assert ratios == pytest.approx([1.0, 0.9625, 0.875, 0.0])
    assert (verdict(60.0, most=60.0), verdict(60.1, most=60.0)) == ("met", "MISSED")
    costs = rounds_table([Cost(1, 70.0, 20.0), Cost(1, 90.0, 20.0, floored=True)]).splitlines()
    assert (costs[1].split()[-1], costs[2].split()[-1]) == ("MISSED", "20.0")


def test_a_file_that_is_no_trace_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--trace", str(tmp_path / "none")]) == 1
    assert "FAILED" in capsys.readouterr().err


def test_a_small_run_measures_replays_processes_and_tickets(tmp_path: Path) -> None:
    trace, out = tmp_path / "agents.jsonl.gz", tmp_path / "out.json"
    write_trace(trace, ROWS)
    argv = [sys.executable, "-m", "benchmarks.replicas", "--quick", "--trace", str(trace), "--json", str(out)]
    done = subprocess.run(argv, cwd=ROOT, timeout=300, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    (replays,) = written["replays"]
    lines = replays["lines"]
    assert [(line["replicas"], line["late"]) for line in lines] == [(1, False), (2, False), (2, True)]
    for line in lines:
        assert line["goodput_ratio"] == line["goodput_x"] / lines[0]["goodput_x"]
        assert line["results"][0]["ttft_mean"] > 0
    one, two = written["processes"]
    assert (one["replicas"], one["tickets"], two["replicas"]) == (1, 0, 2)
    assert two["tickets"] > 0  # some came to the one that follows
    for run in (one, two):
        figures = run["figures"]
        assert (figures["refusals"], figures["errors"], run["failures"]) == ({}, {}, [])
        assert figures["answered"] == 20
    assert two["goodput_ratio"] == two["goodput"] / one["goodput"]
    assert [(cost["concurrent"], cost["floored"]) for cost in written["rounds"]] == [(32, False), (1, False), (1, True)]
    assert all(min(cost["follower"], cost["owner"]) > 0 for cost in written["rounds"])
