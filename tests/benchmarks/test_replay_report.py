"""The figures of a replay, the search for the goodput, and the command as a whole."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import replay as command
from benchmarks.replay_parts.goodput import GRACE_SECONDS, HIGHEST, LOWEST, TOLERANCE, Lateness, keeps_up, search
from benchmarks.replay_parts.report import as_json, table
from benchmarks.replay_parts.runs import QUANTILES, Result, build, percentile, replay, saturation
from benchmarks.replay_parts.sessions import agents
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Row, arrivals, make_jobs, write_trace


@given(st.lists(st.floats(0, 1e6), min_size=1), st.sampled_from([50, 90, 99, 100]))
def test_a_percentile_is_the_least_value_that_so_many_do_not_exceed(values: list[float], percent: float) -> None:
    found = percentile(values, percent)
    assert sum(value <= found for value in values) * 100 >= percent * len(values)
    assert sum(value < found for value in values) * 100 < percent * len(values)


@given(st.floats(0.0, HIGHEST))
def test_the_search_finds_where_good_ends(bound: float) -> None:
    found = search(lambda load: load <= bound)
    assert found == 0.0 if bound < LOWEST else bound - TOLERANCE <= found <= bound


def test_saturation_is_what_engines_do_that_always_have_work() -> None:
    jobs = make_jobs([Row(0.1 * n, 8_000, 1, (n,) * 16) for n in range(400)], 512)
    measured = saturation(Setup(endpoints=4), make_jobs([Row(j.at, 8_000, 1, ()) for j in jobs], 512))
    assert measured == pytest.approx(4 / jobs[0].cold_seconds, rel=0.05)


def test_a_rate_is_too_high_when_more_than_one_percent_come_late() -> None:
    jobs = make_jobs([Row(float(n), 4_000, 1, ()) for n in range(300)], 512)
    setup = Setup(endpoints=1)
    capacity = 1 / jobs[0].cold_seconds
    assert keeps_up("round-robin", setup, jobs, 0.9 * capacity)
    assert not keeps_up("round-robin", setup, jobs, 2.0 * capacity)


@given(st.integers(0, 2**32), st.floats(0.2, 3.0), st.sampled_from(["round-robin", "least-tokens", "prompt-aware"]))
@settings(max_examples=12, deadline=None)
def test_giving_a_replay_up_early_changes_no_verdict(seed: int, load: float, policy: str) -> None:
    jobs = make_jobs(agents(Random(seed), 150, 100_000), 512)
    setup = Setup(endpoints=2, kv_tokens=102_400)
    rate = load * 2 / (sum(job.cold_seconds for job in jobs) / len(jobs))
    fleet, router = build(policy, setup)
    log = fleet.run(router, jobs, arrivals(jobs, rate))
    waits = [None if at is None else at - log.arrived[number] for number, at in enumerate(log.first)]
    late = sum(w is None or w > GRACE_SECONDS + job.cold_seconds for w, job in zip(waits, jobs, strict=True))
    assert keeps_up(policy, setup, jobs, rate) == (late <= len(jobs) // 100)
    assert Lateness(jobs, log.arrived).judge(log, float("inf")) == late


def test_who_is_overdue_counts_before_the_first_token_comes() -> None:
    jobs = make_jobs([Row(float(n), 4_000, 1, ()) for n in range(3)], 512)
    fleet, _ = build("round-robin", Setup(endpoints=1))
    log = fleet.log
    log.first.extend([1.0, None, 99.0])
    lateness = Lateness(jobs, [0.0, 1.0, 2.0])
    patience = GRACE_SECONDS + jobs[0].cold_seconds
    assert [lateness.judge(log, at) for at in (patience, patience + 1.5, patience + 2.5)] == [0, 1, 2]


def test_a_result_keeps_the_distribution_for_plots_and_out_of_the_json() -> None:
    jobs = make_jobs([Row(0.1 * n, 2_000, 3, (n,)) for n in range(60)], 512)
    result = replay("round-robin", Setup(endpoints=2), jobs, 5.0, 1.0)
    assert len(result.ttft) == len(QUANTILES)
    assert list(result.ttft) == sorted(result.ttft)
    assert result.ttft[QUANTILES.index(50.0)] == result.ttft_p50
    assert result.ttft[QUANTILES.index(99.0)] == result.ttft_p99
    (row,) = as_json("t", 2, 5.0, [result], None)["results"]  # type: ignore[misc]
    assert "ttft" not in row
    assert "goodput_x" not in row


def line(policy: str, mean: float) -> Result:
    return Result(policy, 0.85, mean, 1.0, 2.0, 3.0, 4.0, 0.5, 0.25, 1.5, 7)


def test_the_table_has_ratios_to_round_robin_and_to_the_best_peer() -> None:
    text = table([line("prompt-aware", 1.0), line("round-robin", 8.0), line("dynamo", 2.0)], None)
    rows = {row.split()[0]: row.split() for row in text.splitlines()}
    assert rows["prompt-aware"][-2:] == ["0.12", "0.50"]
    assert rows["round-robin"][-2:] == ["1.00", "4.00"]


def test_the_goodput_has_ratios_too_and_says_when_it_is_below_the_search() -> None:
    text = table([line("dynamo", 2.0)], {"prompt-aware": 0.9, "dynamo": 0.6, "round-robin": 0.0})
    rows = {row.split()[0]: row.split() for row in text.split("\n\n")[1].splitlines()}
    assert rows["prompt-aware"][1:] == ["0.90", "-", "1.50"]
    assert rows["round-robin"][1] == "<0.08"


def test_the_command_writes_the_figures_that_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = tmp_path / "t.jsonl.gz", tmp_path / "out.json"
    write_trace(trace, agents(Random(1), 60, 200_000))
    wanted = f"--trace {trace} --endpoints 2 --load 0.5 0.9 --policies prompt-aware,round-robin --goodput"
    assert command.main([*wanted.split(), "--kv-tokens", "102400", "--processes", "1", "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert set(written) == {"trace", "endpoints", "saturation_rps", "results"}
    assert [(row["policy"], row["load"]) for row in written["results"]] == [
        (name, load) for load in (0.5, 0.9) for name in ("prompt-aware", "round-robin")
    ]
    fields = "policy load goodput_x ttft_mean ttft_p50 ttft_p90 ttft_p99 short_ttft_p99 tpot_p99 hit_ratio imbalance"
    assert set(written["results"][0]) == {*fields.split(), "rejected"}
    assert f"{written['results'][0]['ttft_mean']:.2f}" in capsys.readouterr().out


def test_without_matplotlib_the_command_says_how_to_get_the_plots_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    trace, out = tmp_path / "t.jsonl", tmp_path / "new" / "out.json"
    write_trace(trace, agents(Random(1), 30, 100_000))
    wanted = f"--trace {trace} --endpoints 1 --load 0.5 --policies round-robin --processes 1 --json {out}"
    assert command.main([*wanted.split(), "--plots", str(tmp_path / "plots")]) == 0
    assert "requirements-plots.txt" in capsys.readouterr().out
    assert json.loads(out.read_text())["results"]


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    write_trace(trace, agents(Random(1), 10, 100_000))
    assert command.main(["--trace", str(trace), "--policies", "nearest"]) == 2
    assert command.main(["--trace", str(tmp_path / "none"), "--policies", "dynamo"]) == 2
    assert "unknown policy" in capsys.readouterr().err
