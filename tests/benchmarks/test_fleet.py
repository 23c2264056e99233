"""The fleet over HTTP: slices and scaling, text from block ids, how answers are read, the figures, and a small run."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import fleet as command
from benchmarks.engine.cost import StepCost
from benchmarks.engine.text import encode, render_chat
from benchmarks.fleet_parts.answers import Answer, AnswerReader
from benchmarks.fleet_parts.client import Client, Exchange, Order
from benchmarks.fleet_parts.figures import imbalance, summarize
from benchmarks.fleet_parts.plan import cut, due_times, engine_speed, orders
from benchmarks.fleet_parts.prompts import TEMPLATE_TOKENS, block_text, chat_body, prompt_text
from benchmarks.fleet_parts.report import Run, as_json, table
from benchmarks.fleet_parts.watch import Look, load_of
from benchmarks.overhead_parts.answers import http_chunk
from benchmarks.overhead_parts.processes import ROOT
from benchmarks.replay_parts.setup import Setup
from benchmarks.replay_parts.trace import TRACE_BLOCK, Row, make_jobs, own_rate, write_trace
from benchmarks.replay_parts.workloads import agents

# Text


@given(st.integers(0, 1 << 40))
def test_a_block_has_512_tokens_and_equal_ids_have_equal_text(block: int) -> None:
    assert len(encode(block_text(block))) == TRACE_BLOCK
    block_text.cache_clear()
    assert block_text(block) == block_text(block)
    assert block_text(block)[:40] != block_text(block + 1)[:40]


@given(st.integers(1, 3_000), st.lists(st.integers(0, 9), max_size=7))
def test_a_prompt_has_exactly_the_tokens_of_the_trace_as_the_engine_counts_them(tokens: int, blocks: list[int]) -> None:
    body = json.loads(chat_body(Row(0.0, tokens, 5, tuple(blocks)), 3))
    counted = len(encode(render_chat(body["messages"])))
    assert counted == max(tokens, TEMPLATE_TOKENS + 1)
    assert (body["max_tokens"], body["stream"]) == (5, True)


def test_prompts_share_text_as_far_as_they_share_ids_and_no_further() -> None:
    first = prompt_text(Row(0.0, 2_000, 1, (1, 2, 3, 4)), 1)
    second = prompt_text(Row(0.0, 2_000, 1, (1, 2, 5, 6)), 2)
    shared = len(block_text(1) + block_text(2))
    assert first[:shared] == second[:shared]
    assert first[shared : shared + 60] != second[shared : shared + 60]
    bare = [prompt_text(Row(0.0, 700, 1, ()), number) for number in (1, 2)]
    assert bare[0][:60] != bare[1][:60]


# The slice


def rows(count: int = 40) -> list[Row]:
    return [Row(10.0 + 2.0 * n, 3_000, 20, tuple(range(6 * n, 6 * n + 6))) for n in range(count)]


@given(st.floats(0.01, 100), st.floats(0.1, 50))
def test_arrivals_keep_their_proportions_and_come_at_the_rate_over_the_scale(rate: float, scale: float) -> None:
    jobs = make_jobs(rows(), 512)
    times = due_times(jobs, rate, scale)
    assert times[0] == 0
    assert times == sorted(times)
    assert (len(times) - 1) / times[-1] == pytest.approx(rate * scale)
    assert times[-1] * scale * rate == pytest.approx((jobs[-1].at - jobs[0].at) * own_rate(jobs))


def test_a_slice_is_what_comes_after_the_skipped_and_has_a_saturation_of_its_own() -> None:
    part = cut(rows(), 10, 20, Setup(endpoints=2))
    assert [row.at for row in part.rows] == [row.at for row in rows()[10:30]]
    assert part.saturation_rps == pytest.approx(2 / part.jobs[0].cold_seconds, rel=0.5)
    wanted = orders(part, 0.5, 4.0, [b"x"] * 20)
    assert wanted[-1].at == pytest.approx(19 / (0.5 * 4.0 * part.saturation_rps))
    assert [order.number for order in wanted] == list(range(20))


@pytest.mark.parametrize(("skip", "kv_tokens", "reason"), [(39, 409_600, "no two requests"), (0, 2_048, "3,020")])
def test_a_slice_that_cannot_be_replayed_is_refused(skip: int, kv_tokens: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        cut(rows(), skip, 10, Setup(kv_tokens=kv_tokens))


@given(st.floats(0.1, 50))
def test_an_engine_is_faster_by_the_scale_in_every_part_of_its_step(scale: float) -> None:
    shape = (2_000, 2_000 * 1_000.0, 30, 60_000)
    fast = StepCost.scaled(**engine_speed(scale))
    assert fast.seconds(*shape) * scale == pytest.approx(StepCost().seconds(*shape))


# Answers


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields, separators=(",", ":")).encode() + b"\n\n"


def piece(text: str) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}}])


USAGE = {"prompt_tokens": 90, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 64}}
EVENTS = [piece(""), piece(" one"), piece(" two"), event(choices=[], usage=USAGE), b"data: [DONE]\n\n"]
HEAD = (
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nX-Promptlane-Endpoint: e1\r\nx-promptlane-queue-ms: 250\r\n"
    b"x-promptlane-cached-tokens: 60\r\nx-promptlane-why: prompt-aware: first token in 40 ms, 60 of 90\r\n\r\n"
)


def framed(events: list[bytes]) -> bytes:
    return HEAD + b"".join(map(http_chunk, events)) + b"0\r\n\r\n"


@given(st.lists(st.integers(1, 1_500), max_size=9))
def test_an_answer_is_read_the_same_however_it_was_cut(cuts: list[int]) -> None:
    data = framed(EVENTS)
    edges = sorted({0, len(data), *(at for at in cuts if at < len(data))})
    reader = AnswerReader()
    done = [reader.feed(data[a:b], float(b)) for a, b in pairwise(edges)]
    assert done == [False] * (len(done) - 1) + [True]
    answer = reader.answer()
    text_seen = data.index(b'"content":" ') + len(b'"content":" ')
    assert answer.first_at == next(edge for edge in edges if edge >= text_seen)
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (90, 64, 3)
    assert (answer.endpoint, answer.queue_seconds) == ("e1", 0.25)
    assert (answer.foreseen_cached, answer.foreseen_ttft, answer.failed) == (60, 0.04, "")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (framed(EVENTS[:-1]), 200, r"does not end with \[DONE\]"),
        (framed([*EVENTS[:2], event(error={"message": "died"}), EVENTS[-1]]), 200, "error in the stream.*died"),
        (framed([EVENTS[0], *EVENTS[-2:]]), 200, "without text"),
        (framed([*EVENTS[:3], EVENTS[-1]]), 200, "without text or without usage"),
        (b"HTTP/1.1 429 Too Many\r\ncontent-length: 4\r\n\r\nbusy", 429, "status 429.*busy"),
    ],
)
def test_what_is_no_whole_answer_says_why(data: bytes, status: int, reason: str) -> None:
    reader = AnswerReader()
    assert reader.feed(data, 1.0)
    assert reader.answer().status == status
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(reader.answer().failed)


async def test_a_gateway_that_is_not_there_is_an_answer_that_failed() -> None:
    exchange = await Client([1], {}, 1.0).send(Order(0, 0.0, b"{}"))
    assert exchange.answer.failed.startswith("no connection")
    assert exchange.ttft is None


# Figures


def exchange(number: int, ttft: float, endpoint: str = "e0", prompt: int = 1_000, queued: float = 0.0) -> Exchange:
    at = float(number)
    answer = Answer(200, at + ttft, at + ttft + 2.0, prompt, 500, 11, endpoint, queued, 450, ttft / 2)
    return Exchange(number, at, at, answer)


def test_times_are_the_traces_seconds_and_refusals_and_errors_are_told_apart() -> None:
    done = [exchange(0, 0.5), exchange(1, 1.5, prompt=4_000)]
    bad = [Exchange(n, 0.0, 0.0, Answer(status, failed="no")) for n, status in enumerate((429, 503, 500, 0))]
    figures = summarize([*done, *bad], 3.0, 2)
    assert (figures.ttft_mean, figures.ttft_p99, figures.short_ttft_p99) == (3.0, 4.5, 1.5)
    assert figures.tpot_p99 == pytest.approx(0.6)
    assert (figures.answered, figures.rejected, figures.errors) == (2, 2, {"no": 2})
    assert figures.refusals == {"no": 2}
    assert (figures.cached_ratio, figures.foreseen, figures.ttft_seen) == (0.2, 0.9, 2.0)


def test_nothing_answered_is_a_line_of_zeros() -> None:
    figures = summarize([Exchange(0, 0.0, 0.0, Answer(0, failed="gone"))], 1.0, 2)
    assert (figures.ttft_mean, figures.ttft_p99, figures.foreseen, figures.imbalance) == (0.0, 0.0, None, 1.0)


def test_imbalance_is_one_when_all_are_alike_and_the_number_of_engines_when_one_has_all() -> None:
    alone = [exchange(n, 5.0) for n in range(6)]
    assert imbalance(alone, 4) == 4.0
    pairs = [Exchange(n, 0.0, n / 1e6, exchange(0, 9.0, f"e{n % 2}").answer) for n in range(200)]
    assert imbalance(pairs, 2) == pytest.approx(1.0, abs=0.02)


def test_who_waits_at_the_gateway_is_at_no_engine() -> None:
    waiting = [exchange(n, 50.0, queued=40.0) for n in range(6)]
    assert imbalance(waiting, 4) == 1.0


# The machine


def looks(busy: float, cores: int = 2) -> list[Look]:
    return [Look(float(n), busy * cores * n, 0.5 * n, 0.2 * n, 0.1 * n) for n in range(11)]


def test_a_machine_that_is_always_busy_and_a_late_client_are_called_cpu_bound() -> None:
    quiet = load_of(looks(0.5), [0.001] * 100, 2)
    assert quiet.excess() == []
    assert (quiet.gateway, quiet.engines, quiet.client) == pytest.approx((50.0, 20.0, 10.0))
    assert quiet.others == pytest.approx(20.0)
    reasons = load_of(looks(0.99), [0.3] * 100, 2).excess()
    assert [reason.split()[0] for reason in reasons] == ["all", "the"]
    assert "300 ms late" in reasons[1]


# The report


def line(profile: str, ttft: float) -> Run:
    figures = summarize([exchange(n, ttft) for n in range(4)], 1.0, 2)
    return Run(profile, 0.85, 0.25, figures, load_of(looks(0.5), [0.0], 2))


def test_the_table_has_ratios_to_round_robin_and_names_what_is_no_result() -> None:
    busy = Run("random", 0.85, 0.2, line("", 3.0).figures, load_of(looks(0.99), [0.0], 2), ("x ERROR y",))
    text = table([line("prompt-aware", 1.0), line("round-robin", 4.0), busy])
    first = {row.split()[0]: row.split() for row in reversed(text.splitlines()) if row}
    assert first["prompt-aware"][-3:] == ["0.25", "0.25", "0.25"]
    assert "CPU-BOUND: random at 0.85 X: all cores were busy in 100 % of the seconds, others took" in text
    assert "FAILED: random at 0.85 X: the gateway's log: x ERROR y" in text
    assert "-" in table([line("prompt-aware", 1.0)]).splitlines()[1].split()


def test_the_json_has_a_row_per_profile_and_load() -> None:
    written = json.loads(json.dumps(as_json({"trace": "t"}, [line("prompt-aware", 1.0)])))
    (row,) = written["results"]
    fields = "ttft_mean ttft_p50 ttft_p90 ttft_p99 short_ttft_p99 tpot_p99 hit_ratio imbalance rejected"
    assert set(fields.split()) <= set(row)
    assert (row["cpu_bound"], row["failures"], row["load"]) == ([], [], 0.85)


# The command


@pytest.mark.parametrize("wrong", ["--profiles nearest", "--requests 1", "--scale 0", "--load -1"])
def test_the_command_refuses_what_it_does_not_know(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.arguments(["--trace", "t", *wrong.split()])
    assert "argument" in capsys.readouterr().err


def test_a_file_that_is_no_trace_ends_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--trace", str(tmp_path / "none")]) == 1
    assert "FAILED" in capsys.readouterr().err


def test_a_small_run_over_http_compares_two_profiles(tmp_path: Path) -> None:
    trace, out = tmp_path / "agents.jsonl.gz", tmp_path / "out.json"
    write_trace(trace, [row for row in agents(Random(1), 200, 60_000) if row.prompt < 14_000][:20])
    wanted = "--requests 20 --endpoints 2 --kv-tokens 65536 --scale 30 --profiles prompt-aware,round-robin"
    argv = [sys.executable, "-m", "benchmarks.fleet", "--trace", str(trace), *wanted.split(), "--json", str(out)]
    done = subprocess.run(argv, cwd=ROOT, timeout=300, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads(out.read_text())
    assert [row["profile"] for row in written["results"]] == ["prompt-aware", "round-robin"]
    for row in written["results"]:
        assert (row["answered"], row["rejected"], row["errors"]) == (20, 0, {})
        assert 0 < row["hit_ratio"] <= written["ideal_hit_ratio"] + 0.01
        assert row["cached_ratio"] == pytest.approx(row["hit_ratio"], abs=1e-6)  # what engines count is what they say
        assert 0 < row["ttft_p50"] <= row["ttft_p99"]
