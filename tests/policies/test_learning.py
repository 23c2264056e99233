"""Learned rates converge, on idle and on busy engines, whatever the prior; outliers and swaps are told apart.

The engine is the project's own model on a virtual clock: what it takes is known, so the belief can be judged.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.engine.cost import StepCost
from benchmarks.engine.model import ModelConfig
from benchmarks.replay_parts.fleet import Fleet
from benchmarks.replay_parts.trace import Job, Row, make_jobs
from policies.cost import Rates
from policies.learning import MAX_FLIGHTS, RateLearner
from policies.rate_model import PREFILL_BOUNDS, STEP_BOUNDS

PRIOR = Rates()


def engine_cost(slower: float) -> StepCost:
    cost = StepCost()
    return StepCost(
        overhead=cost.overhead * slower,
        weights=cost.weights * slower,
        token=cost.token * slower,
        attention=cost.attention * slower,
        decode=cost.decode * slower,
        context=cost.context * slower,
    )


def requests(
    seed: int, count: int, gap: float, median: int = 1500, spread: float = 1.0, shared: bool = False
) -> list[Row]:
    """Poisson arrivals, lognormal prompts, exponential answers. `shared`: most prompts begin with one of 4 prefixes."""
    rng, at, ids, rows = Random(seed), 0.0, 1_000, []
    for _ in range(count):
        prompt = min(60_000, max(20, round(rng.lognormvariate(0, spread) * median)))
        blocks = -(-prompt // 512)
        common = int(0.8 * blocks) if shared and rng.random() < 0.7 else 0
        first = 200 * rng.randrange(4)
        own = tuple(range(ids, ids + blocks - common))
        ids += len(own)
        rows.append(Row(at, prompt, max(1, round(rng.expovariate(1 / 150))), (*range(first, first + common), *own)))
        at += rng.expovariate(1 / gap)
    return rows


def at_load(
    cost: StepCost, load: float, median: int = 1500, spread: float = 1.0, shared: bool = False
) -> Callable[[int, int], list[Row]]:
    """Requests that keep the prefill of such an engine busy for the share `load` of the time."""

    def rows(seed: int, count: int) -> list[Row]:
        sample = requests(seed, count, 1.0, median, spread, shared)
        work = sum(cost.seconds(row.prompt, row.prompt**2 / 2, 0, 0) for row in sample) / count
        return requests(seed, count, work / load, median, spread, shared)

    return rows


class Watcher:
    """Sends all to one engine and tells the learner as the gateway would. `late`: the network's delay, there and back
    (seconds); `streams`: which answers are streamed; `cached`: tokens believed to be cached."""

    def __init__(
        self,
        fleet: Fleet,
        learner: RateLearner,
        began: float,
        late: float,
        reports: bool,
        streams: Callable[[Job], bool],
        cached: Callable[[Job], int],
    ) -> None:
        self._fleet = fleet
        self._learner = learner
        self._began = began
        self._late = late
        self._reports = reports
        self._streams = streams
        self._cached = cached

    def arrive(self, job: Job, now: float) -> None:
        cached = self._cached(job)
        self._learner.dispatched(job.number, job.prompt - cached, cached, self._streams(job), self._began + now)
        self._fleet.send(0, job)

    def first_token(self, job: Job, engine: int, now: float) -> None:
        if self._streams(job):
            self._learner.first_token(job.number, self._began + now + self._late)

    def finish(self, job: Job, engine: int, now: float) -> None:
        told = (job.prompt, self._fleet.log.cached[job.number]) if self._reports else (None, None)
        self._learner.finished(job.number, self._began + now + self._late, job.output, *told)


def watch(
    learner: RateLearner,
    cost: StepCost,
    rows: list[Row],
    *,
    began: float = 0.0,
    late: float = 0.0,
    reports: bool = True,
    streams: Callable[[Job], bool] = lambda job: True,
    cached: Callable[[Job], int] = lambda job: 0,
) -> float:
    """Returns when it was over."""
    fleet = Fleet(ModelConfig(cost=cost), 1)
    watcher = Watcher(fleet, learner, began, late, reports, streams, cached)
    fleet.run(watcher, make_jobs(rows, 512), [row.at for row in rows])
    return began + fleet.now


def prefill_error(rates: Rates, cost: StepCost, tokens: int) -> float:
    """Predicted by true seconds of a prompt's prefill."""
    true = cost.token * tokens + cost.attention * tokens * tokens / 2
    return (rates.prefill * tokens + rates.attention * tokens * tokens / 2) / true


