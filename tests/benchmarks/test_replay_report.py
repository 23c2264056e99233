"""The figures of a replay, the search for the goodput, the made workloads, and the command as a whole."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import replay as command
from benchmarks.replay_parts import runs, workloads
from benchmarks.replay_parts.report import table
from benchmarks.replay_parts.runs import HIGHEST, LOWEST, TOLERANCE, Result, percentile, saturation, search
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import Row, make_jobs, read_trace, write_trace


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
    assert runs.keeps_up("round-robin", setup, jobs, 0.9 * capacity)
    assert not runs.keeps_up("round-robin", setup, jobs, 2.0 * capacity)


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


def test_agents_share_tools_grow_and_keep_twice_the_cache_alive() -> None:
    rows = workloads.agents(Random(2), 1_500, 400_000)
    assert rows == workloads.agents(Random(2), 1_500, 400_000)
    assert rows == sorted(rows, key=lambda row: row.at)
    assert max(row.prompt for row in rows) <= workloads.LONGEST
    assert all(len(row.blocks) == -(-row.prompt // 512) for row in rows)
    assert workloads.ideal_hit_ratio(rows) > 0.8
    assert len({row.blocks[: workloads.TOOL_BLOCKS] for row in rows}) == workloads.TOOL_SETS


def test_the_hot_prefix_is_all_that_requests_share(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("t,in,out\n" + "".join(f"{n},700,5\n" for n in range(400)))
    rows = workloads.hot_prefix(Random(1), workloads.read_arrivals(tmp_path / "a.csv"))
    hot = [row for row in rows if row.blocks[:2] == (0, 1)]
    assert 150 < len(hot) < 250
    cold = [block for row in rows for block in row.blocks if block > 1]
    assert len(cold) == len(set(cold))


def test_the_command_writes_the_figures_that_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, out = tmp_path / "t.jsonl.gz", tmp_path / "out.json"
    write_trace(trace, workloads.agents(Random(1), 60, 200_000))
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


def test_the_command_refuses_what_it_does_not_know(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.jsonl"
    write_trace(trace, workloads.agents(Random(1), 10, 100_000))
    assert command.main(["--trace", str(trace), "--policies", "nearest"]) == 2
    assert command.main(["--trace", str(tmp_path / "none"), "--policies", "dynamo"]) == 2
    assert "unknown policy" in capsys.readouterr().err


def test_the_made_workloads_are_written_by_a_command_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "agents.jsonl.gz"
    options = f"agents --out {out} --requests 40 --endpoints 1"
    assert workloads.main(options.split()) == 0
    assert len(read_trace(out)) == 40
    first = out.read_bytes()
    assert workloads.main(options.split()) == 0
    assert out.read_bytes() == first
    assert "40 requests" in capsys.readouterr().out
