"""The conversations for real vLLM: what is said, when, the ideal cache, the verdict. No vLLM runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import real_vllm as command
from benchmarks.fleet_parts.answers import Answer
from benchmarks.fleet_parts.client import Exchange
from benchmarks.fleet_parts.figures import summarize
from benchmarks.fleet_parts.stack import Hits
from benchmarks.fleet_parts.watch import Look, load_of
from benchmarks.real_vllm_parts.conversations import Shape, Turn, ideal_hits, make_turns, needed_tokens
from benchmarks.real_vllm_parts.report import About, as_json, table, verdict
from benchmarks.real_vllm_parts.runs import Measured, placed, stayed

SHAPE = Shape(conversations=3, turns=4, shortest=200, longest=600)


def test_a_conversation_goes_on_from_its_own_turns_and_shares_nothing_with_others() -> None:
    turns = make_turns(SHAPE)
    assert turns == make_turns(SHAPE)
    assert turns != make_turns(replace(SHAPE, seed=2))
    for number in range(3):
        own = [turn for turn in turns if turn.conversation == number]
        assert [turn.turn for turn in own] == [0, 1, 2, 3]
        for before, after in pairwise(own):
            assert after.messages[: len(before.messages)] == before.messages
            assert after.at > before.at
            assert [message["role"] for message in after.messages[len(before.messages) :]] == ["assistant", "user"]
    assert len({turn.messages[0]["content"] for turn in turns}) == 3


def test_documents_have_the_lengths_that_were_asked_for() -> None:
    firsts = sorted(turn.about_tokens for turn in make_turns(SHAPE) if turn.turn == 0)
    assert 200 < firsts[0] < 360
    assert 600 < firsts[-1] < 760
    assert json.loads(make_turns(SHAPE)[0].body())["stream_options"] == {"include_usage": True}


@given(st.integers(1, 64), st.integers(1, 300), st.integers(0, 100))
def test_the_ideal_finds_whole_blocks_of_what_was_there_before_but_never_the_last_token(
    block: int, length: int, more: int
) -> None:
    first = list(range(length))
    found, total = ideal_hits([first, first + [9_999] * more], block)
    most = min(length, length + more - 1)
    assert (found, total) == (most // block * block, 2 * length + more)


def test_the_ideal_knows_prefixes_and_not_pieces() -> None:
    assert ideal_hits([[1, 2, 3, 4], [9, 9, 3, 4, 5]], 2) == (0, 9)


def test_what_all_need_is_the_longest_prompt_of_each() -> None:
    turns = [Turn(0, 0, 0.0, ()), Turn(1, 0, 1.0, ()), Turn(0, 1, 2.0, ())]
    assert needed_tokens(turns, [100, 70, 160]) == 230


def exchange(endpoint: str, ttft: float = 1.0) -> Exchange:
    return Exchange(0, 0.0, 0.0, Answer(200, ttft, 2.0, 100, 60, 5, endpoint))


def test_who_stayed_and_where_they_began() -> None:
    turns = [Turn(c, t, 0.0, ()) for t in range(3) for c in range(3)]
    where = ["a", "b", "a", "a", "a", "a", "b", "a", "a"]
    exchanges = [exchange(name) for name in where]
    assert stayed(turns, exchanges) == pytest.approx(4 / 6)
    assert placed(turns, exchanges) == (2, 1)
    assert stayed(turns[:3], exchanges[:3]) == 0.0


def test_hits_are_counted_since_the_caches_were_emptied() -> None:
    assert Hits(900.0, 500.0).since(Hits(400.0, 100.0)).ratio == 0.8
    assert Hits(0.0, 0.0).ratio == 0.0


ABOUT = About(8, 80, 300_000, 0.9, 38_000, 25_000, 2)


def run(profile: str, ttft: float, hits: float, others: float = 0.0) -> Measured:
    machine = load_of([Look(float(n), others * n, 0.0, 0.0, 0.0) for n in range(3)], [0.0], 2)
    return Measured(profile, hits, 1.0, (4, 4), summarize([exchange("a", ttft)], 1.0, 2), machine, ())


def test_the_goals_are_judged_over_all_rounds() -> None:
    runs = [run("prompt-aware", 0.4, 0.8), run("round-robin", 2.0, 0.4), run("prompt-aware", 0.6, 0.7)]
    found = verdict(ABOUT, runs)
    assert found.ttft_ratio == pytest.approx(0.25)
    assert found.hit_share == pytest.approx(0.75 / 0.9)
    text = table(ABOUT, runs)
    assert "mean TTFT of prompt-aware: 0.25 x round-robin (goal at most 0.4: met)" in text
    assert "hit ratio of prompt-aware: 0.83 x ideal (goal at least 0.8: met)" in text
    assert json.loads(json.dumps(as_json(ABOUT, runs)))["ttft_ratio"] == pytest.approx(0.25)


def test_a_missed_goal_is_called_missed_and_one_profile_alone_is_not_judged() -> None:
    text = table(ABOUT, [run("prompt-aware", 1.0, 0.5), run("round-robin", 2.0, 0.4)])
    assert text.count("MISSED") == 2
    assert verdict(ABOUT, [run("round-robin", 1.0, 0.5)]).lines() == []


def test_times_that_other_programs_made_are_called_no_result() -> None:
    runs = [run("prompt-aware", 1.0, 0.5, others=1.4), run("round-robin", 2.0, 0.4, others=0.1)]
    assert "NOISY: other programs took 140 % of a core from prompt-aware" in table(ABOUT, runs)
    assert [row["noisy"] for row in as_json(ABOUT, runs)["results"]] == [True, False]


@pytest.mark.parametrize("wrong", ["--profiles nearest", "--conversations 1", "--kv-tokens 10"])
def test_the_command_refuses_what_it_cannot_run(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.arguments(wrong.split())
    assert "argument" in capsys.readouterr().err