def step_seconds(rates: Rates, requests: int, context: int) -> float:
    return rates.step + rates.decode * requests + rates.context * context


@pytest.mark.parametrize("load", [0.02, 0.5, 0.9, 3.0])
@pytest.mark.parametrize("slower", [0.1, 0.3, 1.0, 3.0, 10.0])
def test_fifty_requests_are_enough_whether_idle_or_overloaded_and_whatever_the_prior(
    slower: float, load: float
) -> None:
    cost, learner = engine_cost(slower), RateLearner()
    watch(learner, cost, at_load(cost, load)(3, 50))
    for tokens in (500, 2_000, 8_000):
        assert 0.75 < prefill_error(learner.rates, cost, tokens) < 1.25
    assert 0.4 < prefill_error(learner.rates, cost, 60_000) < 2.0  # six times the longest prompt seen


@pytest.mark.parametrize("load", [0.02, 0.5])
@pytest.mark.parametrize("slower", [0.1, 1.0, 10.0])
def test_the_time_of_a_decode_step_is_learned_at_any_concurrency(slower: float, load: float) -> None:
    cost, learner = engine_cost(slower), RateLearner()
    watch(learner, cost, at_load(cost, load)(3, 50))
    for decodes, context in ((1, 1_000), (8, 16_000)):
        true = cost.seconds(0, 0.0, decodes, context)
        assert step_seconds(learner.rates, decodes, context) == pytest.approx(true, rel=0.25)


def test_long_prompts_tell_attention_from_the_rest() -> None:
    cost = StepCost(attention=3 * StepCost().attention)
    learner = RateLearner()
    watch(learner, cost, at_load(cost, 0.3, median=6_000, spread=1.3)(5, 50))
    assert learner.rates.attention == pytest.approx(cost.attention, rel=0.3)
    assert learner.rates.prefill == pytest.approx(cost.token, rel=0.25)


@pytest.mark.parametrize("load", [0.1, 0.6, 0.95])
@pytest.mark.parametrize(("before", "after"), [(1.0, 5.0), (5.0, 1.0), (1.0, 0.2), (10.0, 1.0), (1.0, 2.0), (2.0, 1.0)])
def test_another_engine_at_the_same_address_is_known_within_fifty_requests(
    before: float, after: float, load: float
) -> None:
    learner = RateLearner()
    over = watch(learner, engine_cost(before), at_load(engine_cost(before), load)(1, 120))
    cost = engine_cost(after)
    watch(learner, cost, at_load(cost, load)(2, 50), began=over + 10)
    for tokens in (500, 2_000, 8_000):
        assert 0.7 < prefill_error(learner.rates, cost, tokens) < 1.3


def test_a_pause_of_the_engine_teaches_nothing() -> None:
    learner, now = RateLearner(), 0.0
    for key in range(100):
        learner.dispatched(key, 2_000, 0, True, now)
        now += 0.15 if key % 10 else 30.0
        learner.first_token(key, now)
        learner.finished(key, now + 1.3, 100, 2_000, 0)
        now += 1.3
    assert learner.rates.prefill == pytest.approx((0.15 - 0.012) / 2_000, rel=0.15)
    assert learner.snapshot().jumps == 0


def test_what_piled_up_behind_a_pause_counts_once() -> None:
    cost, learner = StepCost(), RateLearner()
    over = watch(learner, cost, at_load(cost, 0.3)(1, 60))
    known = learner.rates
    for key in range(1_000, 1_030):
        learner.dispatched(key, 2_000, 0, True, over)
    for key in range(1_000, 1_030):
        learner.first_token(key, over + 30.0 + key % 10 * 1e-4)
        learner.left(key, over + 31.0)
    assert prefill_error(learner.rates, cost, 2_000) == pytest.approx(prefill_error(known, cost, 2_000), rel=0.1)


