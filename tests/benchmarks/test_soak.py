"""The soak: wrong streams are found, what is left behind is named, and a whole small run ends with nothing alive."""

import asyncio
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import soak
from benchmarks.engine.config import EngineConfig
from benchmarks.engine.launch import serve_in_process
from benchmarks.overhead_parts.answers import LAST_CHUNK, MODEL, BadAnswer, http_chunk
from benchmarks.overhead_parts.load import Target
from benchmarks.overhead_parts.measure import tree
from benchmarks.overhead_parts.processes import ROOT, Child, Failed, cores
from benchmarks.overhead_parts.traffic import Scenario
from benchmarks.soak_parts import leaks
from benchmarks.soak_parts.answer import ChatStream, check
from benchmarks.soak_parts.kills import FIN, GIVE_UP_SECONDS, RST, Kill, Victim, kill_all, seconds_until
from benchmarks.soak_parts.load import MOST_ERRORS, Load
from benchmarks.soak_parts.report import FLAT_MB_PER_MINUTE, Result, as_json, table
from benchmarks.soak_parts.stack import LONGEST_REPLY, Stack, metric_sum, running
from benchmarks.soak_parts.watch import Sample, cpu_percent, slope_per_minute
from tests.benchmarks.test_overhead_processes import BOUND_SECONDS, alive, becomes

STEP_SECONDS = 0.005
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"


# One answer


def events(tokens: int, model: str = MODEL, completion: int | None = None) -> list[bytes]:
    head = {"id": "chatcmpl-1", "model": model}
    pieces: list[dict[str, object]] = [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    pieces += [{"delta": {"content": " word"}, "finish_reason": None} for _ in range(tokens - 1)]
    pieces.append({"delta": {"content": " end"}, "finish_reason": "length"})
    usage = {"prompt_tokens": 9, "completion_tokens": completion or tokens, "total_tokens": 9 + tokens}
    values = [*({**head, "choices": [piece]} for piece in pieces), {**head, "choices": [], "usage": usage}]
    return [*(b"data: %b\n\n" % json.dumps(value).encode() for value in values), b"data: [DONE]\n\n"]


def framed(parts: list[bytes]) -> bytes:
    return HEAD + b"".join(map(http_chunk, parts)) + LAST_CHUNK


@given(st.integers(1, 6), st.lists(st.integers(1, 2000), max_size=8))
def test_a_right_stream_is_complete_at_its_last_byte_however_it_was_cut(tokens: int, cuts: list[int]) -> None:
    data = framed(events(tokens))
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    reader = ChatStream(tokens)
    results = [reader.feed(data[start:end]) for start, end in pairwise(edges)]
    assert results == [False] * (len(results) - 1) + [True]


@given(st.data())
def test_a_lost_a_repeated_and_a_misplaced_event_are_found(data: st.DataObject) -> None:
    right = events(5)
    at = data.draw(st.integers(0, len(right) - 1))
    other = data.draw(st.integers(0, len(right) - 1))
    lost = right[:at] + right[at + 1 :]
    for wrong in (lost, [*right[:at], right[at], *right[at:]], [*lost[:other], right[at], *lost[other:]]):
        if wrong != right:
            with pytest.raises(BadAnswer):
                check(b"".join(wrong), 5)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"HTTP/1.1 503 Service Unavailable\r\n", "not a 200"),
        (HEAD.replace(b"text/event-stream", b"application/json") + b"{}", "no event stream"),
        (framed(events(3)[:-1]), r"does not end with \[DONE\]"),
        (framed(events(3, model="tiny")), "different answers or models"),
        (framed(events(3, completion=2)), "usage of 2"),
        (framed(events(4)), "6 chunks for 3 tokens"),
        (framed([*events(3)[:2], b'data: {"error":{"message":"died"}}\n\n', *events(3)[-3:]]), "not a chunk"),
        (framed([b": ping\n\n", *events(3)[1:]]), "not an event"),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(data: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer, match=reason):
        ChatStream(3).feed(data)


# The load


def engine() -> EngineConfig:
    return EngineConfig(model=MODEL, decode_step_seconds=0.001, reply_tokens=100)


def target_of(url: str) -> Target:
    return Target(int(url.rpartition(":")[2]), {})


async def until_stopped(load: Load) -> None:
    """Stops a load once it is warm, and waits for its last stream."""
    async with asyncio.timeout(BOUND_SECONDS), asyncio.TaskGroup() as group:
        group.create_task(load.run())
        await load.full.wait()
        await load.warm.wait()
        load.stop()


async def test_a_stream_that_ends_is_replaced_until_the_load_stops() -> None:
    async with serve_in_process(engine()) as url:
        load = Load(target_of(url), 4)
        await until_stopped(load)
    assert load.finished >= 8
    assert load.tokens >= 8 * load.finished
    assert (load.open, load.errors) == (0, {})


