"""Traces and the fleet on its virtual clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import (
    Job,
    Row,
    arrivals,
    engine_blocks,
    make_jobs,
    own_rate,
    read_trace,
    write_trace,
)

ROWS = [Row(0.0, 1_000, 5, (0, 1)), Row(1.5, 20_000, 3, tuple(range(40))), Row(3.0, 100, 1, (77,))]


class To:
    """A router that sends every job to one engine, and writes down what it is told."""

    def __init__(self, fleet: Fleet, engine: int = 0) -> None:
        self._fleet = fleet
        self._engine = engine
        self.told: list[tuple[str, int, float]] = []

    def arrive(self, job: Job, now: float) -> None:
        self._fleet.send(self._engine, job)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        self.told.append(("first", job.number, now))

    def finish(self, job: Job, engine: int, now: float) -> None:
        self.told.append(("finish", job.number, now))


def alone(row: Row) -> list[Job]:
    return make_jobs([row], 512)


def test_a_trace_reads_as_it_was_written_and_only_as_far_as_asked(tmp_path: Path) -> None:
    for name in ("trace.jsonl", "trace.jsonl.gz"):
        write_trace(tmp_path / name, ROWS)
        assert read_trace(tmp_path / name) == ROWS
        assert read_trace(tmp_path / name, 2) == ROWS[:2]


@pytest.mark.parametrize(
    "text", ["not json\n", '{"t": 0, "in": 5, "out": 1}\n', '{"t": 0, "in": 5, "out": 1, "b": []}\n']
)
def test_what_is_no_trace_is_refused_with_the_reason(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"x\.jsonl"):
        read_trace(tmp_path / "x.jsonl")


def test_smaller_engine_blocks_split_the_ids_of_the_trace_and_leave_out_what_is_not_full() -> None:
    assert engine_blocks(Row(0.0, 1_000, 1, (4, 9)), 512) == [4]
    assert engine_blocks(Row(0.0, 1_000, 1, (4, 9)), 256) == [8, 9, 18]
    with pytest.raises(ValueError, match="divide"):
        make_jobs(ROWS, 500)


def test_arrivals_keep_their_proportions_at_any_rate() -> None:
    jobs = make_jobs(ROWS, 512)
    assert own_rate(jobs) == pytest.approx(2 / 3)
    assert arrivals(jobs, 2.0) == pytest.approx([0.0, 0.5, 1.0])


@pytest.mark.parametrize("row", ROWS)
def test_alone_on_an_idle_engine_a_request_takes_its_cold_prefill(row: Row) -> None:
    fleet = Fleet(Setup().engine(), 1)
    log = fleet.run(To(fleet), alone(row), [7.0])
    assert log.first[0] == pytest.approx(7.0 + alone(row)[0].cold_seconds)


def test_the_second_of_two_equal_prompts_hits_the_whole_blocks_of_the_first() -> None:
    fleet = Fleet(Setup().engine(), 2)
    jobs = make_jobs([Row(0.0, 1_300, 2, (1, 2, 3)), Row(1.0, 1_300, 2, (1, 2, 3))], 512)
    log = fleet.run(To(fleet), jobs, [0.0, 9.0])
    assert log.cached == [0, 1_024]


def test_a_job_that_comes_during_foreseen_decodes_joins_when_the_step_under_way_ends() -> None:
    fleet = Fleet(Setup().engine(), 1)
    router = To(fleet)
    jobs = make_jobs([Row(0.0, 100, 400, (1,)), Row(1.0, 200, 1, (2,))], 512)
    log = fleet.run(router, jobs, [0.0, 1.0])
    first = log.first[1]
    assert first is not None
    step = 0.013
    assert 1.0 + jobs[1].cold_seconds <= first <= 1.0 + jobs[1].cold_seconds + 2 * step
    assert [what for what, number, _ in router.told if number == 1] == ["first", "finish"]
    assert [number for what, number, _ in router.told if what == "finish"] == [1, 0]


def test_a_prompt_larger_than_the_cache_is_rejected_as_an_engine_would() -> None:
    fleet = Fleet(replace(Setup(), kv_tokens=1_024).engine(), 1)
    log = fleet.run(To(fleet), alone(ROWS[1]), [0.0])
    assert (log.rejected, log.first, log.finished) == (1, [None], [None])


def test_engines_with_one_cache_hit_what_another_has_computed() -> None:
    jobs = make_jobs([Row(0.0, 1_300, 2, (1, 2, 3)), Row(1.0, 1_300, 2, (1, 2, 3))], 512)
    for shared, cached in ((False, 0), (True, 1_024)):
        fleet = Fleet(Setup().engine(), 2, shared=shared)
        routers = [To(fleet, 0), To(fleet, 1)]
        routers[0].arrive = lambda job, now, fleet=fleet: fleet.send(job.number, job)  # type: ignore[method-assign, misc]
        assert fleet.run(routers[0], jobs, [0.0, 9.0]).cached[1] == cached


def test_a_replay_stops_when_it_is_told_that_the_rest_does_not_matter() -> None:
    fleet = Fleet(Setup().engine(), 1)
    log = fleet.run(To(fleet), make_jobs(ROWS, 512), [0.0, 100.0, 200.0], lambda log, job: job.number == 1)
    assert log.first[1] is not None
    assert log.first[2] is None
