"""What is read of an engine's metrics page, in new and old names, and of pages that are not what they should be."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.wire.engine_metrics import EngineReading, read_engine_metrics

settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

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
    assert read_engine_metrics(PAGE) == EngineReading(3.0, 2.0, 0.25, 16000, False, 1.79532645e9)


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
def test_lines_in_any_order_and_amid_others_never_raise(page: list[str], end: str) -> None:
    read_engine_metrics(end.join(page))
