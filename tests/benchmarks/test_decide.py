"""What the benchmark of decisions decides on, and its table."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from benchmarks import decide as command
from benchmarks.decide_parts.measure import Figure, IdlePool, passes
from benchmarks.decide_parts.scenes import MOST_BLOCKS, Crowd, Prompts, make_states
from policies.gate import Gate
from policies.registry import compose, make_profile, prompt_aware


def crowd(waiting: int = 64, tenants: int = 4, *, room: bool = True) -> Crowd:
    full = compose("full", prompt_aware(Gate(kv_share=0.0)), Random(1))
    return Crowd(make_profile("prompt-aware", Random(1)) if room else full, 4, waiting, tenants, Random(1))


def test_prompts_are_of_every_length_and_partly_cached_at_full_endpoints() -> None:
    rng = Random(3)
    prompts = Prompts(rng, 4)
    states = make_states(prompts, rng)
    assert all(state.index.full for state in states)
    requests = [prompts.next() for _ in range(300)]
    lengths = sorted(len(request.prefix_blocks) for request in requests)
    assert lengths[0] <= 4
    assert lengths[-1] > MOST_BLOCKS // 2
    cached = [max(state.index.match(one.prefix_blocks) for state in states) for one in requests]
    assert 0.2 < sum(matched > 0 for matched in cached) / len(requests) < 1.0


def test_an_idle_pool_is_idle_again_after_each_request() -> None:
    rng = Random(3)
    prompts = Prompts(rng, 2)
    states = make_states(prompts, rng)
    idle = IdlePool(make_profile("prompt-aware", rng), states)
    for step in (idle.decide, idle.serve):
        for _ in range(30):
            step(prompts.next(20))
        assert [state.in_flight for state in states] == [0, 0]


def test_nobody_is_sent_while_all_gates_are_shut_and_somebody_when_one_opens() -> None:
    pool = crowd()
    assert pool.run_pass() == 0
    for state in pool.states:
        pool.open(state)
        sent = pool.run_pass()
        assert sent > 0
        pool.close(state)
        pool.refill()
        assert pool.run_pass() == 0


def test_where_nobody_fits_an_open_gate_sends_nobody() -> None:
    pool = crowd(room=False)
    pool.open(pool.states[0])
    assert pool.run_pass() == 0
    pool.forget()
    assert pool.run_pass() == 0


def test_a_shared_pool_has_as_many_waiting_as_asked_for() -> None:
    pool = crowd(200, 50)
    pool.turn_away()
    pool.turn_away()
    pool.refill()
    pool.open(pool.states[1])
    assert pool.run_pass() > 0


def test_every_situation_has_a_figure() -> None:
    names = [figure.name for figure in passes(2, 2, 10, 3)]
    assert len(names) == len(set(names)) == 5


def test_a_missed_goal_is_said_and_a_part_has_none() -> None:
    assert command.line(Figure("x", 8, 41.0, 40.0)).endswith("MISSED")
    assert not command.line(Figure("x", 8, 39.0, 40.0)).endswith("MISSED")
    assert not command.line(Figure("x", 8, 39.0)).endswith("MISSED")


def test_the_command_prints_and_writes_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert command.main(["--rounds", "1", "--endpoints", "2", "3", "--json", str(out)]) == 0
    figures = json.loads(out.read_text())["figures"]
    assert len(figures) == 2 * 5 + 2 * 5 + 2
    assert len(capsys.readouterr().out.splitlines()) == 1 + len(figures)
    assert {figure["endpoints"] for figure in figures} == {0, 2, 3}