@pytest.mark.parametrize("reports", [True, False])
@pytest.mark.parametrize("slower", [1.0, 10.0])
def test_phantom_hits_do_not_make_an_engine_look_slow(slower: float, reports: bool) -> None:
    """A third of the prompts are believed to be cached and are not: told afterwards or never."""
    cost, learner, rng = engine_cost(slower), RateLearner(), Random(1)
    rows = at_load(cost, 0.3, median=6_000)(5, 100)
    watch(learner, cost, rows, reports=reports, cached=lambda job: int(0.95 * job.prompt) if rng.random() < 0.3 else 0)
    assert 0.7 < prefill_error(learner.rates, cost, 4_000) < (1.25 if reports else 1.6)


@pytest.mark.parametrize("reports", [True, False])
def test_cached_prompts_teach_as_others_do(reports: bool) -> None:
    cost, learner, seen = StepCost(), RateLearner(), set[int]()

    def believed(job: Job) -> int:
        hits = 0
        while hits < len(job.blocks) and job.blocks[hits] in seen:
            hits += 1
        seen.update(job.blocks)
        return min(512 * hits, job.prompt - 1)

    rows = at_load(cost, 0.3, median=6_000, shared=True)(5, 100)
    watch(learner, cost, rows, reports=reports, cached=believed)
    assert 0.7 < prefill_error(learner.rates, cost, 4_000) < 1.4


def test_unforeseen_hits_do_not_make_an_engine_look_fast_once_it_reports_them() -> None:
    cost, learner = StepCost(), RateLearner()
    watch(learner, cost, at_load(cost, 0.3, median=6_000, shared=True)(5, 100))
    assert 0.75 < prefill_error(learner.rates, cost, 4_000) < 1.25


@pytest.mark.parametrize("slower", [0.1, 1.0, 10.0])
def test_tiny_prompts_leave_prefill_rates_in_proportion_to_what_is_known(slower: float) -> None:
    cost, learner = engine_cost(slower), RateLearner()
    watch(learner, cost, at_load(cost, 0.02, median=30, spread=0.5)(5, 200))
    assert 0.5 < prefill_error(learner.rates, cost, 2_000) < 2.0
    assert learner.snapshot().overhead == pytest.approx(cost.overhead + cost.weights, rel=0.3)


def test_tiny_prompts_behind_a_slow_network_are_not_taken_for_slow_prefills() -> None:
    cost, learner = StepCost(), RateLearner()
    watch(learner, cost, at_load(cost, 0.02, median=30, spread=0.5)(5, 100), late=0.1)
    assert learner.rates.prefill == pytest.approx(PRIOR.prefill, rel=0.1)
    assert learner.snapshot().overhead > 0.06


@pytest.mark.parametrize(("late", "most"), [(0.005, 1.1), (0.1, 1.35), (0.3, 2.5)])
def test_a_slow_network_is_mostly_told_from_a_slow_engine(late: float, most: float) -> None:
    cost, learner = StepCost(), RateLearner()
    watch(learner, cost, at_load(cost, 0.3)(5, 100), late=late)
    assert 0.75 < prefill_error(learner.rates, cost, 2_000) < most


@pytest.mark.parametrize("load", [0.1, 0.7])
@pytest.mark.parametrize("slower", [0.1, 1.0, 10.0])
def test_answers_in_one_piece_between_streams_do_not_disturb(slower: float, load: float) -> None:
    cost, learner = engine_cost(slower), RateLearner()
    watch(learner, cost, at_load(cost, load)(5, 100), streams=lambda job: job.number % 2 == 0)
    assert 0.6 < prefill_error(learner.rates, cost, 2_000) < 2.0


@pytest.mark.parametrize("load", [0.05, 0.5])
@pytest.mark.parametrize("slower", [0.1, 1.0, 10.0])
def test_answers_in_one_piece_alone_tell_what_kind_of_engine_it_is(slower: float, load: float) -> None:
    cost, learner = engine_cost(slower), RateLearner()
    watch(learner, cost, at_load(cost, load)(5, 100), streams=lambda job: False)
    assert 0.4 < prefill_error(learner.rates, cost, 2_000) < 2.5