async def test_a_broken_stream_is_counted_with_its_reason_and_replaced() -> None:
    async with serve_in_process(engine()) as url:
        async with httpx2.AsyncClient(timeout=60.0, trust_env=False) as client:
            fault = {"kind": "die-mid-stream", "after_chunks": 3, "count": 2}
            (await client.post(f"{url}/fault", json=fault)).raise_for_status()
        load = Load(target_of(url), 4)
        await until_stopped(load)
    assert load.errors == {"BadAnswer: connection closed by the other side: end of file": 2}
    assert load.finished >= 8


async def test_a_load_that_only_fails_ends_by_itself() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    load = Load(Target(port, {}), MOST_ERRORS)
    await until_stopped(load)
    assert load.finished == 0
    assert sum(load.errors.values()) == MOST_ERRORS
    assert "ConnectionRefusedError" in next(iter(load.errors))


# What is left


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with running(streams=20, engines=2, step_seconds=STEP_SECONDS) as started:
        yield started


@pytest.fixture(scope="module")
def target(stack: Stack) -> Target:
    return Target(stack.gateway.port, stack.gateway.headers)


def test_a_stream_under_way_is_seen_in_the_engine_and_in_the_gateways_books(stack: Stack, target: Target) -> None:
    gone = leaks.held(stack)
    victim = Victim(next(target.requests(Scenario(1, chunks=LONGEST_REPLY))), target.port)
    victim.wait_until_streaming()
    found = "\n".join(leaks.held(stack))
    victim.close()
    assert gone == []
    assert f"engine {victim.endpoint}: vllm:num_requests_running 1" in found
    assert f"engine {victim.endpoint}: kv_used_blocks" in found
    for what in ("in_flight 1", "outstanding_tokens", "busy connections 1"):
        assert f"gateway: {victim.endpoint}: {what}" in found


def test_every_vanished_client_frees_its_slot_and_leaves_nothing(stack: Stack, target: Target) -> None:
    assert becomes(lambda: [line for line in leaks.held(stack) if not line.startswith("engines: ")] == [])
    before = sum(one.state()["aborted_total"] for one in stack.engines.values())
    kills = kill_all(stack, target, 4, random.Random(1))
    assert [one.how for one in kills] == [RST, FIN, RST, FIN]
    assert all(one.freed_ms is not None and 0 < one.freed_ms < GIVE_UP_SECONDS * 1000 for one in kills)
    assert all(one.poll_ms > 0 for one in kills)
    assert leaks.left_behind(stack, before + 4) == []
    assert leaks.held(stack, before) == [f"engines: {before + 4} requests aborted for {before} clients that left"]


