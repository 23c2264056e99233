"""Every picker ranks all candidates; ties, turns and chance follow their rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.decision import Candidate
from policies.interface import Picker
from policies.pickers import MAX_CREDITS, LowestCost, RandomPicker, RoundRobin
from tests.policies.builders import make_candidate, make_request, rng

COSTS = st.lists(st.floats(0.0, 100.0), min_size=1, max_size=12)


def picked(
    picker: Picker, candidates: Sequence[Candidate], blocks: tuple[int, ...] = (1, 2), id: str = "r"
) -> list[str]:
    ranked = picker.pick(make_request(id, blocks=blocks), candidates)
    return [candidate.state.endpoint.name for candidate in ranked]


@given(COSTS, st.sampled_from(["lowest", "round", "random"]))
def test_every_candidate_is_ranked_exactly_once(costs: list[float], which: str) -> None:
    pickers: dict[str, Picker] = {"lowest": LowestCost(), "round": RoundRobin(), "random": RandomPicker(rng())}
    candidates = [make_candidate(f"e{number}", cost) for number, cost in enumerate(costs)]
    ranked = pickers[which].pick(make_request(), candidates)
    assert sorted(ranked, key=id) == sorted(candidates, key=id)


@given(COSTS)
def test_the_first_is_within_the_tie_of_the_lowest_and_the_rest_ascend(costs: list[float]) -> None:
    candidates = [make_candidate(f"e{number}", cost) for number, cost in enumerate(costs)]
    ranked = LowestCost(0.001).pick(make_request(), candidates)
    assert ranked[0].cost <= min(costs) + 0.001
    beyond = [one.cost for one in ranked if one.cost > min(costs) + 0.001]
    assert beyond == sorted(beyond)
    assert [one.cost for one in ranked][len(ranked) - len(beyond) :] == beyond


def test_a_difference_above_the_tie_decides() -> None:
    candidates = [make_candidate("slow", 0.0021), make_candidate("fast", 0.001)]
    for block in range(20):
        assert picked(LowestCost(), candidates, (1, block)) == ["fast", "slow"]


def test_a_tie_sends_one_prefix_to_one_endpoint_and_different_prefixes_to_all() -> None:
    candidates = [make_candidate(f"e{number}", number * 1e-5) for number in range(4)]
    firsts = Counter(picked(LowestCost(), candidates, (1, block))[0] for block in range(400))
    assert len(firsts) == 4
    assert min(firsts.values()) > 50
    assert picked(LowestCost(), candidates, (1, 5, 6)) == picked(LowestCost(), candidates, (1, 5, 99))


def test_a_lost_endpoint_moves_only_the_prefixes_that_were_there() -> None:
    candidates = [make_candidate(f"e{number}") for number in range(4)]
    for block in range(50):
        before = picked(LowestCost(), candidates, (1, block))
        after = picked(LowestCost(), candidates[:3], (1, block))
        assert after == [name for name in before if name != "e3"]


def test_prompts_shorter_than_a_block_are_spread_by_request() -> None:
    candidates = [make_candidate(f"e{number}") for number in range(4)]
    assert len({picked(LowestCost(), candidates, (), id=f"r{number}")[0] for number in range(50)}) == 4
    assert len({picked(LowestCost(), candidates, (block,))[0] for block in range(50)}) == 4


def test_round_robin_takes_turns_in_the_configured_order() -> None:
    picker, candidates = RoundRobin(), [make_candidate(name) for name in "abc"]
    assert [picked(picker, candidates)[0] for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


def test_round_robin_gives_weight_its_share_without_bunching() -> None:
    picker, candidates = RoundRobin(), [make_candidate("a", weight=3.0), make_candidate("b"), make_candidate("c")]
    turns = [picked(picker, candidates)[0] for _ in range(10)]
    assert Counter(turns) == {"a": 6, "b": 2, "c": 2}
    assert all("aaa" not in "".join(turns)[start : start + 3] for start in range(8))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 8))
def test_round_robin_is_exact_over_every_full_turn(weights: list[int], turns: int) -> None:
    picker = RoundRobin()
    candidates = [make_candidate(f"e{number}", weight=float(weight)) for number, weight in enumerate(weights)]
    counts = Counter(picked(picker, candidates)[0] for _ in range(sum(weights) * turns))
    assert counts == {f"e{number}": weight * turns for number, weight in enumerate(weights)}


def test_round_robin_goes_on_when_an_endpoint_leaves_and_returns() -> None:
    picker, candidates = RoundRobin(), [make_candidate(name) for name in "abc"]
    for _ in range(4):
        picked(picker, candidates[:2])
    counts = Counter(picked(picker, candidates)[0] for _ in range(30))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_round_robin_forgets_names_beyond_its_bound() -> None:
    picker = RoundRobin()
    for number in range(MAX_CREDITS + 10):
        picked(picker, [make_candidate(f"e{number}")])
    assert len(picker._credits) <= MAX_CREDITS + 1


def test_random_picks_follow_the_weights() -> None:
    picker, candidates = RandomPicker(rng()), [make_candidate("a", weight=3.0), make_candidate("b")]
    share = sum(picked(picker, candidates)[0] == "a" for _ in range(2000)) / 2000
    assert share == pytest.approx(0.75, abs=0.04)


def test_the_same_seed_picks_the_same() -> None:
    candidates = [make_candidate(name) for name in "abcd"]
    one, two = RandomPicker(rng(3)), RandomPicker(rng(3))
    assert [picked(one, candidates) for _ in range(5)] == [picked(two, candidates) for _ in range(5)]