def test_embeddings_are_prefills_whose_end_is_seen() -> None:
    cost, learner, now = engine_cost(3.0), RateLearner(), 0.0
    for key in range(30):
        tokens = 400 + 137 * key % 3_000
        learner.dispatched(key, tokens, 0, True, now)
        now += cost.seconds(tokens, tokens * tokens / 2, 0, 0)
        learner.finished(key, now, 0)
        now += 0.5
    assert prefill_error(learner.rates, cost, 1_000) == pytest.approx(1.0, rel=0.2)


def test_work_that_was_cut_short_is_not_learned_from() -> None:
    learner = RateLearner()
    for key in range(0, 100, 2):
        learner.dispatched(key, 50_000, 0, True, float(key))
        learner.dispatched(key + 1, 1_000, 0, True, float(key))
        learner.left(key, key + 0.01)
        learner.first_token(key + 1, key + 0.08)
        learner.left(key + 1, key + 0.5)
    assert learner.rates == PRIOR
    assert learner.snapshot().samples == 0


def test_a_stream_that_ends_without_a_first_token_teaches_nothing() -> None:
    learner = RateLearner()
    for key in range(50):
        learner.dispatched(key, 1_000, 0, True, float(key))
        learner.finished(key, key + 0.9, None)
    assert learner.rates == PRIOR


def test_the_rates_stay_the_same_object_while_nothing_changes_much() -> None:
    cost, learner = StepCost(), RateLearner()
    over = watch(learner, cost, at_load(cost, 0.02)(1, 100))
    known = learner.rates
    watch(learner, cost, at_load(cost, 0.02)(1, 1), began=over)
    assert learner.rates is known


def test_the_snapshot_tells_what_was_seen() -> None:
    cost, learner = StepCost(), RateLearner()
    assert learner.snapshot().ratio is None
    watch(learner, cost, at_load(cost, 0.05)(1, 60))
    snapshot = learner.snapshot()
    assert snapshot.samples > 30
    assert snapshot.decode_samples > 30
    assert (snapshot.prefill, snapshot.attention) == (learner.rates.prefill, learner.rates.attention)
    assert snapshot.decode_step == pytest.approx(cost.seconds(0, 0.0, 1, 0), rel=0.1)
    assert snapshot.ratio == pytest.approx(1.0, rel=0.5)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["dispatched", "whole", "first", "finished", "left"]),
        st.integers(0, 5),
        st.floats(0, 100),
        st.integers(0, 100_000),
        st.none() | st.integers(0, 100_000),
    ),
    max_size=150,
)


@settings(max_examples=200)
@given(EVENTS, st.floats(1e-6, 1e-3))
def test_no_history_whatsoever_drives_the_rates_out_of_bounds(
    events: list[tuple[str, int, float, int, int | None]], prefill: float
) -> None:
    prior = Rates(prefill, prefill / 20_000)
    learner, now = RateLearner(prior), 0.0
    for kind, key, passed, tokens, more in events:
        now += passed
        if kind in ("dispatched", "whole"):
            learner.dispatched(key, tokens, more or 0, kind == "dispatched", now)
        elif kind == "first":
            learner.first_token(key, now)
        elif kind == "finished":
            learner.finished(key, now, more, tokens, more)
        else:
            learner.left(key, now)
        rates = learner.rates
        assert PREFILL_BOUNDS[0] <= rates.prefill <= PREFILL_BOUNDS[1] * (1 + 1e-9)
        assert 0 <= rates.attention <= 10.1 * rates.prefill / 20_000
        assert 0 < rates.step <= max(STEP_BOUNDS[1], prior.step * 1_500)
        assert min(rates.decode, rates.context) >= 0


def test_a_caller_that_never_tells_of_ends_does_not_fill_the_memory() -> None:
    learner = RateLearner()
    for key in range(MAX_FLIGHTS + 500):
        learner.dispatched(key, 100, 0, key % 2 == 0, 0.001 * key)
    assert len(learner) == MAX_FLIGHTS
    for key in range(MAX_FLIGHTS + 500):
        learner.left(key, 100.0)
    assert len(learner) == 0
