"""What is read of an engine's metrics page, in new and old names, and of pages that are not what they should be."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.wire.engine_metrics import EngineReading, EngineRun, read_engine_metrics

CAPTURED = (Path(__file__).resolve().parent / "samples" / "metrics.txt").read_text()
PAGE = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 3.0
vllm:num_requests_waiting{engine="0",model_name="tiny"} 2.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 99.0
vllm:kv_cache_usage_perc{engine="0",model_name="tiny"} 0.25
vllm:cache_config_info{block_size="32",cache_dtype="auto",engine="0",num_gpu_blocks="500"} 1.0
vllm:engine_sleep_state{engine="0",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",sleep_state="weights_offloaded"} 0.0
process_start_time_seconds 1.79532645e+09
"""


def test_a_page_of_a_current_engine_is_read() -> None:
    assert read_engine_metrics(PAGE) == EngineReading(3.0, 2.0, 0.25, 16000, False, 1.79532645e9, 32, 500)


def test_the_counters_and_the_cache_of_a_real_engine_are_read() -> None:
    """A page of vLLM 0.32, without its histograms' buckets."""
    reading = read_engine_metrics(CAPTURED)
    assert (reading.block_size, reading.kv_blocks, reading.kv_capacity_tokens) == (32, 1024, 32768)
    assert (reading.prefix_queries, reading.prefix_hits) == (1524.0, 672.0)
    assert (reading.prompt_tokens, reading.generation_tokens, reading.preemptions) == (1524.0, 130.0, 0.0)
    assert reading.started_at == 1.79534411139e9


@pytest.mark.parametrize("end", ["_total", ""])
@pytest.mark.parametrize("old", ["gpu_", ""])
def test_the_prefix_counters_are_read_in_every_spelling_and_summed_over_ranks(old: str, end: str) -> None:
    page = "".join(
        f'vllm:{old}prefix_cache_queries{end}{{engine="{rank}"}} 10{rank}.0\n'
        f'vllm:{old}prefix_cache_hits{end}{{engine="{rank}"}} 4{rank}.0\n'
        for rank in range(2)
    )
    reading = read_engine_metrics(page)
    assert (reading.prefix_queries, reading.prefix_hits) == (201.0, 81.0)


def test_an_old_name_beside_the_new_one_is_not_counted_twice() -> None:
    names = ("gpu_prefix_cache_queries", "prefix_cache_queries_total", "gpu_prefix_cache_queries_total")
    page = "".join(f"vllm:{name} {count}\n" for count, name in enumerate(names, 1))
    assert read_engine_metrics(page).prefix_queries == 2.0
    assert read_engine_metrics("vllm:external_prefix_cache_queries_total 5\n").prefix_queries is None


RUNNING = EngineReading(started_at=5.0, prefix_queries=100.0, prompt_tokens=200.0)


@pytest.mark.parametrize(
    ("later", "restarted"),
    [
        (RUNNING, False),
        (EngineReading(started_at=5.0, prefix_queries=101.0, prompt_tokens=300.0), False),
        (EngineReading(), False),
        (EngineReading(started_at=6.0, prefix_queries=101.0, prompt_tokens=300.0), True),
        (EngineReading(started_at=4.0), True),
        (EngineReading(prefix_queries=99.0), True),
        (EngineReading(started_at=5.0, prompt_tokens=0.0), True),
    ],
)
def test_an_engine_has_restarted_when_its_start_changes_or_a_counter_falls(
    later: EngineReading, restarted: bool
) -> None:
    run, first = EngineRun().followed_by(RUNNING)
    assert not first, "the first reading is the beginning of what is known"
    assert run.followed_by(later)[1] is restarted


def test_a_page_that_says_nothing_in_between_hides_no_restart() -> None:
    run, _ = EngineRun().followed_by(RUNNING)
    run, restarted = run.followed_by(EngineReading())
    assert not restarted
    run, restarted = run.followed_by(EngineReading(prompt_tokens=1.0))
    assert restarted
    assert run == EngineRun(prompt_tokens=1.0), "of the run before nothing is compared any more"


def test_the_old_name_of_the_cache_usage_is_read() -> None:
    assert read_engine_metrics('vllm:gpu_cache_usage_perc{model_name="tiny"} 0.5\n').kv_usage == 0.5


def test_ranks_of_one_engine_add_up_and_their_usage_is_averaged() -> None:
    page = "".join(
        f'vllm:num_requests_running{{engine="{rank}"}} {rank + 1}\n'
        f'vllm:kv_cache_usage_perc{{engine="{rank}"}} 0.{rank}\n'
        f'vllm:cache_config_info{{block_size="16",engine="{rank}",num_gpu_blocks="10"}} 1.0\n'
        for rank in range(3)
    )
    reading = read_engine_metrics(page)
    assert (reading.running, reading.kv_capacity_tokens) == (6.0, 480)
    assert reading.kv_usage == pytest.approx(0.1)


@pytest.mark.parametrize(("awake", "asleep"), [(["1.0"], False), (["0.0"], True), (["1.0", "0.0"], True)])
def test_an_engine_is_asleep_when_a_rank_is_not_awake(awake: list[str], asleep: bool) -> None:
    page = "".join(f'vllm:engine_sleep_state{{sleep_state="awake"}} {value}\n' for value in awake)
    assert read_engine_metrics(page).asleep is asleep


@pytest.mark.parametrize("page", ["", "<html>not found</html>", "other:num_requests_running 1\n", '{"detail":"x"}'])
def test_a_page_of_something_else_says_nothing(page: str) -> None:
    assert read_engine_metrics(page) == EngineReading()


@pytest.mark.parametrize("blocks", ["None", "", "0", "-1", "1.5"])
def test_a_cache_of_unknown_size_is_unknown(blocks: str) -> None:
    page = f'vllm:cache_config_info{{block_size="16",num_gpu_blocks="{blocks}"}} 1.0\n'
    assert read_engine_metrics(page).kv_capacity_tokens is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "1.2.3", "1e999"])
def test_a_value_that_is_no_finite_number_is_no_reading(value: str) -> None:
    names = ("vllm:num_requests_running", "vllm:kv_cache_usage_perc", "process_start_time_seconds")
    reading = read_engine_metrics("".join(f"{name} {value}\n" for name in names))
    assert all(one is None or math.isfinite(one) for one in (reading.running, reading.kv_usage, reading.started_at))


def test_digits_of_other_scripts_are_no_block_count() -> None:
    page = 'vllm:cache_config_info{block_size="16",num_gpu_blocks="\u00b2"} 1.0\n'
    assert read_engine_metrics(page).kv_capacity_tokens is None


lines = st.lists(st.sampled_from(PAGE.splitlines()) | st.text(max_size=20), max_size=12)


@given(lines, st.sampled_from(["\n", "\r\n", "", " "]))
def test_lines_in_any_order_and_amid_others_never_raise_nor_make_figures_that_cannot_be(
    page: list[str], end: str
) -> None:
    reading = read_engine_metrics(end.join(page))
    figures = [one for one in astuple(reading) if one is not None]
    assert all(math.isfinite(one) and one >= 0 for one in figures)
    assert reading.kv_usage is None or reading.kv_usage <= 1.0
