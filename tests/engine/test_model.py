"""The scheduler on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.engine.cache import BlockHasher
from benchmarks.engine.cost import StepCost
from benchmarks.engine.model import EngineModel, Event, ModelConfig, Sequence

COST = StepCost(overhead=0.0, weights=1.0, token=0.01, attention=0.0, decode=0.0, context=0.0)
"""A decode step takes one second, a prefill of 100 tokens too: easy to count."""


def model(**fields: object) -> EngineModel:
    settings = {"kv_blocks": 1_000, "block_size": 16, "max_num_seqs": 8, "cost": COST, **fields}
    return EngineModel(ModelConfig(**settings))  # type: ignore[arg-type]


def sequence(name: str, ids: Iterable[int], output: int = 4, priority: int = 0) -> Sequence:
    tokens = list(ids)
    return Sequence(name, len(tokens), output, BlockHasher(16).extend(tokens), priority)


def finish_all(engine: EngineModel, now: float = 0.0) -> tuple[list[tuple[str, float]], list[Event]]:
    """Run until idle; who finished when, and all events."""
    finished, seen = [], []
    for _ in range(100_000):
        result = engine.step(now)
        if not result.tokens:
            return finished, seen
        now += result.duration
        seen.extend(result.events)
        finished += [(event.sequence.id, now) for event in result.events if event.last]
    raise AssertionError("the model never became idle")


def test_no_more_sequences_run_than_there_are_seats() -> None:
    engine = model(max_num_seqs=2)
    for name in "abcde":
        engine.submit(sequence(name, range(10)), 0.0)
    engine.step(0.0)
    assert (engine.running, engine.waiting) == (2, 3)
    finished, _ = finish_all(engine)
    assert [name for name, _ in finished] == list("abcde")


def test_lower_priority_values_go_first_and_equals_in_their_order_of_arrival() -> None:
    engine = model(max_num_seqs=1)
    for name, priority in (("a", 5), ("b", 0), ("c", 5), ("d", -1)):
        engine.submit(sequence(name, range(10), priority=priority), 0.0)
    finished, _ = finish_all(engine)
    assert [name for name, _ in finished] == ["d", "b", "a", "c"]


def test_a_cached_prefix_makes_the_prefill_shorter_by_its_whole_blocks() -> None:
    engine = model()
    first, again = sequence("first", range(1_000), output=1), sequence("again", range(1_000), output=1)
    engine.submit(first, 0.0)
    cold = engine.step(0.0)
    engine.submit(again, 0.0)
    warm = engine.step(0.0)
    assert cold.duration == pytest.approx(10.0)
    assert again.cached_tokens == 992
    assert warm.tokens == 8
    assert warm.duration == 1.0


def test_one_token_is_computed_even_when_the_whole_prompt_is_cached() -> None:
    engine = model()
    for name in ("first", "again"):
        engine.submit(sequence(name, range(64), output=1), 0.0)
        engine.step(0.0)
    engine.settle()
    late = sequence("late", range(64))
    engine.submit(late, 0.0)
    engine.step(0.0)
    assert late.cached_tokens == 48


def test_a_long_prompt_is_computed_in_chunks_beside_the_decodes() -> None:
    engine = model(token_budget=100)
    engine.submit(sequence("short", range(10), output=10), 0.0)
    engine.step(0.0)
    engine.submit(sequence("long", range(1_000, 1_250), output=1), 0.0)
    steps = [engine.step(0.0) for _ in range(3)]
    assert [result.tokens for result in steps] == [100, 100, 53]
    assert [[event.sequence.id for event in result.events] for result in steps] == [
        ["short"],
        ["short"],
        ["short", "long"],
    ]


def test_an_abort_frees_seat_and_blocks_at_once_even_during_a_step() -> None:
    engine = model(max_num_seqs=1)
    for name in "ab":
        engine.submit(sequence(name, range(100)), 0.0)
    engine.step(0.0)
    assert engine.abort("a")
    assert (engine.running, engine.cache.used) == (0, 0)
    assert not engine.abort("a")
    finished, _ = finish_all(engine)
    assert [name for name, _ in finished] == ["b"]


def test_an_aborted_sequence_that_waited_is_never_started() -> None:
    engine = model(max_num_seqs=1)
    for name in "abc":
        engine.submit(sequence(name, range(10)), 0.0)
    engine.abort("b")
    finished, _ = finish_all(engine)
    assert [name for name, _ in finished] == ["a", "c"]


def test_a_sequence_without_output_ends_with_its_prefill() -> None:
    engine = model()
    engine.submit(sequence("embedding", range(40), output=0), 0.0)
    _, seen = finish_all(engine)
    assert [(event.number, event.last) for event in seen] == [(-1, True)]
    assert engine.running == 0


def test_a_sequence_counts_as_running_until_its_last_step_is_over() -> None:
    engine = model()
    engine.submit(sequence("a", range(10), output=1), 0.0)
    assert engine.step(0.0).events[0].last
    assert engine.running == 1
    engine.settle()
    assert engine.running == 0


def test_what_can_never_fit_is_refused_at_the_door() -> None:
    engine = model(kv_blocks=4)
    with pytest.raises(ValueError, match="more blocks"):
        engine.submit(sequence("a", range(60), output=5), 0.0)


def test_without_blocks_the_last_in_order_gives_way_and_still_finishes() -> None:
    engine = model(kv_blocks=6)
    for name, start in (("a", 0), ("b", 100)):
        engine.submit(sequence(name, range(start, start + 40), output=40), 0.0)
    finished, _ = finish_all(engine)
    assert [name for name, _ in finished] == ["a", "b"]
    assert engine.cache.used == 0


def test_the_cost_of_a_step_follows_the_formula_and_scales_with_the_two_rates() -> None:
    cost = StepCost.scaled(prefill_tokens_per_second=10_000, decode_step_seconds=0.05)
    assert cost.seconds(prefill=0, pairs=0, decodes=1, context=0) == pytest.approx(0.05, rel=0.01)
    assert cost.seconds(4_000, 0, 0, 0) - cost.seconds(3_000, 0, 0, 0) == pytest.approx(0.1)
    assert StepCost().seconds(0, 0, 10, 1_000) == pytest.approx(2.5e-3 + 9.7e-3 + 10 * 20e-6 + 1_000 * 76e-9)


WORK = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 90), st.integers(0, 20), st.integers(-2, 2), st.booleans()), max_size=12
)


@settings(max_examples=80, deadline=None)
@given(WORK, st.integers(1, 4), st.integers(8, 20), st.integers(1, 64))
def test_every_sequence_gets_exactly_its_tokens_and_leaves_nothing_behind(
    work: list[tuple[int, int, int, int, bool]], seats: int, blocks: int, budget: int
) -> None:
    engine = model(max_num_seqs=seats, kv_blocks=blocks, token_budget=budget)
    wanted, aborted, seen = {}, set(), list[Event]()
    for number, (kind, prompt, output, priority, leaves) in enumerate(work):
        one = sequence(str(number), range(kind * 1_000, kind * 1_000 + prompt), output, priority)
        engine.submit(one, 0.0)
        wanted[one.id] = list(range(output)) or [-1]
        if leaves:
            seen.extend(engine.step(0.0).events)
            engine.abort(one.id)
            aborted.add(one.id)
        assert engine.running <= seats
        engine.cache.check([running.table for running in engine._running])
    seen += finish_all(engine)[1]
    got: dict[str, list[int]] = {}
    for event in seen:
        got.setdefault(event.sequence.id, []).append(event.number)
        one = event.sequence
        assert one.cached_tokens % 16 == 0
        assert one.cached_tokens < one.prompt_tokens
    for name, numbers in wanted.items():
        assert got.get(name, []) == (numbers[: len(got.get(name, []))] if name in aborted else numbers)
    assert engine.cache.used == engine.running == engine.waiting == 0


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 2), st.integers(1, 90), st.integers(0, 60), st.integers(-1, 1)),
    min_size=1,
    max_size=14,
)
Told = list[tuple[str, int, float]]


def replayed(engine: EngineModel, arrivals: list[tuple[int, Sequence]], leaps: bool) -> Told:
    """First tokens and ends with their times; who arrives during a step joins at its end."""
    told: Told = []
    coming, now = sorted(arrivals, key=lambda pair: pair[0]), 0.0
    for _ in range(100_000):
        while coming and coming[0][0] <= now:
            engine.submit(coming.pop(0)[1], now)
        ends = engine.decode_ends(now) if leaps else []
        if ends:
            due = coming[0][0] if coming else float("inf")
            steps = next((index for index, end in enumerate(ends) if end >= due), len(ends) - 1) + 1
            now = ends[steps - 1]
            told += [(one.id, one.output_tokens - 1, now) for one in engine.decode(steps)]
            continue
        result = engine.step(now)
        now += result.duration
        told += [(one.sequence.id, one.number, now) for one in result.events if one.last or one.number == 0]
        engine.settle()
        if not result.tokens:
            if not coming:
                return told
            now = float(coming[0][0])
    raise AssertionError("the model never became idle")


@settings(max_examples=200, deadline=None)
@given(ARRIVALS, st.integers(1, 4), st.integers(10, 24), st.integers(2, 64), st.booleans())
def test_decodes_done_many_steps_at_once_end_exactly_as_step_by_step(
    work: list[tuple[int, int, int, int, int]], seats: int, blocks: int, budget: int, whole: bool
) -> None:
    cost = StepCost(overhead=0.01, weights=0.1, token=0.01, attention=0.001, decode=0.003, context=0.0007)
    told, caches = [], []
    for leaps in (False, True):
        engine = model(
            max_num_seqs=seats, kv_blocks=blocks, token_budget=budget, whole_prompt_must_fit=whole, cost=cost
        )
        arrivals = [
            (at, sequence(str(number), range(kind * 1_000, kind * 1_000 + prompt), output, priority))
            for number, (at, kind, prompt, output, priority) in enumerate(work)
        ]
        told.append(replayed(engine, arrivals, leaps))
        caches.append((list(engine.cache._idle), engine.cache.evicted_total, engine.cache.used))
        caches[-1] += ([(one.cached_tokens, one.preemptions, one.computed) for _, one in arrivals],)
    assert told[0] == told[1]
    assert caches[0] == caches[1]


def test_nothing_is_foreseen_while_a_prompt_is_read_or_somebody_could_join() -> None:
    engine = model(token_budget=100)
    engine.submit(sequence("a", range(150), output=3), 0.0)
    assert engine.decode_ends(0.0) == []
    engine.step(0.0)
    assert engine.decode_ends(0.0) == []
    engine.step(0.0)
    assert engine.decode_ends(5.0) == [6.0, 7.0]
    engine.submit(sequence("b", range(10), output=1), 5.0)
    assert engine.decode_ends(5.0) == []


def test_a_prompt_that_must_fit_as_a_whole_waits_until_it_does_and_then_pushes_nobody_out() -> None:
    engine = model(kv_blocks=10, token_budget=32, whole_prompt_must_fit=True)
    first, second = sequence("first", range(96), output=2), sequence("second", range(200, 296), output=1)
    for one in (first, second):
        engine.submit(one, 0.0)
    engine.step(0.0)
    assert (engine.running, engine.waiting) == (1, 1)
    finished, _ = finish_all(engine)
    assert [name for name, _ in finished] == ["first", "second"]
    assert first.preemptions == second.preemptions == 0