def test_files_faults_and_log_lines_of_the_gateway_are_found(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = stack.gateway
    monkeypatch.setattr(leaks, "_SPARE_FILES", -1000)
    monkeypatch.setattr(gateway, "counter", lambda name: 3.0)
    monkeypatch.setattr(gateway, "trouble", lambda: ["x ERROR y: z"])
    files, faults, lines = leaks.of_process(stack, idle_connections=0)
    assert "file descriptors more than at the start" in files
    assert "3 internal errors" in faults
    assert lines.endswith("1 lines of trouble in its log, the first: x ERROR y: z")


def test_the_log_is_read_for_faults_and_not_for_news(tmp_path: Path, stack: Stack) -> None:
    assert stack.gateway.trouble() == []
    log = tmp_path / "log"
    wrong = ["t ERROR asyncio: Task exception was never retrieved", "Traceback (most recent call last):"]
    log.write_text("\n".join(["promptlane ready", *wrong, "t INFO promptlane.serve: no ERROR"]))
    gateway = type(stack.gateway)(1)
    gateway._log = log
    assert gateway.trouble() == wrong


def test_a_family_is_summed_over_its_children_and_not_over_longer_names() -> None:
    text = b'# HELP a x\na{b="1"} 2.0\na{b="2"} 1e1\na_bucket{b="1"} 5\n'
    assert (metric_sum(text, "a"), metric_sum(text, "c")) == (12.0, 0.0)


@pytest.mark.parametrize(("true_at", "expected"), [(3, 3.0), (10**9, None)])
def test_a_slot_is_timed_to_the_look_that_found_it_free_and_given_up_at_the_bound(
    true_at: int, expected: float | None
) -> None:
    looks = iter(range(1, 10**6))
    now = iter(float(second) for second in range(1, 10**6))
    seconds, count = seconds_until(lambda: next(looks) >= true_at, 0.0, lambda: next(now))
    assert seconds == expected
    assert count == (3 if expected else int(GIVE_UP_SECONDS) + 1)


# The verdict


def samples(mb_per_minute: float, seconds: int = 60) -> list[Sample]:
    return [Sample(float(at), 10, 100 + mb_per_minute * at / 60, 30, at / 2, at / 4, 0) for at in range(seconds + 1)]


def result(slope: float = 0.0, seconds: int = 60) -> Result:
    steady = samples(slope, seconds)
    kills = [Kill(RST, "bench-0", 2.0, 0.5), Kill(FIN, "bench-0", 4.0, 0.5)]
    return Result(10, seconds, 2, steady[0], steady, steady[-1], 50, 900, {}, [], kills)


@given(st.floats(-100, 100))
def test_the_slope_of_a_line_is_its_growth_a_minute(slope: float) -> None:
    assert slope_per_minute(samples(slope)) == pytest.approx(slope, abs=1e-6)
    assert cpu_percent(samples(slope), "gateway_cpu") == pytest.approx(50)


def test_growing_memory_fails_a_run_that_lasted_long_enough_to_tell() -> None:
    growth = FLAT_MB_PER_MINUTE * 1.1
    assert result(growth).failures() == [f"memory grows by {growth:.1f} MB a minute, over {FLAT_MB_PER_MINUTE:.0f}"]
    assert result(growth, seconds=30).failures() == []
    assert result(FLAT_MB_PER_MINUTE * 0.9).failures() == []


def test_whatever_failed_or_stayed_is_a_failure_and_a_slow_kill_is_not() -> None:
    run = result()
    run.kills = [Kill(RST, "bench-0", 150.0, 0.5), Kill(FIN, "bench-1", None, 0.5)]
    run.errors, run.left_after_load, run.left_after_kills = {"OSError: refused": 2}, ["a slot"], ["another"]
    assert run.failures() == [
        "2 x OSError: refused",
        "left behind by the load: a slot",
        f"FIN at bench-1: slot still taken after {GIVE_UP_SECONDS:.0f} s",
        "left behind by the kills: another",
    ]
    text = table(run)
    assert "2 failed" in text
    assert "1 clients gone by RST: slot free after p50 150.0 ms" in text
    assert "MISSED" in text
    assert "FIN: no slot was freed" in text
    assert "FAILED: 2 x OSError: refused" in text


def test_a_clean_run_says_so_and_its_json_holds_everything() -> None:
    assert table(result()).endswith("nothing failed, nothing was left behind")
    written = json.loads(json.dumps(as_json(result())))
    assert (written["failures"], len(written["steady"]), len(written["kills"])) == ([], 61, 2)


# The command


def test_too_few_allowed_files_are_said_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (1024, 4096))
    with pytest.raises(Failed, match="2,000 streams need 4,500 open files; `ulimit -Hn` allows 4,096"):
        soak.allow_files(2000)


def small(*more: str) -> list[str]:
    fast = ["--streams", "20", "--engines", "2", "--kills", "2", "--step-seconds", str(STEP_SECONDS)]
    return [sys.executable, "-m", "benchmarks.soak", *fast, *more]


def test_a_small_run_ends_well_and_writes_its_json(tmp_path: Path) -> None:
    command = small("--seconds", "1", "--json", str(tmp_path / "result.json"))
    done = subprocess.run(command, cwd=ROOT, timeout=240, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing failed" in done.stdout
    written = json.loads((tmp_path / "result.json").read_text())
    assert written["finished"] >= 40
    assert len(written["kills"]) == 2


def test_a_gateway_that_dies_fails_the_run(tmp_path: Path) -> None:
    with Child(small("--seconds", "60"), cores()[1], tmp_path / "log", env={"PYTHONPATH": str(ROOT)}) as run:
        assert becomes(lambda: b"watching" in (tmp_path / "log").read_bytes()), (tmp_path / "log").read_text()
        gateway = next(pid for pid in tree([run.pid]) if b"router.cli" in Path(f"/proc/{pid}/cmdline").read_bytes())
        started = [pid for pid in tree([run.pid]) if pid != run.pid]
        os.kill(gateway, signal.SIGKILL)
        assert run.wait(BOUND_SECONDS) == 1
        assert b"FAILED: the gateway ended by itself" in (tmp_path / "log").read_bytes()
        assert not any(map(alive, started))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_nothing_survives_an_interrupted_run(tmp_path: Path, end: signal.Signals) -> None:
    with Child(small("--seconds", "60"), cores()[1], tmp_path / "log", env={"PYTHONPATH": str(ROOT)}) as run:
        assert becomes(lambda: b"watching" in (tmp_path / "log").read_bytes()), (tmp_path / "log").read_text()
        started = [pid for pid in tree([run.pid]) if pid != run.pid]
        run.signal(end)
        assert run.wait(BOUND_SECONDS) == 130
        assert len(started) == 3  # two engines and the gateway
        assert not any(map(alive, started))
